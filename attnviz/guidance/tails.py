"""What is trained of a network, and the frozen part before it computed once an image.

Fine-tuning all of a pretrained network on a few hundred images gives it the room to learn them by
their context; the tail, the last stage and the classifier, has room enough for guidance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry import size_of
from ..hooks import preserved
from ..models.outputs import logits_of
from .survey import read

TRAINED = ("tail", "all", "head")
#: share of all parameters from which on a module is the network itself, and no stage of it
MOST = 0.9
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def trained_names(model: nn.Module, train: str, layer: str, example: Tensor) -> list[str]:
    """Return the names of the parameters that are trained.

    Args:
        model: the network.
        train: "all"; "head", the last linear layer; or "tail": what runs from the stage of the
            map's layer on. Of a layer that is nearly all of the network its last stage counts, one
            inside a block brings the block, and a norm the convolution before it.
        layer: dotted name of the map's layer.
        example: (B, C, H, W), to see the order in which modules run.
    """
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    if train == "all":
        return names
    ran = _order(model, example)
    linear = [n for n in ran if isinstance(model.get_submodule(n), nn.Linear)]
    if train == "head":
        return [n for n in names if linear and n.rpartition(".")[0] == linear[-1]]
    layer = _last_stage(model, layer)
    inside = [i for i, n in enumerate(ran) if n == layer or n.startswith(f"{layer}.")]
    if not inside:  # a layer without parameters: what feeds it
        return names
    first = inside[0]
    if ran[first] == layer:
        parent = layer.rpartition(".")[0]
        if parent and _share(model, parent) <= MOST:
            first = next(i for i, n in enumerate(ran) if n.startswith(f"{parent}."))
        else:
            while first and isinstance(model.get_submodule(ran[first]), _NORMS):
                first -= 1
    kept = set(ran[first:])
    return [n for n in names if n.rpartition(".")[0] in kept]


def _last_stage(model: nn.Module, layer: str) -> str:
    """Go down from a layer that holds nearly everything to its last child that holds anything."""
    while _share(model, layer) > MOST:
        children = [f"{layer}.{n}" for n, _ in model.get_submodule(layer).named_children()]
        large = [n for n in children if _share(model, n) > 0.01]
        if len(children) < 2 or not large:
            break
        layer = large[-1]
    return layer


def _share(model: nn.Module, name: str) -> float:
    """Share of a network's parameters that a module holds."""
    total = sum(p.numel() for p in model.parameters())
    return sum(p.numel() for p in model.get_submodule(name).parameters()) / total


def _order(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the modules with parameters of their own, in the order in which they first run."""
    order: dict[str, None] = {}
    handles = [
        m.register_forward_pre_hook(lambda _m, _i, n=name: order.setdefault(n))
        for name, m in model.named_modules()
        if next(m.parameters(recurse=False), None) is not None
    ]
    try:
        with preserved(model), torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


class _PrefixDone(Exception):
    """The prefix has run."""


class Prefix:
    """The frozen part of a network, and the rest as a module that takes its features.

    Attributes:
        rest: features -> what the network gives; its parameters are the network's own.
    """

    def __init__(self, model: nn.Module, boundary: str, rest: nn.Module) -> None:
        self.model, self.boundary, self.rest = model, boundary, rest

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images, in evaluation mode."""
        return _input_of(self.model, self.boundary, images)


def divide(model: nn.Module, example: Tensor) -> Prefix | None:
    """Return the frozen prefix of a network, None where it cannot be cut off.

    It can where the modules before the first trained one follow each other, and what they give is
    all that the rest needs; that is tried out, on the example, and not assumed.
    """
    found = _boundary(model, "", example)
    if found is None or not found[1]:
        return None
    boundary, before = found
    memo: dict[int, Any] = {id(model.get_submodule(n)): nn.Identity() for n in before}
    kept = {
        id(m): m
        for name, m in model.named_modules()
        if name and any(p.requires_grad for p in m.parameters())
        and not any(b == name or b.startswith(f"{name}.") for b in before)
        and not any(name.startswith(f"{b}.") for b in before)
    }  # fmt: skip
    try:
        rest = copy.deepcopy(model, {**kept, **memo})
        with preserved(model), torch.no_grad():
            model.eval()
            rest.eval()
            features = _input_of(model, boundary, example)
            whole, parts = logits_of(model(example)), logits_of(rest(features))
    except Exception:
        return None
    shared = {id(p) for p in rest.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    if any(id(p) not in shared for p in trained):
        return None
    if whole.shape != parts.shape or not torch.allclose(whole, parts, rtol=1e-4, atol=1e-5):
        return None
    return Prefix(model, boundary, rest)


def _boundary(model: nn.Module, path: str, example: Tensor) -> tuple[str, list[str]] | None:
    """The first module with something to train, and those that ran before it."""
    module = model.get_submodule(path) if path else model
    children = {f"{path}.{n}" if path else n: m for n, m in module.named_children()}
    names = {m: name for name, m in children.items()}
    ran: list[str] = []

    def note(module: nn.Module, _inputs: Any) -> None:
        ran.append(names[module])

    handles = [m.register_forward_pre_hook(note) for m in names]
    try:
        with preserved(model), torch.no_grad():
            model.eval()(example)
    except _PrefixDone:  # a network that stops on its way, as ACoL's trunk
        pass
    finally:
        for handle in handles:
            handle.remove()
    before: list[str] = []
    for name in ran:
        child = model.get_submodule(name)
        if not any(p.requires_grad for p in child.parameters()):
            before.append(name)
            continue
        own = any(p.requires_grad for p in child.parameters(recurse=False))
        inner = None if own else _boundary(model, name, example)
        if inner is not None and inner[1]:
            return inner[0], before + inner[1]
        return name, before
    return None


def _input_of(model: nn.Module, name: str, images: Tensor) -> Tensor:
    found: list[Tensor] = []

    def stop(_module: nn.Module, inputs: Any) -> None:
        found.append(inputs[0])
        raise _PrefixDone

    handle = model.get_submodule(name).register_forward_pre_hook(stop)
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        model(images)
    except _PrefixDone:
        pass
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return found[0]


class Features:
    """A dataset's examples as the prefix sees them, each computed when it is first asked for.

    Args:
        data: with `example(i, mirrored=)`, which returns the same each time.
        prefix: images -> features.
        flip: mirror at random.
        device: of the prefix; features are kept on the CPU.
    """

    def __init__(
        self, data: Any, prefix: Callable[[Tensor], Tensor], flip: bool, device: torch.device
    ) -> None:
        self.data, self.prefix, self.flip, self.device = data, prefix, flip, device
        self.kept: dict[tuple[int, bool], tuple[Tensor, int, Any]] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Tensor, int, Any]:
        return self.example(i, mirrored=self.flip and bool(torch.rand(()) < 0.5))

    def example(self, i: int, *, mirrored: bool = False) -> tuple[Tensor, int, Any]:
        """Return (features (C, h, w), label, annotation on their grid)."""
        key = (i, mirrored)
        if key not in self.kept:
            one = read(_Turned(self.data, mirrored), [i])
            features = self.prefix(one.images.to(self.device)).cpu()
            where = None
            if bool(one.annotation.present[0]):
                size = size_of(features)
                where = {"mask": F.adaptive_avg_pool2d(one.annotation.target, size)[0]}
            self.kept[key] = (features[0].clone(), int(one.labels[0]), where)
        return self.kept[key]


class _Turned:
    def __init__(self, data: Any, mirrored: bool) -> None:
        self.data, self.mirrored = data, mirrored

    def example(self, i: int) -> Any:
        return self.data.example(i, mirrored=self.mirrored)
