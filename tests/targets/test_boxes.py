"""One detection as target: torchvision's detectors and DETR-type ones, against hooks by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnviz
from attnviz.errors import MethodError, TargetError
from attnviz.models import default_layer
from attnviz.models.detections import detections
from attnviz.targets import BoxTarget

detection = pytest.importorskip("torchvision.models.detection")

NONE = {"weights": None, "weights_backbone": None}
LABELS = ["background", "boat", "seashore", "car", "dock"]


def build(name):
    """A detector with random weights, on pictures of about 100 pixels, that finds boxes."""
    torch.manual_seed(0)
    sizes = {"min_size": 96, "max_size": 320, "num_classes": 5}
    if name == "fasterrcnn":
        model = detection.fasterrcnn_mobilenet_v3_large_fpn(
            **NONE, **sizes, box_score_thresh=0.0, box_detections_per_img=8
        )
    elif name == "retinanet":
        model = detection.retinanet_resnet50_fpn(
            **NONE, **sizes, score_thresh=0.0, detections_per_img=8
        )
    elif name == "fcos":
        model = detection.fcos_resnet50_fpn(**NONE, **sizes, score_thresh=0.0, detections_per_img=8)
    else:
        model = detection.ssdlite320_mobilenet_v3_large(**NONE, num_classes=5, score_thresh=0.0)
    # random heads start near zero, or overflow in a deep backbone: where all maps are flat
    factor = {"fasterrcnn": 2.0, "ssdlite": 3.0}.get(name, 1.0)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.mul_(factor)
    return model.double().eval()


def by_hand(model, layers, x, number, call=lambda model, x: model([x])[0]["scores"]):
    """Grad-CAM of one detection's score with hooks, the maximum over levels scaled alike."""
    kept = {}

    def read(name):
        def hook(module, inputs, output):
            kept[name] = output
            output.retain_grad()

        return hook

    handles = [model.get_submodule(n).register_forward_hook(read(n)) for n in layers]
    score = call(model, x)[number]
    score.backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    finest = kept[layers[0]].shape[2:]
    maps, most = [], []
    for name in layers:
        a = kept[name].detach()
        if kept[name].grad is None:  # the box is not read from this level
            continue
        one = (kept[name].grad.mean((2, 3), keepdim=True) * a).sum(1)
        maps.append(F.interpolate(one[None], finest, mode="bilinear")[0, 0])
        most.append(float(maps[-1].abs().max()))
    scaled = [m * max(most) / (own or 1) for m, own in zip(maps, most, strict=True)]
    best = torch.zeros(finest, dtype=x.dtype)
    for m in scaled:
        best = torch.where(m.abs() > best.abs(), m, best)
    return best, score.detach(), sum(own > 0 for own in most)


LEVELS = {
    "fasterrcnn": ["layer_blocks.0", "layer_blocks.1"],
    "retinanet": ["layer_blocks.0", "layer_blocks.1", "layer_blocks.2", "extra_blocks.p6",
                  "extra_blocks.p7"],
}  # fmt: skip
LEVELS["fcos"] = LEVELS["retinanet"]


@pytest.mark.parametrize("name", ["fasterrcnn", "retinanet", "fcos", "ssdlite"])
def test_a_detection_equals_grad_cam_by_hand(name):
    model = build(name)
    x = torch.rand(3, 90, 130, dtype=torch.float64)
    names = [f"backbone.fpn.{name}" for name in LEVELS.get(name, [])] or ["backbone.features.0"]
    below = default_layer(model)
    for layer, layers in ((None, names), (below, [below])):
        maps = attnviz.explain(
            model, x, classes=["box:0", "box:3"], labels=LABELS, signed=True, layer=layer
        )
        if layer is None and len(names) > 1:
            assert maps.layer == f"{names[0]} ... {names[-1]} (maximum)"
            assert maps.meta["layers"] == names
            assert f"maximum of {len(names)} levels" in maps.meta["fused"]
        for row, number in enumerate((0, 3)):
            values, score, read = by_hand(model, layers, x, number)
            torch.testing.assert_close(maps.score[row], score, rtol=1e-6, atol=1e-6)
            scale = values.abs().max()
            assert scale > 0
            assert read == 1 or "extra_blocks.p7" in names[-1]
            torch.testing.assert_close(maps.values[row] / scale, values / scale, rtol=0, atol=1e-6)


