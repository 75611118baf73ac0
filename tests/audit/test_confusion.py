"""The audit against models whose reading is known by construction."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from attnviz import audit
from attnviz.audit.interventions import grown
from attnviz.data import ArrayMask, Dataset
from attnviz.data import boatwater as bw
from attnviz.errors import AttnvizWarning, DataError, OutputExists
from tests.support import planting

FAST = {"fills": ("blur",), "methods": ("gradcam",), "examples": 0, "resamples": 300}


def scenes(seed=5, per_group=12, **options):
    return bw.generate(groups=bw.balanced(per_group), seed=seed, marked=True, **options)


def confusion(model, data, **options):
    return audit.confusion(model, data, object="boat", context="water", **{**FAST, **options})


@pytest.fixture(scope="module")
def data():
    return scenes()


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize(
    ("reads", "verdict"), [("water", "context"), ("object", "object"), ("both", "alarm")]
)
def test_planted_models(kind, reads, verdict, data):
    found = confusion(planting.planted(reads, kind=kind), data)
    if verdict == "alarm":  # the ViT's softmax attends to water first
        assert found.verdict.alarm
        assert found.verdict.kind in ("both", "context")
        return
    assert found.verdict.kind == verdict, str(found)
    assert found.verdict.alarm == (reads == "water")
    assert found.fails(0.2) == (reads == "water")
    by_group = {c.name: c.right.value for c in found.cells}
    effects = {(e.operation, e.group): e for e in found.effects}
    removed = effects["context:blur", "boat, water"], effects["object:blur", "boat, water"]
    if reads == "water":
        assert by_group["boat, no water"] == 0
        assert removed[0].net.low > 1
        assert removed[1].net.high < 0.5
        assert removed[0].adjusted < 0.01
    else:
        assert min(by_group.values()) == 1
        # a reader of the mark does not change by a bit when the water goes
        assert removed[0].drop.value == pytest.approx(0, abs=1e-5)
        assert removed[1].net.low > 1
    shown = {(p.method, p.group, p.region): p for p in found.places}
    where = shown["gradcam", "boat, water", "context" if reads == "water" else "object"]
    assert where.energy.low > where.area
    assert ("attention" in found.table.methods()) == (kind == "vit")


def test_numbers_by_hand(data):
    """Scores, drops, shares and cells equal what a few lines without the audit give."""
    model = planting.planted("water")
    found = confusion(model, data)
    x, _ = data.tensors()
    with torch.no_grad():
        logits = model(x)
    score = (logits[:, 1] - logits[:, 0]).numpy()
    np.testing.assert_allclose(found.table.columns["score"], score, atol=1e-5)
    for cell in found.cells:
        rows = data.group == 2 * cell.object + cell.context
        assert cell.images == rows.sum()
        right = (score[rows] > 0) == cell.object
        assert cell.right.value == pytest.approx(right.mean())
        assert cell.score.value == pytest.approx(score[rows].mean(), abs=1e-5)
    area = {p.region: p.area for p in found.places if p.group == "boat, water"}
    rows = data.group == 3
    assert area["object"] == pytest.approx(data.object_mask[rows].mean(), abs=1e-5)
    assert area["context"] == pytest.approx(data.water_mask[rows].mean(), abs=1e-5)
    energies = sum(p.energy.value for p in found.places if p.group == "boat, water")
    assert energies == pytest.approx(1, abs=1e-5)
    groups = next(line for line in found.verdict.lines if line.name == "groups")
    m = [score[data.group == g].mean() for g in range(4)]
    assert groups.context.value == pytest.approx((m[3] - m[2] + m[1] - m[0]) / 2, abs=1e-5)


def test_results_do_not_depend_on_the_batch(data):
    model = planting.planted("both")
    one, many = (confusion(model, data, batch_size=b) for b in (7, 48))
    for name, values in one.table.columns.items():
        np.testing.assert_allclose(values, many.table.columns[name], atol=2e-5, err_msg=name)


def test_model_is_left_as_it_was(data):
    model = bw.SmallNet(4).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    confusion(model, data)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_resuming_gives_the_same(tmp_path, data):
    model, path = planting.planted("water"), tmp_path / "rows.jsonl"
    whole = confusion(model, data, batch_size=8)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done >= 24:
            raise Stop

    with pytest.raises(Stop):
        confusion(model, data, batch_size=8, journal=path, progress=stop)
    with path.open("a") as file:
        file.write('{"i": 24, "id": "half a li')  # what a crash leaves
    with pytest.raises(OutputExists, match="resume"):
        confusion(model, data, batch_size=8, journal=path)
    with pytest.raises(DataError, match="another audit .*weights"):
        confusion(planting.planted("object"), data, batch_size=8, journal=path, resume=True)
    counted = []
    again = confusion(
        model, data, batch_size=8, journal=path, resume=True,
        progress=lambda done, total: counted.append(done),
    )  # fmt: skip
    assert counted[0] == 32  # the first 24 were not run again
    assert again.as_dict() == whole.as_dict()


def test_too_few_images_are_no_evidence():
    found = confusion(planting.planted("water"), scenes(per_group=4))
    assert found.verdict.kind == "not enough evidence"
    assert found.severity is None
    assert not found.verdict.alarm
    assert "4 images" in found.verdict.text
    with pytest.raises(DataError, match="cannot be decided"):
        found.fails(0.2)
    # many images of few sources are as few
    data = replace(scenes(per_group=12), source=("a", "b") * 24, background=("a", "b") * 24)
    assert confusion(planting.planted("water"), data).verdict.kind == "not enough evidence"


def test_groups_alone(data):
    found = confusion(planting.planted("water"), data, regions="groups")
    assert found.verdict.kind == "context"
    assert [line.name for line in found.verdict.lines] == ["groups"]
    assert not found.places
    assert not found.effects


def test_context_from_a_function(data):
    def sea(photo):
        return photo[..., 2].astype(int) - photo[..., 0] > 52

    bare = Dataset(
        tuple(
            replace(s, masks={k: v for k, v in s.masks.items() if k == "boat"},
                    labels=(s.label,), group="")
            for s in data.dataset()
        ),
        ("other", "boat"),
    )  # fmt: skip
    found = confusion(
        planting.planted("water"), bare, context_masks=sea, preprocess=lambda x: _unit(x),
        labels=("other", "boat"),
    )  # fmt: skip
    assert found.verdict.kind == "context"
    assert (found.table.group == data.group).all()
    with pytest.raises(DataError, match="expected \\(64, 64\\)"):
        confusion(planting.planted("water"), bare, context_masks=lambda p: p, preprocess=_unit,
                  labels=("other", "boat"))  # fmt: skip


def _unit(photo):
    return torch.from_numpy(np.array(photo).transpose(2, 0, 1).copy()).float() / 255


def test_bad_input(data):
    model = planting.planted("water")
    with pytest.raises(DataError, match="both 'boat'"):
        audit.confusion(model, data, object="boat", context="boat")
    with pytest.raises(DataError, match="'watr' is no class of the data.*did you mean 'water'"):
        audit.confusion(model, data, object="boat", context="watr")
    with pytest.raises(DataError, match="no class for the object"):
        confusion(model, data, labels=("cat", "dog"))
    with pytest.raises(DataError, match="no image of 'boat, no water'.*allow_empty_groups"):
        confusion(model, data.subset(data.group != 2))
    partial = confusion(model, data.subset(data.group != 2), allow_empty_groups=True)
    assert partial.verdict.kind == "context"
    assert "boat, no water" in partial.verdict.why
    samples = list(data.dataset())
    empty = ArrayMask(np.zeros((64, 64), bool))
    broken = [replace(s, masks={**s.masks, "boat": empty} if s.label == "boat" else s.masks)
              for s in samples]  # fmt: skip
    options = {"preprocess": _unit, "labels": ("other", "boat")}
    with pytest.raises(DataError, match="mask .* is empty: it misses the object"):
        confusion(model, broken, **options)
    small = [replace(s, masks={**s.masks, "boat": ArrayMask(np.ones((9, 9), bool))})
             if s.label == "boat" else s for s in samples]  # fmt: skip
    with pytest.raises(DataError, match="9 x 9 pixels"):
        confusion(model, small, **options)
    none = [replace(s, masks={}) for s in samples]
    with pytest.raises(DataError, match="no image has masks of 'boat'"):
        confusion(model, none, regions="masks", **options)
    with pytest.raises(DataError, match="no image says where 'boat' is.*--masks"):
        audit.confusion(model, none, object="boat", **FAST, **options)
    with pytest.raises(DataError, match="leak"):
        confusion(model, samples, trained_on=samples[:5], **options)
    with pytest.raises(DataError, match="no image"):
        confusion(model, [])


class Spy(torch.nn.Module):
    """A planted model that counts its passes."""

    def __init__(self, reads="water"):
        super().__init__()
        self.inner, self.passes = planting.planted(reads), 0

    def forward(self, x):
        self.passes += 1
        return self.inner(x)


def test_identical_images_are_found_before_any_pass(data):
    samples, model = list(data.dataset()), Spy()
    options = {"preprocess": _unit, "labels": ("other", "boat")}
    twice = [*samples, replace(samples[3], id="copy", source="elsewhere")]
    with pytest.raises(DataError, match="1 images are the same.*'000003' = 'copy'.*identical="):
        confusion(model, twice, **options)
    assert model.passes == 0
    found = confusion(model, twice, identical="skip", **options)
    assert found.settings["identical_skipped"] == 1
    assert found.table.ids == tuple(s.id for s in samples)
    torn = [*samples, replace(samples[3], id="copy", label="other", labels=(), group="")]
    assert torn[-1].labels != samples[3].labels
    with pytest.raises(DataError, match="one of the two is wrong"):
        confusion(model, torn, identical="skip", **options)


def folders(made, share):
    """Scenes as class folders give them: one label, and masks of one in `share` boats."""
    seen, found = 0, []
    for sample in made.dataset():
        seen += sample.label == "boat"
        kept = {"boat": sample.masks["boat"]} if sample.label == "boat" and not seen % share else {}
        found.append(replace(sample, masks=kept, labels=(sample.label,), group=""))
    return Dataset(tuple(found), ("other", "boat"))


@pytest.mark.parametrize(
    ("reads", "verdict"), [("water", "context"), ("object", "object"), ("both", "both")]
)
def test_class_folders_with_masks_of_one_in_five(reads, verdict):
    """What is planted is found without a named context, whatever the share of masks."""
    made = bw.generate(groups=[0, 3] * 60, seed=3, marked=True)
    options = {"object": "boat", "preprocess": _unit, "labels": ("other", "boat"), **FAST}
    found = {n: audit.confusion(planting.planted(reads), folders(made, n), **options)
             for n in (5, 1)}  # fmt: skip
    for share, one in found.items():
        assert one.verdict.kind == verdict, str(one)
        assert one.verdict.alarm == (reads != "object")
        assert [(c.name, c.images) for c in one.cells] == [("boat", 60), ("no boat", 60)]
        assert one.settings["annotated"]["masks"] == 60 // share
        assert [line.images for line in one.verdict.lines] == [60 // share]
    assert "of 60 images with boat 12 masks say where it is; the other 48" in found[5].verdict.why
    assert "say where it is" not in found[1].verdict.why
    assert "the images without boat has no masks, and counts as background" in found[1].verdict.why
    few = audit.confusion(planting.planted(reads), folders(made, 12), **options)
    assert few.verdict.kind == "not enough evidence"
    assert "5 images from 5 sources say where the boat is (at least 10" in few.verdict.text


def test_backgrounds_that_nobody_can_lend_are_told():
    made = bw.generate(groups=[3] * 20 + [0] * 3, seed=3, marked=True)
    found = audit.confusion(
        planting.planted("water"), folders(made, 1), object="boat", preprocess=_unit,
        labels=("other", "boat"), min_images=3, min_clusters=2, **FAST,
    )  # fmt: skip
    assert found.verdict.kind == "not enough evidence"
    assert "too few images could lend their background to the boat" in found.verdict.text


def test_boxes_stand_in_where_there_is_no_mask(data):
    from attnviz.data import Box, mask_box

    samples = []
    for i, s in enumerate(data.dataset()):
        boxes = (Box(*mask_box(s.mask("boat")), "boat"),) if s.has_mask("boat") else ()
        kept = {k: v for k, v in s.masks.items() if k != "boat" or i % 8 < 4}
        samples.append(replace(s, masks=kept, boxes=boxes if "boat" not in kept else ()))
    options = {"preprocess": _unit, "labels": ("other", "boat")}
    found = confusion(planting.planted("object"), samples, **options)
    assert found.settings["regions"] == "masks, boxes"
    assert found.settings["annotated"] == {"masks": 12, "boxes": 12, "none": 0}
    area = np.array([
        0.0 if s.label != "boat" else
        (s.mask("boat") if s.has_mask("boat") else s.box_mask("boat")).mean() for s in samples
    ])  # fmt: skip
    got = np.nan_to_num(found.table.columns["area:object"])
    np.testing.assert_allclose(got, area, atol=1e-6)
    assert found.verdict.kind == "object"


def test_transplants_go_where_nothing_else_is(data):
    """No donor has its own thing where the boat goes; of one that must, the thing is taken out."""
    from attnviz.audit.lending import draw_donors
    from attnviz.audit.pictures import PictureReader
    from attnviz.audit.running import unit_range

    found = confusion(planting.planted("object"), data)
    reader = PictureReader(list(data.dataset()), "boat", "water", prepare=unit_range)
    donors = draw_donors(reader, 0)
    count = donors.natural
    assert count == 12
    assert len(donors) == len(donors.with_context) == 24
    assert donors.occupied[:count].any((1, 2)).all()  # each lends a scene with another thing in it
    assert not donors.occupied[count:].any()
    for natural, cleared, taken in zip(
        donors.with_context[:count], donors.with_context[count:], donors.occupied[:count]
    ):
        changed = (natural != cleared).any(0)
        assert changed.any()
        assert not (changed & ~grown(taken)).any()
    numbers, used = found.table.donor, set()
    for i in np.flatnonzero(data.label == 1):
        meet = (donors.occupied[:count].numpy() & data.object_mask[i]).any((1, 2))
        assert meet.all() if numbers[i] >= count else not meet[numbers[i]]
        used.add(bool(numbers[i] >= count))
    assert used == {False, True}
    pasted = ~np.isnan(found.table.columns["after:paste:with"])
    assert (pasted == (data.label == 1)).all()


class OneLogit(torch.nn.Module):
    """A planted model of two logits as one: boat less other."""

    def __init__(self, reads, sign=1.0):
        super().__init__()
        self.inner, self.sign = planting.planted(reads), sign

    def forward(self, x):
        logits = self.inner(x)
        return self.sign * (logits[:, 1:] - logits[:, :1])


@pytest.mark.parametrize("reads", ["water", "object"])
def test_a_single_logit_is_class_1_and_minus_it_class_0(reads, data):
    two = confusion(planting.planted(reads), data)
    for model, options in (
        (OneLogit(reads), {"labels": None}),
        (OneLogit(reads), {"labels": ("other", "boat")}),
        (OneLogit(reads, -1.0), {"labels": None, "target": 0}),
        (OneLogit(reads, -1.0), {"labels": ("boat", "other")}),
    ):
        one = confusion(model, data.dataset(), preprocess=_unit, **options)
        assert one.verdict.kind == two.verdict.kind
        for name in two.table.columns:
            np.testing.assert_allclose(
                one.table.columns[name], two.table.columns[name], atol=1e-4, err_msg=name
            )
    ranked = audit.rank_pairs(
        OneLogit(reads), data.dataset(), preprocess=_unit, labels=("other", "boat"), resamples=50
    )
    assert {(p.object, p.context) for p in ranked} >= {("boat", "water"), ("other", "land")}


def test_probabilities_given_for_logits_are_refused_or_warned_of(data):
    sure = nn.Sequential(OneLogit("water"), nn.Sigmoid())
    with pytest.raises(
        DataError, match="an audit compares logits, and the model's output are prob"
    ):
        confusion(sure, data.dataset(), preprocess=_unit)
    soft = nn.Sequential(planting.planted("water"), nn.Softmax(1))
    with pytest.warns(AttnvizWarning, match="its sigmoid or softmax is inside"):
        confusion(soft, data.dataset(), preprocess=_unit, labels=("other", "boat"))


def test_classes_of_the_data_by_the_model_s_names(data):
    options = {"preprocess": _unit, "resamples": 50}
    own = audit.rank_pairs(planting.planted("water"), data.dataset(), labels=("other", "boat"),
                           **options)  # fmt: skip
    mapped = audit.rank_pairs(
        planting.planted("water"), data.dataset(), labels=("car", "vessel"),
        classes={"boat": ["vessel"], "other": [0]}, **options,
    )  # fmt: skip
    assert mapped == own
    with pytest.raises(DataError, match="'boot', which no image of the data has; did you mean"):
        audit.rank_pairs(planting.planted("water"), data.dataset(), labels=("car", "vessel"),
                         classes={"boot": ["vessel"]}, **options)  # fmt: skip


def test_json_and_csv(data):
    found = confusion(planting.planted("water", kind="vit"), data)
    text = json.dumps(found.as_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["schema"] == "attnviz.audit"
    assert back["verdict"]["kind"] == "context"
    assert back["verdict"]["severity"]["low"] > 0.5
    lines = found.csv().splitlines()
    assert len(lines) == 1 + len(data)
    assert lines[0].startswith("id,source,background,object,context,right,score")


def test_memory_holds_one_batch_of_pictures(data):
    """However many images there are, no more than a batch of them is alive at a time."""
    import gc

    from attnviz.audit.pictures import AuditPicture

    alive = []

    def count(done, total):
        alive.append(sum(type(o) is AuditPicture for o in gc.get_objects()))

    found = confusion(planting.planted("water"), data, batch_size=6, progress=count)
    assert len(alive) == 8
    assert max(alive) <= 6
    assert max(alive[1:]) == max(alive[:2])
    # what stays is numbers: four bytes each
    assert all(v.dtype == np.float32 for v in found.table.columns.values())


def test_attention_by_hand(data):
    """The planted ViT's attention, from its weights: softmax of the class token's query."""
    from timm.layers import Attention

    model = planting.planted("water", kind="vit")
    found = confusion(model, data)
    kept = []

    def attend(module, args, output):
        x = args[0]
        b, n, c = x.shape
        q, k, _ = module.qkv(x).view(b, n, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        a = (q[:, :, :1] @ k.transpose(-1, -2) * module.scale).softmax(-1)[:, :, 0, 1:].mean(1)
        kept.append((a / a.sum(1, keepdim=True)).view(b, 8, 8))

    attention = model.blocks[-1].attn
    assert isinstance(attention, Attention)
    handle = attention.register_forward_hook(attend)
    with torch.no_grad():
        model(data.tensors()[0])
    handle.remove()
    assert len(kept) == 1
    pixels = kept[0].numpy().repeat(8, 1).repeat(8, 2) / 64
    boat = np.where(data.label[:, None, None] == 1, data.object_mask, False)
    both = data.group == 3
    for name, mask in (("object", boat), ("context", data.water_mask)):
        want = (pixels * mask).sum((1, 2))[both]
        np.testing.assert_allclose(found.table.columns[f"map:attention:{name}"][both], want, 1e-4)
    shown = {(p.method, p.group, p.region): p for p in found.places}
    water, rest = (shown["attention", "boat, water", r] for r in ("context", "elsewhere"))
    assert water.energy.low > water.area  # chance is the area
    assert water.area == pytest.approx(data.water_mask[both].mean(), abs=1e-5)
    assert rest.energy.high < rest.area


def test_attention_of_windows_and_of_none(data):
    """A Swin's last windows are read as well; every head alike everywhere gives the areas."""
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=16, depths=(1, 1),
        num_heads=(2, 4), num_classes=2,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for block in model.modules():
            if hasattr(block, "relative_position_bias_table"):
                block.qkv.weight.zero_()
                block.qkv.bias.zero_()
                block.relative_position_bias_table.zero_()
    found = confusion(model, data.subset(np.arange(0, 48, 2)), min_images=2)
    for place in (p for p in found.places if p.method == "attention"):
        assert place.energy.value == pytest.approx(place.area, abs=1e-5)
    assert any(p.method == "attention" for p in found.places)


