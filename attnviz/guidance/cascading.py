"""The cascade as a way to train: what the last training saw is erased, and the label stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..erasing import cascade, erase
from ..errors import DataError
from .batches import is_map_style
from .config import GuideConfig
from .survey import read


def cascaded(
    model: nn.Module, data: Any, config: GuideConfig, train: Callable[..., Any]
) -> tuple[Any, GuideConfig]:
    """Return the data with erased copies beside it, and settings for a training on both.

    Each round trains a copy of the model on labels, erases what it looks at, and trains the next
    (Wei et al. 2017, arXiv:1703.08448). The regions of all rounds, united, are erased with the
    label kept, so that one network learns all that the rounds found. Differs from the paper, which
    takes the united regions as labels of pixels.

    Raises:
        DataError: a stream, which the rounds cannot go through again.
    """
    if not is_map_style(data):
        raise DataError("erasing='cascade' trains several times: give a dataset that has a length")
    whole = [read(data, [i], degenerate=config.degenerate) for i in range(len(data))]
    images = torch.cat([b.images for b in whole])
    labels = torch.cat([b.labels for b in whole])
    device = next(model.parameters()).device
    options = dict(config.erasing_options)
    plain = replace(config, erasing=None, erasing_options={}, loss="none", loss_options={})
    plain = replace(plain, exchange=False)

    def one_round(x: Tensor, y: Tensor) -> nn.Module:
        fresh = copy.deepcopy(model)
        return train(fresh, list(zip(x.cpu(), y.tolist(), strict=True)), config=plain).model

    layer = config.layer[0] if isinstance(config.layer, tuple | list) else config.layer
    found = cascade(one_round, images.to(device), labels.to(device), layer=layer, **options)
    fill = options.get("fill", "mean")
    erased = erase(images, found.union.cpu().to(images), fill=fill)
    return _Both(data, erased, labels), replace(config, erasing=None, erasing_options={})


class _Both:
    """Examples, and after them the erased ones, without annotation."""

    def __init__(self, data: Any, erased: Tensor, labels: Tensor) -> None:
        self.data, self.erased, self.labels = data, erased, labels
        self.flip = bool(getattr(data, "flip", False))
        self.absent = getattr(data, "absent", frozenset())

    def __len__(self) -> int:
        return len(self.data) + len(self.erased)

    def __getitem__(self, i: int) -> Any:
        if i < len(self.data):
            return self.data[i]
        image = self.erased[i - len(self.data)]
        mirrored = self.flip and bool(torch.rand(()) < 0.5)
        return image.flip(-1) if mirrored else image, int(self.labels[i - len(self.data)])