def test_default_layers_are_stages_that_boxes_of_every_size_depend_on():
    with torch.device("meta"):
        assert default_layer(detection.ssd300_vgg16(**NONE)) == "backbone.features"
        assert default_layer(detection.ssdlite320_mobilenet_v3_large(**NONE)) == (
            "backbone.features.0"
        )
        assert default_layer(detection.maskrcnn_resnet50_fpn(**NONE)) == "backbone.body.layer4"

        class Own(detection.FasterRCNN):
            pass

        plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        plain.out_channels = 8
        assert default_layer(Own(plain, 3)) == "backbone"


def test_a_level_of_one_cell_does_not_cover_the_others():
    model = build("retinanet")
    x = torch.rand(1, 3, 96, 128, dtype=torch.float64)
    maps = attnviz.explain(model, x, target="box:0", method="eigencam")  # flat maps are an error
    names = [f"backbone.fpn.{name}" for name in LEVELS["retinanet"]]
    each = attnviz.explain(model, x, target="box:0", method="eigencam", layer=names)
    grids = [each[name].values.shape[1:] for name in names]
    assert grids[-1] == (1, 1)
    best = torch.zeros(maps.values.shape[1:], dtype=torch.float64)
    most = max(float(each[name].values.max()) for name in names[:-1])
    for name in names[:-1]:
        values = F.interpolate(each[name].values[:, None], grids[0], mode="bilinear")[0, 0]
        best = torch.maximum(best, values / values.max())
    torch.testing.assert_close(maps.values[0] / maps.values.max(), best, rtol=1e-6, atol=1e-9)
    assert float(maps.values.max()) <= most


class Levels(nn.Module):
    """A detector of one's own with three levels: a shared head, a list of heads, or in one part."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.ModuleList(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(3))
        self.side = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.out = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = {"shared": nn.Conv2d(8, 7, 1), "part": Head()}[form]

    def forward(self, x):
        x, stages = self.stem(x).relu(), []
        for down in self.down:
            x = down(x).relu()
            stages.append(x)
        levels, above = [], None
        for side, out, stage in zip(self.side, self.out, stages[::-1], strict=False):
            above = side(stage) + (0 if above is None else F.interpolate(above, stage.shape[2:]))
            levels.insert(0, out(above))
        if self.form == "part":
            return self.head(levels)
        return decoded([self.head(level) for level in levels])


class Head(nn.Module):
    """One convolution for each level, with a tower that all share before it."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Conv2d(8, 8, 3, padding=1)
        self.each = nn.ModuleList(nn.Conv2d(8, 7, 1) for _ in range(3))

    def forward(self, levels):
        seen = [self.tower(level).relu() for level in levels]
        return decoded([each(one) for each, one in zip(self.each, seen, strict=True)])


