"""Exchanged objects: whose pixels, whose ground, whose label, by hand on tiny images."""

import pytest
import torch

from attnviz.errors import DataError
from attnviz.guidance.exchanging import emptied, exchange, seam_control


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pair():
    """Class 0: a square of 5 on ground 1, left. Class 1: a square of 9 on ground 2, right."""
    images = torch.ones(2, 1, 16, 16)
    images[1] = 2.0
    masks = torch.zeros(2, 16, 16)
    masks[0, 4:8, 2:6] = 1
    masks[1, 6:10, 9:13] = 1
    images[0, 0, 4:8, 2:6] = 5.0
    images[1, 0, 6:10, 9:13] = 9.0
    return images, masks, torch.tensor([0, 1])


def test_hand_values(pair):
    """The object is the donor's, the ground the host's without its object, the label follows."""
    made = exchange(*pair, count=12, grow=1, edge=0, generator=generator())
    assert set(made.labels.tolist()) == {0, 1}
    for image, mask, label, donor, host in zip(
        made.images[:, 0], made.masks, made.labels, made.donors, made.hosts, strict=True
    ):
        assert (label, host) == (donor, 1 - donor)
        own, ground = ((5.0, 2.0), (9.0, 1.0))[int(label)]
        assert torch.equal(mask, pair[1][donor])
        assert torch.equal(image[mask == 1], torch.full((16,), own))
        # blur of a ground of one value is that value: of the host's object nothing is left
        torch.testing.assert_close(image[mask == 0], torch.full((240,), ground))


def test_the_object_keeps_its_numbers_to_the_bit():
    images = torch.randn(6, 3, 24, 24, generator=generator(3))
    masks = torch.zeros(6, 24, 24, dtype=torch.bool)
    masks[:, 5:15, 8:18] = True
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    made = exchange(images, masks, labels, count=20, grow=2, edge=2, generator=generator())
    # more than 2 pixels inside the outline the paste is opaque; 2 outside it, the ground alone
    assert torch.equal(made.images[:, :, 7:13, 10:16], images[made.donors][:, :, 7:13, 10:16])
    grounds = emptied(images, masks, grow=2)
    outside = torch.ones(24, 24, dtype=torch.bool)
    outside[3:17, 6:20] = False
    assert torch.equal(made.images[..., outside], grounds[made.hosts][..., outside])
    assert (labels[made.hosts] != made.labels).all()
    assert torch.equal(made.labels, labels[made.donors])


def test_soft_edge_is_exact(pair):
    """Half-width 1: 3 of 9 cells are object just outside a straight edge, 6 of 9 just inside."""
    images, masks, labels = pair
    made = exchange(images, masks, labels, count=8, grow=1, edge=1, generator=generator())
    image = made.images[(made.labels == 0).nonzero()[0, 0], 0]
    donor, ground = images[0, 0], 2.0
    for row, share in ((3, 3 / 9), (4, 6 / 9), (5, 1.0)):
        expected = ground + share * (float(donor[row, 4]) - ground)
        assert float(image[row, 4]) == pytest.approx(expected, abs=1e-6)
    corner = ground + 1 / 9 * (float(donor[3, 1]) - ground)
    assert float(image[3, 1]) == pytest.approx(corner, abs=1e-6)
    assert float(image[2, 4]) == ground


def test_classes_are_drawn_evenly():
    """One image of class 1 among 30 is donor in half of what is made, and never alone as host."""
    images, masks = torch.rand(30, 1, 8, 8), torch.zeros(30, 8, 8)
    masks[:, 2:5, 2:5] = 1
    labels = torch.zeros(30, dtype=torch.int64)
    labels[7] = 1
    made = exchange(images, masks, labels, count=400, grow=1, generator=generator())
    assert 160 < int(made.labels.sum()) < 240
    assert set(made.hosts[made.labels == 0].tolist()) == {7}
    assert len(set(made.hosts[made.labels == 1].tolist())) > 25


