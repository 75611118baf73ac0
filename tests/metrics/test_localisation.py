from __future__ import annotations

import numpy as np
import pytest
import torch

import attnviz.metrics as am
from attnviz.errors import MetricError
from attnviz.metrics.iou import component_boxes, overlaps
from attnviz.metrics.maxbox import legacy_boxes


def rectangle(height=40, width=50, box=(12, 8, 22, 18)):
    x0, y0, x1, y1 = box
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


NEEDS_MASKS = ["pointing", "energy", "iou", "auroc", "pxap"]


@pytest.mark.parametrize("name", NEEDS_MASKS)
def test_perfect_map(name):
    mask = rectangle()
    found = am.METRICS.get(name).fn(mask.float(), mask)
    assert found.values.tolist() == [1.0]
    assert am.box_iou(mask.float(), [[(12, 8, 22, 18)]]).values.tolist() == [1.0]


@pytest.mark.parametrize("name", NEEDS_MASKS)
@pytest.mark.parametrize(
    ("maps", "masks", "reason"),
    [
        (torch.rand(1, 9, 9), torch.zeros(1, 9, 9, dtype=torch.bool), "empty mask"),
        (torch.full((1, 9, 9), float("nan")), torch.eye(9)[None].bool(), "map not finite"),
    ],
    ids=["empty mask", "nan"],
)
def test_skipped_never_a_hit(name, maps, masks, reason):
    # Quantus counts an empty mask as a hit of the pointing game
    found = am.METRICS.get(name).fn(maps, masks)
    assert found.values.isnan().all()
    assert found.skip_counts == {reason: 1}
    assert found.summary() != found.summary()
    good = am.METRICS.get(name).fn(
        torch.cat([maps, rectangle().float()[:, :9, :9] + torch.rand(1, 9, 9)]),
        torch.cat([masks, torch.eye(9)[None].bool()]),
    )
    assert good.skipped == 1
    assert 0 <= good.summary() <= 1


def test_full_mask_and_flat_maps():
    full = torch.ones(1, 9, 9, dtype=torch.bool)
    for name in ("pointing", "energy", "auroc", "pxap"):
        assert am.METRICS.get(name).fn(torch.rand(1, 9, 9), full).skip_counts == {"full mask": 1}
    assert am.iou(torch.rand(1, 9, 9), full, threshold=0).summary() == pytest.approx(80 / 81)
    part = torch.eye(9)[None].bool()
    for value in (0.0, 1.0):
        flat = torch.full((1, 9, 9), value)
        for name in ("pointing", "iou"):
            assert am.METRICS.get(name).fn(flat, part).skip_counts == {"flat map": 1}
        assert am.auroc(flat, part).values.tolist() == [0.5]
        assert am.pxap(flat, part).summary() == pytest.approx(9 / 81)
        assert am.pooled_pxap(flat, part).summary() == pytest.approx(9 / 81)
    assert am.energy(torch.zeros(1, 9, 9), part).skip_counts == {"no positive evidence": 1}
    assert am.energy(-torch.rand(1, 9, 9), part).skipped == 1
    assert am.energy(torch.ones(1, 9, 9), part).summary() == pytest.approx(9 / 81)


def test_a_map_of_one_cell_and_a_batch_of_one():
    mask = rectangle()
    found = am.energy(torch.ones(1, 1, 1), mask)
    assert found.summary() == pytest.approx(100 / 2000)
    assert float(found.extra["ratio"][0]) == pytest.approx(1)
    assert am.pointing(torch.ones(1, 1, 1), mask).skipped == 1


def test_pointing_game_tolerance_is_a_distance():
    mask = rectangle()  # columns 12 to 21, rows 8 to 17
    for (row, column), distance in {
        (8, 12): 0.0,
        (17, 21): 0.0,
        (8, 27): 6.0,
        (20, 25): 5.0,  # 3 down, 4 right of the corner (17, 21)
    }.items():
        maps = torch.zeros(1, 40, 50)
        maps[0, row, column] = 1
        assert am.pointing(maps, mask, tolerance=distance).summary() == 1
        if distance:
            assert am.pointing(maps, mask, tolerance=distance - 0.01).summary() == 0
    two = torch.zeros(1, 40, 50)
    two[0, 8, 12] = two[0, 39, 49] = 1
    assert am.pointing(two, mask, tolerance=2).summary() == 0.5
    assert str(am.pointing(two, mask).protocol) == "pointing[15 px]"


def test_energy_counts_positive_mass_only():
    maps = torch.tensor([[[3.0, -100.0], [1.0, 0.0]]])
    mask = torch.tensor([[[True, True], [False, False]]])
    found = am.energy(maps, mask)
    assert found.values.tolist() == [0.75]
    assert found.extra["prevalence"].tolist() == [0.5]


def test_iou_by_hand():
    maps = torch.tensor([[[0.0, 0.4, 0.6, 1.0]]])
    mask = torch.tensor([[[False, True, True, False]]])
    assert am.iou(maps, mask).summary() == pytest.approx(1 / 3)
    assert am.iou(10 * maps - 3, mask).summary() == pytest.approx(1 / 3)
    assert am.iou(maps, mask, threshold=0.3).summary() == pytest.approx(2 / 3)
    with pytest.raises(MetricError, match="threshold=1"):
        am.iou(maps, mask, threshold=1.0)