def test_small_controls_are_told(data):
    """Where the water leaves little room, the result says how large its control was."""
    found = confusion(planting.planted("water"), data)
    effects = {(e.operation, e.group): e for e in found.effects}
    rows = data.group == 3
    want = found.table.columns["room:context"][rows]
    effect = effects["context:blur", "boat, water"]
    assert effect.control_area == pytest.approx(np.nanmean(want), abs=1e-6)
    assert np.nanmax(want) <= 1
    assert np.nanmin(want) >= 0.25
    assert ("controls are smaller" in found.verdict.why) == (np.nanmean(want) < 0.9)
    assert np.isnan(effects["paste:with", "boat, water"].control_area)


def test_objects_cropped_away_are_told(data):
    """A mask that misses the model's input: the image counts in its group, without a region."""
    from attnviz.models import Preprocess

    samples = list(data.dataset())
    away = [i for i in range(len(data)) if data.label[i]][:3]
    corner = np.zeros((64, 64), bool)
    corner[:3, :3] = True
    for i in away:
        masks = {**samples[i].masks, "boat": ArrayMask(corner)}
        samples[i] = replace(samples[i], masks=masks)
    crop = Preprocess(resize=None, crop=(56, 56), mean=(0.0,) * 3, std=(1.0,) * 3)
    found = confusion(planting.planted("water"), samples, preprocess=crop, labels=("other", "boat"))
    gone = (found.table.group >= 2) & (found.table.columns["area:object"] == 0)
    assert set(away) <= set(np.flatnonzero(gone))
    assert f"in {gone.sum()} images the boat lies outside" in found.verdict.why
    assert np.isnan(found.table.columns["after:object:blur"][away]).all()
    assert found.cells[0].images == 12