def test_anywhere_keeps_the_whole_object_in_the_picture(pair):
    images, masks, labels = pair
    made = exchange(
        images, masks, labels, count=60, place="anywhere", scale=(0.5, 2.0), grow=1, edge=0,
        generator=generator(),
    )  # fmt: skip
    sides = made.masks.sum((1, 2)).sqrt()
    assert sides.min() < 3
    assert sides.max() > 6.5
    assert sides.min() > 4 * 0.5 - 0.3
    assert sides.max() < 4 * 2.0 + 0.3
    assert len({tuple(m.nonzero()[0].tolist()) for m in made.masks}) > 30
    for image, mask, label in zip(made.images[:, 0], made.masks, made.labels, strict=True):
        inside = image[mask == 1]
        own, ground = ((5.0, 2.0), (9.0, 1.0))[int(label)]
        # bilinear: the outermost pixels of an enlarged object mix in its own ground
        assert inside.max() == pytest.approx(own, abs=1e-4)
        torch.testing.assert_close(image[mask == 0], torch.full_like(image[mask == 0], ground))


def test_anywhere_at_size_one_shrinks_what_does_not_fit():
    images, masks = torch.rand(2, 1, 12, 12), torch.ones(2, 12, 12)
    made = exchange(
        images, masks, torch.tensor([0, 1]), place="anywhere", scale=(3.0, 3.0), grow=0, edge=0,
        generator=generator(),
    )  # fmt: skip
    torch.testing.assert_close(made.images, images[made.donors])


def test_flips_move_mask_and_object_together(pair):
    images, masks, labels = pair
    made = exchange(
        images, masks, labels, count=40, flip=True, grow=1, edge=0, generator=generator()
    )
    turned = [torch.equal(m, masks[d].flip(-1)) for m, d in zip(made.masks, made.donors)]
    assert 8 < sum(turned) < 32
    for image, mask, label in zip(made.images[:, 0], made.masks, made.labels, strict=True):
        assert (image[mask == 1] == (5.0, 9.0)[int(label)]).all()


def test_seam_control_changes_nothing_but_the_seam(pair):
    images, masks, labels = pair
    made = seam_control(images, masks, labels, grow=1, edge=0)
    torch.testing.assert_close(made.images, images)  # its ground has one value
    assert torch.equal(made.donors, torch.arange(2))
    assert torch.equal(made.hosts, made.donors)
    assert torch.equal(made.labels, labels)
    one = seam_control(images[:1], masks[:1], labels[:1])  # one class is enough
    assert len(one) == 1


def test_same_seed_same_images_and_nothing_altered(pair):
    images, masks, labels = pair
    kept = [t.clone() for t in pair]
    state = torch.get_rng_state()
    first, second = (
        exchange(
            images, masks, labels, count=5, place="anywhere", scale=(0.7, 1.3), flip=True,
            generator=generator(4),
        )
        for _ in range(2)
    )  # fmt: skip
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.hosts, second.hosts)
    third = exchange(images, masks, labels, count=5, place="anywhere", generator=generator(5))
    assert not torch.equal(first.images, third.images)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(pair, kept, strict=True))


def test_grounds_at_hand_are_taken(pair):
    images, masks, labels = pair
    grounds = torch.full_like(images, 7.0)
    made = exchange(images, masks, labels, grounds=grounds, edge=0, generator=generator())
    assert (made.images[:, 0][made.masks == 0] == 7).all()


def test_what_cannot_be_exchanged_is_said(pair):
    images, masks, labels = pair
    with pytest.raises(DataError, match=r"all 2 annotated images are of class 3"):
        exchange(images, masks, torch.tensor([3, 3]))
    with pytest.raises(DataError, match=r"1 of 2 masks are empty \(the first in row 1\)"):
        exchange(images, torch.stack([masks[0], masks[0] * 0]), labels)
    with pytest.raises(DataError, match=r"got \(2, 1, 16, 16\) torch.float32, \(2, 8, 8\)"):
        exchange(images, masks[:, :8, :8], labels)
    with pytest.raises(DataError, match="place 'elsewhere' is not one of 'same', 'anywhere'"):
        exchange(images, masks, labels, place="elsewhere")
    with pytest.raises(DataError, match="smallest first"):
        exchange(images, masks, labels, scale=(2.0, 1.0))
    with pytest.raises(DataError, match="at least 1, got 0"):
        exchange(images, masks, labels, count=0)
    with pytest.raises(DataError, match="0 or more"):
        seam_control(images, masks, labels, grow=-1)
    with pytest.raises(DataError, match="grounds are the images emptied"):
        exchange(images, masks, labels, grounds=images[:1])
