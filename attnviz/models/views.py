"""Views of a sample that a model folds into its batch: frames, crops, slices, patches of a bag."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from ..hooks.outputs import pick, split
from ..hooks.preserve import preserved
from ..hooks.threads import own_thread


def views_of(module: nn.Module, inputs: Any, names: Iterable[str]) -> dict[str, int]:
    """Return the number of views in a layer's batch, for layers that see one view a row.

    Found by running the model: of inputs (B, V, C, H, W) one view is changed, and then another;
    a layer sees views where row `sample * V + view` of its output changes, and no other.

    Args:
        module: the model; it is left as it was.
        inputs: the batch.
        names: dotted names of layers.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 5 or inputs.shape[1] < 2:
        return {}
    parts, views, few = dict(module.named_modules()), inputs.shape[1], inputs[:2].detach()

    def run(batch: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def read(name: str, output: Any) -> None:
            try:
                found[name] = pick(output, name)[0].detach().clone()
            except CaptureError:
                found.pop(name, None)

        with ExitStack() as stack:
            for name in names:
                hook = own_thread(lambda _, inputs, output, name=name: read(name, output))
                stack.callback(parts[split(name)[0]].register_forward_hook(hook).remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(preserved(module, eval_mode=True))
            module(batch)
        return found

    plain, changed = run(few), []
    for sample, view in ((0, views - 1), (len(few) - 1, 0)):
        batch = few.clone()
        batch[sample, view] = batch[sample, view].flip(-1) + 1
        changed.append((sample * views + view, run(batch)))
    return {
        name: views
        for name, before in plain.items()
        if len(before) == len(few) * views
        and all(
            (after[name] != before).flatten(1).any(1).nonzero()[:, 0].tolist() == [row]
            for row, after in changed
        )
    }
