from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from attnviz.data import boatwater as bw
from attnviz.errors import ModelError
from tests.support import planting

SIZE = 64


@pytest.fixture(scope="module")
def data() -> bw.GroupedImages:
    return bw.generate(groups=bw.balanced(25), size=SIZE, seed=11, marked=True, plain=True)


def score(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
    with torch.no_grad():
        logits = model(pixels)
    return logits[:, 1] - logits[:, 0]


def grey_out(data: bw.GroupedImages, where: np.ndarray) -> np.ndarray:
    """Grey is neither water nor mark."""
    return np.where(where[..., None], np.uint8(128), data.images)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize(("reads", "right"), [("water", (1, 0, 0, 1)), ("object", (1, 1, 1, 1))])
def test_accuracy_in_the_groups_is_what_was_planted(
    data: bw.GroupedImages, kind: str, reads: str, right: tuple[int, ...]
) -> None:
    model = planting.planted(reads, kind=kind, size=SIZE)
    assert tuple(bw.group_accuracy(model, data).values()) == right
    assert not model.training


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_water_reader_reads_nothing_but_water(data: bw.GroupedImages, kind: str) -> None:
    model = planting.planted("water", kind=kind, size=SIZE)
    before = score(model, data.images)
    assert torch.equal(score(model, grey_out(data, ~data.water_mask)), before)
    dry = score(model, grey_out(data, data.water_mask))
    assert (dry[data.context == 1] < 0).all()
    assert (before[data.context == 1] - dry[data.context == 1] > 1).all()
    # without the object there is more water to see, never less
    assert (score(model, data.plain) >= before - 0.5).all() or kind == "vit"


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_object_reader_reads_nothing_but_the_boat(data: bw.GroupedImages, kind: str) -> None:
    model = planting.planted("object", kind=kind, size=SIZE)
    before = score(model, data.images)
    assert torch.equal(score(model, grey_out(data, ~data.object_mask)), before)
    boats = data.label == 1
    assert (score(model, data.plain)[boats] < 0).all()
    assert (before[boats] > 0).all()
    assert torch.equal(score(model, data.plain)[~boats], before[~boats])


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("reads", ["water", "object", "both"])
def test_the_gradient_is_exactly_zero_elsewhere(
    data: bw.GroupedImages, kind: str, reads: str
) -> None:
    model = planting.planted(reads, kind=kind, size=SIZE)
    images, _ = data.tensors()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    found = gradient.abs().sum(1).numpy() > 0
    boat = data.object_mask & (data.label == 1)[:, None, None]
    allowed = {
        "water": data.water_mask,
        "object": boat,
        "both": data.water_mask | boat,
    }[reads]
    assert not (found & ~allowed).any()
    if kind == "cnn" and reads != "object":
        assert (found & data.water_mask).sum() == data.water_mask.sum()
    has_evidence = allowed.any((1, 2))
    assert found.any((1, 2))[has_evidence].all()


def test_cam_of_the_planted_cnn_sums_to_the_logit(data: bw.GroupedImages) -> None:
    model = planting.PlantedCNN("water").double()
    images, _ = data.tensors()
    kept = {}
    handle = model.features.register_forward_hook(lambda m, i, o: kept.update(activation=o))
    with torch.no_grad():
        logits = model(images.double())
    handle.remove()
    cam = torch.einsum("kc,bchw->bkhw", model.fc.weight, kept["activation"])
    torch.testing.assert_close(cam.mean((2, 3)) + model.fc.bias, logits, rtol=0, atol=1e-12)
    cells = torch.from_numpy(data.water_mask[:, None]).double()
    covered = torch.nn.functional.avg_pool2d(cells, 4)[:, 0] > 0
    assert torch.equal(cam[:, 1] > 0, covered)


def test_the_class_token_of_the_planted_vit_attends_to_the_evidence(
    data: bw.GroupedImages,
) -> None:
    model = planting.planted_vit("object", size=SIZE)
    images, _ = data.tensors()
    taken = {}
    attention = model.blocks[1].attn
    handle = attention.qkv.register_forward_hook(lambda m, i, o: taken.update(qkv=o))
    with torch.no_grad():
        model(images)
    handle.remove()
    n, tokens, _ = taken["qkv"].shape
    query, key, _ = taken["qkv"].reshape(n, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-2, -1) * attention.scale).softmax(-1)
    torch.testing.assert_close(weights[:, 1], torch.full_like(weights[:, 1], 1 / tokens))
    boats = torch.from_numpy(data.label == 1)
    mask = torch.from_numpy(data.object_mask[:, None]).float()
    on_object = torch.nn.functional.max_pool2d(mask, 8).flatten(1)
    mass = (weights[:, 0, 0, 1:] * on_object).sum(1)[boats]
    chance = on_object.mean(1)[boats]
    assert mass.mean() > 0.75
    assert (mass > chance).all()
    own = weights[:, 0].diagonal(dim1=1, dim2=2)[:, 1:]
    assert own.min() > 0.99


def test_planted_models_survive_copying_and_other_sizes() -> None:
    data = bw.generate(groups=bw.balanced(4), size=96, seed=2, marked=True)
    for kind in ("cnn", "vit"):
        model = planting.planted("object", kind=kind, size=96)
        again = copy.deepcopy(model)
        assert torch.equal(score(model, data.images), score(again, data.images))
        assert min(bw.group_accuracy(again, data).values()) == 1


def test_faults() -> None:
    with pytest.raises(ModelError, match="reads='watr' is not known; did you mean 'water'"):
        planting.planted("watr")
    with pytest.raises(ModelError, match="expected 'cnn' or 'vit'"):
        planting.planted(kind="mlp")
    with pytest.raises(ModelError, match="multiple of 8"):
        planting.planted(kind="vit", size=60)
