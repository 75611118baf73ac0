"""What a user hands over to be explained: photos, batches, samples, loaders, several inputs."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from .errors import AttnvizError, CaptureError, ImageError
from .hooks.capture import CHECKPOINTED
from .images import find_images

#: a batch for the model: one tensor, several as positional arguments, or keyword arguments
Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """Inputs that are preprocessed already.

    Attributes:
        inputs: for all samples.
        count: number of samples.
    """

    inputs: Inputs
    count: int

    def part(self, start: int, stop: int, device: torch.device | None = None) -> Inputs:
        """Return the inputs of samples start to stop, on a device (None: where they are)."""

        def cut(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            rows = value[start:stop] if value.ndim and len(value) == self.count else value
            return rows if device is None else rows.to(device)

        if isinstance(self.inputs, Mapping):
            return {name: cut(value) for name, value in self.inputs.items()}
        if isinstance(self.inputs, tuple):
            return tuple(cut(value) for value in self.inputs)
        return cut(self.inputs)


def gather(images: Any, module: nn.Module) -> Given | list[Any]:
    """Return what was given as preprocessed inputs, or as a list of photos to be prepared.

    Taken are: a float tensor of one sample or a batch (or an array of a batch), of the rank that
    the model's convolutions have (signals, pictures, volumes); a mapping of keyword arguments; a
    tuple of tensors for a model that takes as many; a photo; and lists, loaders and data sets of
    batches, samples or photos, each by itself or as (image, label, ...), of which the image is
    taken; a folder of photos.

    Raises:
        ImageError: nothing was given, or shapes do not fit together.
    """
    if isinstance(images, np.ndarray) and images.ndim > 3 and images.dtype.kind == "f":
        images = torch.from_numpy(images)  # an array of so many axes is no photo
    if isinstance(images, Mapping):
        return _mapping([images], module)
    if _is_float(images):
        return _batch([images], module)
    if isinstance(images, tuple) and len(images) > 1 and _several(images, module):
        return Given(images, len(images[0]))
    if isinstance(images, str | Path) and os.path.isdir(images):
        images = find_images(images)
    items = _items(images)
    if not items:
        raise ImageError("no images given")
    if all(isinstance(item, Mapping) for item in items):
        return _mapping(items, module)
    if all(_is_float(item) for item in items):
        return _batch(items, module)
    return items


def size_of(inputs: Inputs, module: nn.Module) -> tuple[int, ...] | None:
    """Return (H, W) of the picture among a model's inputs, None where there is none.

    Of a signal it is (T,), of a volume (D, H, W), of a video (T, H, W), whether its channels
    stand before its frames or behind them.
    """
    if isinstance(inputs, Mapping) and "spatial_shapes" in inputs:
        return _patched(inputs)
    rank = spatial_rank(module)
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    for value in [inputs] if isinstance(inputs, Tensor) else values:
        if not _is_float(value) or value.ndim not in (3, 4, 5) or (value.ndim == 3 and rank != 1):
            continue
        if value.ndim == 5 and rank == 2:
            return tuple(value.shape[-2:])
        if frames_first(value, module):
            return (value.shape[1], *value.shape[3:])
        return tuple(value.shape[2:])
    return None


def mismatch(error: Exception, inputs: Any, module: nn.Module) -> AttnvizError | None:
    """Return what of an input, or of how the model runs, does not fit, or None.

    Args:
        error: what the model raised.
        inputs: what it was given.
        module: the model.
    """
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if isinstance(error, AttnvizError):
        return None
    if "use_reentrant=True" in str(error):
        return CaptureError(CHECKPOINTED)
    if not isinstance(inputs, Tensor) or weight is None:
        return None
    shape = tuple(inputs.shape)
    if weight.is_meta:
        return ImageError(
            f"the weights of {type(module).__name__} are on the meta device, which holds shapes "
            "and no numbers: load them with model.load_state_dict(..., assign=True)"
        )
    if inputs.is_floating_point() and inputs.dtype != weight.dtype and "type" in str(error):
        return ImageError(
            f"the input is {inputs.dtype}, the model's weights are {weight.dtype}; convert one: "
            f"x.to({weight.dtype}), or model.to({inputs.dtype})"
        )
    if inputs.device != weight.device and "device" in str(error):
        return ImageError(
            f"the input is on {inputs.device}, the model on {weight.device}; move one: "
            f"x.to({str(weight.device)!r})"
        )
    wanted = re.search(r"expected input.* to have (\d+) channels, but got (\d+)", str(error))
    if not wanted:
        return None
    last = inputs.ndim > 3 and str(shape[-1]) == wanted[1]
    return ImageError(
        f"the input {shape} has {wanted[2]} channels where {type(module).__name__} takes "
        f"{wanted[1]}; a batch is (B, C, ...), channels second"
        + (": x.movedim(-1, 1)" if last else "")
        + (
            ". Photos become grey by Preprocess(mean=(m,), std=(s,)), one number each"
            if wanted[1] == "1"
            else ""
        )
    )


def _patched(inputs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return (H, W) of pictures given as rows of square patches (B, N, 3 * p * p), as NaFlex does.

    None where the batch holds pictures of several sizes.
    """
    shapes, patches = inputs["spatial_shapes"], inputs.get("pixel_values")
    if (
        patches is None
        or not _is_float(patches)
        or patches.ndim != 3
        or len(shapes.unique(dim=0)) != 1
    ):
        return None
    side = round((patches.shape[-1] / 3) ** 0.5)
    return tuple(side * n for n in shapes[0].tolist())