def decoded(outs):
    """(B, n, 4 + 3): boxes of the size of a cell's neighbourhood, and probabilities."""
    rows = []
    for out in outs:
        p = out.flatten(2).transpose(1, 2).mul(5).sigmoid()
        step, w = 64 / out.shape[2], out.shape[3]
        number = torch.arange(p.shape[1])
        centre = (torch.stack([number % w, number // w], 1) + 0.5) * step
        boxes = torch.cat([centre, torch.full_like(centre, 2 * step)], 1).to(p)
        rows.append(torch.cat([boxes.expand(len(p), -1, -1), p[..., 4:]], -1))
    return torch.cat(rows, 1)


@pytest.mark.parametrize("form", ["shared", "part"])
def test_levels_of_a_detector_of_ones_own_are_found(form):
    model = Levels(form).double().eval()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    names = ["out.2", "out.1", "out.0"]  # fine to coarse
    labels = ["boat", "car", "dock"]
    numbers = (5, 256 + 3, 256 + 64 + 7)  # a cell of each level: 16 x 16, 8 x 8, 4 x 4
    kinds = [f"box:{k}" for k in numbers]
    maps = attnviz.explain(model, x, classes=kinds, labels=labels, signed=True)
    assert maps.meta["layers"] == names
    # a method that takes one layer takes the last that every level comes from
    assert default_layer(model, x) == "side.0"
    for row, number in enumerate(numbers):
        values, score, read = by_hand(
            model, names, x, number, lambda model, x: model(x)[0, :, 4:].max(1).values
        )
        assert read == 1
        torch.testing.assert_close(maps.score[row], score)
        torch.testing.assert_close(maps.values[row], values, rtol=1e-6, atol=1e-12)


@pytest.fixture(scope="module")
def faster():
    return build("fasterrcnn")


def test_several_boxes_take_one_forward(faster):
    x = torch.rand(2, 3, 90, 130, dtype=torch.float64)
    runs = []
    handle = faster.backbone.register_forward_hook(lambda *_: runs.append(1))
    maps = attnviz.explain(faster, x, classes=[f"box:{k}" for k in range(2)])
    handle.remove()
    assert len(runs) == 1
    assert len(maps) == 4
    with torch.no_grad():
        out = faster(x)
    scores = torch.stack([one["scores"][:2] for one in out]).flatten()
    torch.testing.assert_close(maps.score, scores)
    for i in range(2):  # a batch is as its images by themselves
        alone = attnviz.explain(faster, x[i], classes=[f"box:{k}" for k in range(2)])
        torch.testing.assert_close(maps.values[2 * i : 2 * i + 2], alone.values, rtol=1e-6, atol=0)
        for k in range(2):
            found = maps.target[2 * i + k]
            assert found["number"] == k
            assert found["class"] == int(out[i]["labels"][k])
            np.testing.assert_allclose(found["box"], out[i]["boxes"][k].tolist(), atol=1e-3)


def half(photo):
    """Preprocessing to half the size, as a function whose geometry is found out."""
    tensor = torch.tensor(np.asarray(photo) / 255).permute(2, 0, 1)
    return F.avg_pool2d(tensor, 2)


def test_a_box_is_one_of_the_photo(faster):
    photo = np.random.default_rng(0).integers(0, 255, (180, 260, 3), np.uint8)
    with torch.no_grad():
        out = faster([half(photo)])[0]
    boxes = out["boxes"] * 2
    for k in (0, 5):
        x0, y0, x1, y1 = boxes[k].tolist()
        name = LABELS[out["labels"][k]]
        same = (out["labels"] == out["labels"][k]) & (out["boxes"] == out["boxes"][k]).all(1)
        number = int(same.nonzero()[0])
        for target in (f"box:{x0},{y0},{x1},{y1}@{name}", BoxTarget((x0, y0, x1, y1), name)):
            maps = attnviz.explain(faster, photo, target=target, preprocess=half, labels=LABELS)
            assert maps.target[0]["number"] == number
            np.testing.assert_allclose(maps.target[0]["box"], boxes[k].tolist(), atol=0.2)
            assert maps.label[0].startswith(f"{name} at {x0:.0f}, {y0:.0f}")
    # a little beside it, it is still the one; far off there is none
    near = (x0 + 1, y0, x1 + 1, y1)
    maps = attnviz.explain(faster, photo, target=BoxTarget(near), preprocess=half, labels=LABELS)
    assert maps.target[0]["number"] is not None
    with pytest.raises(TargetError, match=r"no detection of 8 .* nearest: \d: "):
        attnviz.explain(faster, photo, target="box:0,0,1,1", preprocess=half, labels=LABELS)
    with pytest.raises(TargetError, match="found 8 boxes in image 0, counted from 0"):
        attnviz.explain(faster, photo, target="box:8", preprocess=half)
    with pytest.raises(TargetError, match="explain one of them: target='box:0'"):
        attnviz.explain(faster, photo, preprocess=half)
    with pytest.raises(TargetError, match="labels are not known"):
        attnviz.explain(faster, photo, target=f"box:{x0},{y0},{x1},{y1}@boat", preprocess=half)


class Framed(nn.Module):
    """Resizes and pads inside, as a detector does, and answers with the brightness of its maps."""

    def __init__(self, *size):
        super().__init__()
        self.transform = detection.transform.GeneralizedRCNNTransform(*size, [0.0] * 3, [1.0] * 3)
        self.backbone = nn.AvgPool2d(8)

    def forward(self, images):
        seen, _ = self.transform(images)
        return self.backbone(seen.tensors).mean((2, 3))


@pytest.mark.parametrize(
    ("size", "shape", "object_"),
    [
        ((40, 640), (40, 320), (32, 40, 160, 168)),  # padded below only, to 64 x 320
        ((80, 640), (40, 300), (32, 40, 160, 168)),  # twice the size, padded to 96 x 608
        ((40, 640), (330, 40), (304, 312, 8, 16)),  # a tall one, padded to 352 x 64
        ((40, 160), (100, 600), (80, 100, 0, 20)),  # shrunk
    ],
)
def test_the_models_own_resize_and_padding_are_undone(size, shape, object_):
    y0, y1, x0, x1 = object_
    photo = np.zeros((*shape, 3), np.uint8)
    photo[y0:y1, x0:x1] = 255
    model = Framed(*size).eval()
    tensor = torch.tensor(photo / 255).permute(2, 0, 1).float()
    as_photo = attnviz.explain(
        model,
        photo,
        target=0,
        layer="backbone",
        preprocess=lambda p: torch.tensor(np.asarray(p) / 255).permute(2, 0, 1).float(),
    )
    for maps in (as_photo, attnviz.explain(model, tensor, target=0, layer="backbone")):
        on = maps.resize("photo").values[0].numpy()
        assert on.shape == shape
        rows, columns = np.nonzero(on >= 0.5 * np.nanmax(on))
        cell = 8 * max(1.0, shape[0] / 40, shape[1] / 640) if size[1] == 160 else 8
        for got, wanted in (
            (rows.min(), y0),
            (rows.max() + 1, y1),
            (columns.min(), x0),
            (columns.max() + 1, x1),
        ):
            assert abs(got - wanted) <= cell
        # the centre of mass of the evidence is in the object
        weight = np.nan_to_num(on)
        middle = (np.arange(shape[0]) + 0.5) @ weight.sum(1) / weight.sum()
        assert y0 - 2 <= middle <= y1 + 2
    # a method that lays a layer's map over the input would be off by the padding
    if shape[0] == 40:
        with pytest.raises(MethodError, match="pads its input of 40 x"):
            attnviz.explain(model, tensor, target=0, layer="backbone", method="scorecam")
        pixels = attnviz.explain(model, tensor, target=0, method="saliency")
        assert pixels.values.shape[1:] == shape
        assert pixels.geometry is None


class Grid(nn.Module):
    """A detector of one's own: a box of 8 x 8 pixels for each cell of 4, decoded in many forms."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.conv, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 4, 1)

    def decoded(self, x):
        p = self.head(self.conv(x).relu()).flatten(2).transpose(1, 2).mul(9).sigmoid()
        w = x.shape[3] // 4
        number = torch.arange(p.shape[1])
        centre = torch.stack([number % w, number // w], 1) * 4.0 + 2
        boxes = torch.cat([centre, torch.full_like(centre, 8)], 1).expand(len(x), -1, -1)
        return boxes, p[..., :1], p[..., 1:]

    def forward(self, x):
        boxes, there, p = self.decoded(x)
        if self.form == "5 + classes":
            return torch.cat([boxes, there, p], -1), None
        if self.form == "transposed":
            return torch.cat([boxes, there * p], -1).transpose(1, 2)
        if self.form == "shares":
            size = boxes.new_tensor([x.shape[3], x.shape[2]] * 2)
            return torch.cat([boxes / size, there * p], -1)
        corners = torch.cat([boxes[..., :2] - 4, boxes[..., :2] + 4], -1)
        found = zip(corners, *(there * p).max(-1), strict=True)
        if self.form == "objects":
            return [SimpleNamespace(bboxes=b, scores=s, labels=k) for b, s, k in found]
        if self.form == "inside":
            return [
                SimpleNamespace(boxes=SimpleNamespace(xyxy=b, conf=s, cls=k.float()), names={})
                for b, s, k in found
            ]
        parts = [(SimpleNamespace(tensor=b), s, k) for b, s, k in found]
        return [
            {"instances": SimpleNamespace(pred_boxes=b, scores=s, pred_classes=k)}
            for b, s, k in parts
        ]


FORMS = ("5 + classes", "transposed", "shares", "objects", "inside", "instances")


@pytest.mark.parametrize("form", FORMS)
def test_detections_of_any_form_equal_grad_cam_by_hand(form):
    model, x, names = Grid(form).eval(), torch.rand(2, 3, 24, 40), ["boat", "car", "dock"]
    activation = model.conv(x).detach().requires_grad_()
    p = model.head(activation.relu()).flatten(2).transpose(1, 2).mul(9).sigmoid()
    best = (p[..., :1] * p[..., 1:])[:, 27].max(-1)
    best.values.sum().backward()
    expected = torch.einsum("bchw,bc->bhw", activation, activation.grad.mean((2, 3))).detach()
    # row 27 of 10 columns: the cell at x 7, y 2
    for target in ("box:27", "box:26,6,34,14"):
        maps = attnviz.explain(model, x, target=target, labels=names, layer="conv", signed=True)
        torch.testing.assert_close(maps.values, expected)
        torch.testing.assert_close(maps.score, best.values.detach())
        for i, told in enumerate(maps.target):
            assert told["box"] == pytest.approx([26, 6, 34, 14])
            assert (told["class"], told["number"]) == (int(best.indices[i]), 27)


def test_an_image_without_detections_in_a_list_of_instances():
    class Instances(SimpleNamespace):  # detectron2's have a length
        def __len__(self):
            return len(self.scores)

    one = Instances(pred_boxes=SimpleNamespace(tensor=torch.rand(0, 4)), scores=torch.rand(0),
                    pred_classes=torch.zeros(0))  # fmt: skip
    (seen,) = detections([{"instances": one}], (8, 8))
    assert seen.boxes.shape == (0, 4)


def test_boxes_that_cannot_be_read_say_why():
    x, names = torch.rand(1, 3, 24, 40), ["boat", "car", "dock"]
    grid = Grid("5 + classes").eval()
    with pytest.raises(TargetError, match="labels= tell how many classes there are"):
        attnviz.explain(grid, x, target="box:3", layer="conv")
    with pytest.raises(TargetError, match=r"\(1, 60, 8\) holds boxes only .* there are 2 labels"):
        attnviz.explain(grid, x, target="box:3", layer="conv", labels=names[:2])

    class Raw(Grid):
        def forward(self, x):
            return self.head(self.conv(x)).flatten(2).transpose(1, 2).repeat(1, 1, 2)

    with pytest.raises(TargetError, match="are no probabilities .* not decoded yet"):
        attnviz.explain(Raw("").eval(), x, target="box:3", layer="conv", labels=names)

    class Own(Grid):
        def forward(self, x):
            return [SimpleNamespace(boxes=b, quality=b[:, 0]) for b in self.decoded(x)[0]]

    with pytest.raises(TargetError, match="got SimpleNamespace with boxes, quality"):
        attnviz.explain(Own("").eval(), x, target="box:3", layer="conv")
    with pytest.raises(TargetError, match="returns detections"):
        attnviz.explain(Own("").eval(), x, layer="conv")