def test_component_boxes_largest_first_diagonals_joined():
    region = torch.zeros(8, 9, dtype=torch.bool)
    region[0, 0] = region[1, 1] = True
    region[3:6, 4:9] = True
    boxes, sizes = component_boxes(region)
    assert boxes.tolist() == [[4, 3, 9, 6], [0, 0, 2, 2]]
    assert sizes.tolist() == [15, 2]


def test_perfect_box_is_one_exact_and_0826_as_published():
    mask = rectangle()
    exact = am.maxboxacc(mask.float(), [[(12, 8, 22, 18)]], thresholds=10)
    assert exact.overlap.tolist() == [[1.0] * 10]
    assert exact.summary() == 1
    published = am.maxboxacc(mask.float(), [[(12, 8, 21, 17)]], thresholds=10, legacy=True)
    assert published.overlap[0, 0] == pytest.approx(100 / 121)


def _published_boxes(scoremap, thresholds):
    """The published protocol's arithmetic, written out on plain arrays."""
    import cv2

    found = []
    image = (scoremap * 255).astype(np.uint8)
    for threshold in thresholds:
        binary = (image > int(threshold * image.max())).astype(np.uint8) * 255
        contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if not contours:
            found.append([[0, 0, 0, 0]])
            continue
        boxes = []
        for contour in sorted(contours, key=cv2.contourArea, reverse=True):
            points = contour[:, 0]
            x0, y0 = points.min(0)
            x1, y1 = points.max(0) + 1
            boxes.append([x0, y0, min(x1, image.shape[1] - 1), min(y1, image.shape[0] - 1)])
        found.append(boxes)
    return found


def _published_iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    shared = width * height
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return shared / (sum(areas) - shared)


def test_published_boxes_of_the_published_test():
    # the expected boxes are those of wsolevaluation's own tests
    low = [0, 0.4, 0.4, 0.4, 0.6]
    unimodal = [[0, 0, 0, 0, 0], low, [0, 0.4, 1, 0.8, 0.6], low]
    multimodal = [
        [0.4, 0, 0.2, 0.2, 0.2],
        [0.4, 0.4, 0, 0.4, 0],
        [0, 0, 0, 0.4, 0],
        [1, 0.6, 0.8, 0.2, 0.2],
    ]
    expected = {
        "unimodal": [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]],
        "multimodal": [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]],
    }
    for name, scoremap in (("unimodal", unimodal), ("multimodal", multimodal)):
        values = torch.tensor(scoremap, dtype=torch.float64)
        found = [legacy_boxes(values, t, all_parts=False)[0].tolist() for t in np.arange(0, 1, 0.2)]
        assert found == expected[name]
    zeros = legacy_boxes(torch.zeros(3, 3), 0.0, all_parts=False)
    assert zeros.tolist() == [[0, 0, 0, 0]]
    iou = overlaps(torch.tensor([[1.0, 2, 5, 6]]), torch.tensor([[3.0, 1, 4, 5]]), inclusive=True)
    assert float(iou) == pytest.approx(8 / 27)


def test_legacy_mode_is_the_published_protocol():
    draw = torch.Generator().manual_seed(0)
    blobs = torch.rand(12, 1, 6, 6, generator=draw, dtype=torch.float64)
    maps = torch.nn.functional.interpolate(blobs, size=(48, 48), mode="bilinear")[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low)
    boxes = []
    for _ in range(12):
        x0, y0 = torch.randint(0, 24, (2,), generator=draw).tolist()
        w, h = torch.randint(8, 23, (2,), generator=draw).tolist()
        boxes.append([(x0, y0, x0 + w, y0 + h), (2, 2, 12, 40)])
    thresholds = np.arange(0, 1, 1 / 50)
    for version, required in ((1, (0.5,)), (2, (0.3, 0.5, 0.7))):
        hits = np.zeros((len(required), len(thresholds)))
        for row, truth in zip(maps.numpy(), boxes, strict=True):
            for t, candidates in enumerate(_published_boxes(row, thresholds)):
                candidates = candidates[:1] if version == 1 else candidates
                best = max(_published_iou(a, b) for a in candidates for b in truth)
                hits[:, t] += [best >= r for r in required]
        expected = (hits / len(maps)).max(1).mean()
        function = am.maxboxacc if version == 1 else am.maxboxacc_v2
        found = function(maps, boxes, thresholds=50, legacy=True)
        assert found.summary() == pytest.approx(expected, abs=1e-12)
        assert "legacy" in str(found.protocol)
        with pytest.raises(MetricError, match="legacy"):
            am.require_alike([found.protocol, function(maps, boxes, thresholds=50).protocol])


