"""Hugging Face: `output_attentions=True` under fused attention, for those who ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AttentionUnavailable, EnvironmentFault
from .tap._mode import TapMode
from .tap._record import Recorder

#: the name under which the implementation is registered in transformers
IMPLEMENTATION = "attnviz_sdpa"


def register() -> str:
    """Register an attention implementation that is sdpa and also hands out its weights.

    It enters transformers' tables of attention and of mask functions under a name of its own
    (with sdpa's mask function: without one, masks would be dropped in silence); nothing that is
    there changes. Load a model with it, `from_pretrained(..., attn_implementation=register())`,
    or switch one for a while with `output_attentions`.

    Returns:
        The name, "attnviz_sdpa".

    Raises:
        EnvironmentFault: transformers is missing or too old.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise EnvironmentFault(
            "transformers with AttentionInterface is needed (4.53 or newer): "
            "pip install 'attnviz[hf]'"
        ) from error
    AttentionInterface.register(IMPLEMENTATION, _forward)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    return IMPLEMENTATION


@contextmanager
def output_attentions(model: nn.Module) -> Iterator[nn.Module]:
    """Let a Hugging Face model that runs sdpa answer `output_attentions=True` inside the block.

    The weights are computed beside the fused kernel (each layer's matrix is formed, since it is
    asked for), so the output is that of sdpa to the bit. Afterwards the model has the
    implementation it had.

    Example:
        >>> with attnviz.attention.hf.output_attentions(model):  # doctest: +SKIP
        ...     found = model(**inputs, output_attentions=True).attentions

    Raises:
        AttentionUnavailable: not a Hugging Face model, or one without exchangeable attention.
    """
    switch = getattr(model, "set_attn_implementation", None)
    if switch is None:
        raise AttentionUnavailable(
            f"{type(model).__name__} is no Hugging Face model with exchangeable attention; use "
            "attnviz.attention.tap(model)"
        )
    configs = [c for m in model.modules() if (c := getattr(m, "config", None)) is not None]
    before = {id(c): (c, c._attn_implementation) for c in configs}
    try:
        switch(register())
    except ValueError as error:
        raise AttentionUnavailable(
            f"{type(model).__name__} does not let its attention be exchanged ({error}); use "
            "attnviz.attention.tap(model), or attn_implementation='eager'"
        ) from error
    try:
        yield model
    finally:
        for config, name in before.values():
            # the setter checks names against what the class supports; what was there stays right
            config._attn_implementation_internal = name


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention by the fused kernel, and its weights (B, H, Q, K)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    kwargs.pop("output_attentions", None)  # sdpa only warns about it
    recorder = Recorder(None, frozenset({"q", "k"}), torch.is_grad_enabled(), False)
    with TapMode(recorder):
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    recorder.release()
    if not recorder.sites:
        return output, None
    return output, recorder.sites[-1].weights().to(query.dtype)
