"""What is changed in an image, and where; masks on the model's input."""

import numpy as np
import pytest
import torch

from attnviz.audit.interventions import control_region, grown, variants
from attnviz.audit.log_odds import called, find_target, score_of
from attnviz.audit.pictures import AuditPicture
from attnviz.data.prepared import mask_share
from attnviz.errors import DataError
from attnviz.geometry import Geometry


def picture(size=32, index=0):
    rng = torch.Generator().manual_seed(index)
    image = torch.rand(3, size, size, generator=rng) * 0.2
    obj, ctx = (torch.zeros(size, size, dtype=torch.bool) for _ in range(2))
    ctx[size // 2 :] = True
    obj[size // 2 - 3 : size // 2 + 5, 8:18] = True
    ctx &= ~obj
    image[0, obj], image[2, ctx] = 1.0, 0.9
    return AuditPicture(
        index=index, id=f"p{index}", source=f"s{index}", background=f"b{index}", has_object=True,
        has_context=True, input=image, object_mask=obj, context_mask=ctx, digest=str(index),
        photo=np.zeros((size, size, 3), np.uint8), geometry=Geometry.identity(size, size),
    )  # fmt: skip


def test_only_the_region_changes_and_nothing_of_it_stays():
    p = picture()
    before = p.input.clone()
    made = {v.name: v.input for v in variants([p], fills=("inpaint", "blur", "mean"), donors=None)}
    edge = grown(p.object_mask)
    for fill in ("inpaint", "blur", "mean"):
        gone = made[f"object:{fill}"]
        assert torch.equal(gone[:, ~edge], before[:, ~edge])
        # the object was the only thing with red above .2
        assert gone[0].max() < 0.3
        dry = made[f"context:{fill}"]
        assert torch.equal(dry[:, ~p.context_mask], before[:, ~p.context_mask])
        assert dry[2][p.context_mask].max() < 0.3
        # and the object's red does not run into the place of the context
        assert dry[0][p.context_mask].max() < 0.3
        control = made[f"object-control:{fill}"]
        moved = (control != before).any(0)
        assert not (moved & (p.object_mask | p.context_mask)).any()
    assert torch.equal(p.input, before)


def test_control_has_the_area_asked_for():
    allowed = torch.zeros(20, 20, dtype=torch.bool)
    allowed[:8] = True
    region = control_region(allowed, 25)
    assert int(region.sum()) == 25
    assert not (region & ~allowed).any()
    rows = region.any(1).nonzero()[:, 0]
    assert rows.min() >= 1  # around the deepest point, not along the border
    assert int(control_region(allowed, 400).sum()) == 160  # all there is
    assert control_region(allowed, 700) is None  # less than a quarter


def test_masks_are_averaged_over_input_pixels():
    mask = np.zeros((8, 12), bool)
    mask[2:6, 3:9] = True
    half = mask_share(mask, Geometry((8, 12), (4, 6), (0.0, 0.0, 12.0, 8.0)))
    np.testing.assert_allclose(half, mask.reshape(4, 2, 6, 2).mean((1, 3)))
    assert half[1, 1] == 0.5
    beyond = mask_share(mask, Geometry((8, 12), (4, 4), (-2.0, -2.0, 14.0, 14.0)))
    assert beyond.sum() * 16 == pytest.approx(mask.sum())  # letterboxed: nothing lost
    crop = mask_share(mask, Geometry((8, 12), (3, 3), (2.5, 1.5, 5.5, 4.5)))
    np.testing.assert_allclose(crop[0], [0.25, 0.5, 0.5])


def test_log_odds():
    logits = torch.tensor([[1.0, 3.0, 0.5], [2.0, -1.0, 2.0]], dtype=torch.float64)
    p = logits.softmax(1)
    want = torch.log((p[:, 1] + p[:, 2]) / p[:, 0])
    torch.testing.assert_close(score_of(logits, (1, 2)), want)
    torch.testing.assert_close(score_of(logits[:, :2], (1,)), logits[:, 1] - logits[:, 0])
    assert called(logits, (1, 2)).tolist() == [True, False]
    assert find_target(None, "boat", classes=2, labels=("other", "boat")).linear == {1: 1, 0: -1}
    with pytest.raises(DataError, match="no class for the object 'bot'.*did you mean 'boat'"):
        find_target(None, "bot", classes=2, labels=("other", "boat"))
    with pytest.raises(DataError, match="one other"):
        find_target([0, 1], "boat", classes=2, labels=None)


def test_control_says_how_large_it_is():
    """Most of the picture is context: its control has what is left, the object's all it needs."""
    p = picture()
    p.context_mask[8:] = True
    p.context_mask[p.object_mask] = False
    made = {v.name: v for v in variants([p], fills=("mean",), donors=None)}
    assert made["object:mean"].room == made["context:mean"].room == 1.0
    edge = grown(p.object_mask)
    assert made["object-control:mean"].room == 1.0
    changed = (made["object-control:mean"].input != p.input).any(0)
    assert int(changed.sum()) == int(edge.sum()) == 10 * 12
    # 8 x 32 pixels are left, for 24 x 32 of water less 8 x 10 of the object
    assert made["context-control:mean"].room == pytest.approx(256 / 688)
    changed = (made["context-control:mean"].input != p.input).any(0)
    assert int(changed.sum()) == 256


def test_control_goes_up_to_the_edges_only_for_want_of_room():
    inner, outer = (torch.zeros(12, 12, dtype=torch.bool) for _ in range(2))
    inner[2:6, 2:6], outer[1:7, 1:7] = True, True
    assert not (control_region(inner, 16, outer) & ~inner).any()
    assert int(control_region(inner, 20, outer).sum()) == 20
    assert int(control_region(inner, 50, outer).sum()) == 36