def test_maxboxacc_chooses_one_threshold_for_all():
    # image 1 is right at a low threshold only, image 2 at a high one only
    maps = torch.zeros(2, 20, 20)
    maps[0, 2:18, 2:18], maps[0, 9:11, 9:11] = 0.3, 1.0
    maps[1, 2:18, 2:18], maps[1, 8:12, 8:12] = 0.3, 1.0
    boxes = [[(2, 2, 18, 18)], [(8, 8, 12, 12)]]
    found = am.maxboxacc(maps, boxes)
    assert found.values.tolist() == [1.0, 1.0]
    assert found.summary() == 0.5
    assert am.maxboxacc_v2(maps, boxes).summary() == pytest.approx(0.5)
    metric = am.StreamingMetric("maxboxacc")
    metric.update(maps[:1], boxes[:1])
    metric.update(maps[1:], boxes[1:])
    assert metric.compute().summary() == 0.5
    assert am.maxboxacc(maps, [boxes[0], []]).skip_counts == {"no box": 1}
    assert am.maxboxacc(torch.ones(2, 20, 20), boxes).skip_counts == {"flat map": 2}
    with pytest.raises(MetricError, match="box of image 0 is empty"):
        am.maxboxacc(maps, [[(5, 5, 5, 9)], boxes[1]])


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_average_precision_agree_with_sklearn(ties):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    maps = torch.randn(4, 30, 30, dtype=torch.float64)
    if ties:
        maps = maps.round()
    masks = torch.rand(4, 30, 30) < torch.tensor([0.02, 0.2, 0.5, 0.9])[:, None, None]
    ap, roc = am.pxap(maps, masks), am.auroc(maps, masks)
    for i in range(4):
        truth, score = masks[i].flatten().numpy(), maps[i].flatten().numpy()
        assert float(ap.values[i]) == pytest.approx(
            sklearn_metrics.average_precision_score(truth, score), abs=1e-12
        )
        assert float(roc.values[i]) == pytest.approx(
            sklearn_metrics.roc_auc_score(truth, score), abs=1e-12
        )


def test_pooled_pxap_exact_and_as_published():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    maps = torch.rand(4, 24, 24, dtype=torch.float64)
    masks = torch.rand(4, 24, 24) < 0.2
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low)
    exact = am.pooled_pxap(maps, masks)
    assert exact.summary() == pytest.approx(
        sklearn_metrics.average_precision_score(masks.flatten(), scaled.flatten()), abs=1e-12
    )
    # the published histogram, on plain arrays
    edges = np.append(np.arange(0, 1, 1 / 50), [1.0, 2.0, 3.0])
    true = np.histogram(scaled[masks].numpy(), edges)[0][::-1].cumsum().astype(float)
    false = np.histogram(scaled[~masks].numpy(), edges)[0][::-1].cumsum().astype(float)
    used = true + false > 0
    precision = true / np.where(used, true + false, 1)
    published = (precision[1:] * np.diff(true / true[-1]))[used[1:]].sum()
    legacy = am.pooled_pxap(maps, masks, legacy=True, thresholds=50)
    assert legacy.summary() == pytest.approx(published, abs=1e-12)
    assert legacy.summary() != pytest.approx(exact.summary(), abs=1e-4)
    metric = am.StreamingMetric(am.pooled_pxap)
    metric.update(maps[:1], masks[:1])
    metric.update(maps[1:], masks[1:])
    assert metric.compute().summary() == pytest.approx(exact.summary(), abs=1e-12)


def test_masks_are_checked_and_nothing_is_changed():
    maps, masks = np.random.rand(2, 8, 8), np.random.rand(2, 8, 8) < 0.5
    copies = maps.copy(), masks.copy()
    for name in [*NEEDS_MASKS, "pooled_pxap"]:
        am.METRICS.get(name).fn(maps, masks)
    for name in ("gini", "entropy", "effective_size"):
        am.METRICS.get(name).fn(maps)
    assert (maps == copies[0]).all()
    assert (masks == copies[1]).all()
    with pytest.raises(MetricError, match="other than 0 and 1"):
        am.energy(maps, np.full((2, 8, 8), 3))
    with pytest.raises(MetricError, match=r"expected \(2, H, W\)"):
        am.energy(maps, masks[:1])


def test_complexity_by_hand():
    one = torch.zeros(1, 5, 5)
    one[0, 2, 2] = -4.0  # Quantus changes the caller's array; size counts, not sign
    copy = one.clone()
    assert am.gini(one).summary() == pytest.approx(24 / 25)
    assert am.entropy(one).summary() == 0
    assert am.effective_size(one).summary() == pytest.approx(1 / 25)
    assert torch.equal(one, copy)
    flat = torch.full((1, 5, 5), 0.3)
    assert am.gini(flat).summary() == pytest.approx(0, abs=1e-12)
    assert am.entropy(flat).summary() == pytest.approx(np.log(25))
    assert am.effective_size(flat).summary() == pytest.approx(1)
    # two equal cells of four: Gini 1 - 2/4, effective size one half
    half = torch.tensor([[[0.0, 2.0], [2.0, 0.0]]])
    assert am.gini(half).summary() == pytest.approx(0.5)
    assert am.effective_size(half).summary() == pytest.approx(0.5)
    assert am.gini(torch.zeros(1, 3, 3)).skip_counts == {"empty map": 1}
    assert am.gini(half).protocol.higher_is_better is None