def frames_first(inputs: Tensor, module: nn.Module) -> bool:
    """Say whether inputs of five axes are (B, T, C, H, W), for a model of volumes or video.

    Told by the channels that the first convolution takes. Where there are as many frames as
    channels either reading has the same size.
    """
    first = _first_convolution(module)
    if inputs.ndim != 5 or first is None or len(first.kernel_size) != 3:
        return False
    return inputs.shape[1] != first.in_channels == inputs.shape[2]


def samples_in(inputs: Inputs) -> int:
    """Return how many samples a model's inputs hold, 0 where no tensor does.

    Among several the picture counts: beside it there may be another number of texts.
    """
    if isinstance(inputs, Tensor):
        return len(inputs)
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    tensors = [value for value in values if isinstance(value, Tensor) and value.ndim]
    pictures = [value for value in tensors if _is_float(value) and value.ndim > 3]
    return next((len(value) for value in pictures or tensors), 0)


def spatial_rank(module: nn.Module) -> int:
    """Return over how many axes the model's first convolution runs: 1, 2 or 3; 2 if it has none."""
    first = _first_convolution(module)
    return 2 if first is None else len(first.kernel_size)


def channels_of(module: nn.Module) -> int | None:
    """Return how many channels the model's first convolution takes, None if it has none."""
    first = _first_convolution(module)
    return None if first is None else first.in_channels


def _first_convolution(module: nn.Module) -> nn.Conv1d | nn.Conv2d | nn.Conv3d | None:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((part for part in module.modules() if isinstance(part, kinds)), None)


def _is_float(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_photo(value: Any) -> bool:
    return isinstance(value, str | Path | np.ndarray | Tensor) or hasattr(value, "getbands")


def _items(images: Any) -> list[Any]:
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    if _is_photo(images):
        return [images]
    if isinstance(images, tuple) and _is_sample(images):
        return [images[0]]
    if isinstance(images, Iterable):
        return [item[0] if _is_sample(item) else item for item in images]
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):  # a map-style data set
        return _items([images[i] for i in range(len(images))])
    return [images]


def _is_sample(item: Any) -> bool:
    """Say whether an item is (image, label, ...) or (images, labels, ...) of a batch."""
    if not isinstance(item, tuple | list) or len(item) < 2 or not _is_photo(item[0]):
        return False
    first, second = item[:2]
    if _is_float(first):
        # a second tensor of the same shape is another picture
        return not (_is_float(second) and second.shape[1:] == first.shape[1:])
    return isinstance(first, np.ndarray) or not _is_photo(second)


def _batch(tensors: Sequence[Tensor], module: nn.Module) -> Given:
    rank = spatial_rank(module)
    names = {1: "(B, C, T)", 2: "(B, C, H, W)", 3: "(B, C, D, H, W)"}[rank]
    made = []
    for tensor in tensors:
        batch = tensor[None] if tensor.ndim == rank + 1 else tensor
        if batch.ndim < rank + 2 or batch.ndim > 5 or batch.numel() == 0:
            raise ImageError(
                f"a preprocessed batch for {type(module).__name__} is a float tensor {names} with "
                f"B > 0, got {tuple(tensor.shape)}"
            )
        made.append(batch)
    shapes = {tuple(batch.shape[1:]) for batch in made}
    if len(shapes) > 1:
        raise ImageError(
            f"the tensors given have unlike shapes {sorted(shapes)} and make no batch; pass images "
            "alone (masks and labels are no input), of one size"
        )
    together = made[0] if len(made) == 1 else torch.cat(made)
    return Given(together, len(together))


def _mapping(items: Sequence[Mapping[str, Any]], module: nn.Module) -> Given:
    """Return mappings of keyword arguments, each a batch or a sample, as one batch."""
    inputs = items[0]
    try:
        inspect.signature(module.forward).bind(**inputs)
    except TypeError as error:
        takes = ", ".join(inspect.signature(module.forward).parameters)
        picture = next((str(k) for k, v in inputs.items() if isinstance(v, Tensor)), "image")
        raise ImageError(
            f"a mapping is given to the model as keyword arguments, and this one does not fit "
            f"{type(module).__name__}.forward({takes}): {error}. Pass the picture alone, "
            f"batch[{picture!r}], or a mapping with the keys that it takes; a model that takes the "
            f"whole mapping as one argument needs a module around it, whose forward takes "
            f"the picture and calls net({{{picture!r}: picture}})"
        ) from error
    if len(items) > 1:
        floats = next((v for v in inputs.values() if _is_float(v)), None)
        single = floats is not None and floats.ndim <= spatial_rank(module) + 1
        join = torch.stack if single else torch.cat
        try:
            inputs = {
                name: join([item[name] for item in items]) if isinstance(value, Tensor) else value
                for name, value in inputs.items()
            }
        except (KeyError, TypeError, RuntimeError) as error:
            raise ImageError(f"the mappings given are unlike and make no batch: {error}") from error
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                continue
            if not all(name in item and np.array_equal(item[name], value) for item in items):
                raise ImageError(
                    f"{name!r} differs among the mappings given; what a sample has of its own is "
                    "given to the model as a tensor"
                )
    count = samples_in(inputs)
    if not count:
        raise ImageError(
            f"the inputs {sorted(map(str, inputs))} hold no tensor with samples; a mapping is "
            "given to the model as keyword arguments"
        )
    return Given(dict(inputs), count)


def _several(images: tuple[Any, ...], module: nn.Module) -> bool:
    """Say whether the model takes this many tensors by position."""
    if not all(isinstance(value, Tensor) for value in images) or not _is_float(images[0]):
        return False
    parameters = inspect.signature(module.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    return len(needed) >= 2 and len(needed) <= len(images) <= len(positional)
