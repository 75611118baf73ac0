"""What `fit` does beside cross-entropy and a map: exchange, balance, erasing, pooling, the tail."""

import copy

import pytest
import torch
from torch import nn

from attnviz import errors, guidance
from attnviz.guidance import GuideConfig, fit
from attnviz.guidance.batches import batches
from attnviz.guidance.changed import Exchanges, changed_of, cuts_of, joined
from attnviz.guidance.pulling import Start
from attnviz.guidance.survey import order_of, survey
from attnviz.guidance.tails import Features, divide, trained_names

from .test_fit import SETTINGS, Stripes, net, same


class Fixed(Stripes):
    """Stripes that can be had as they are, as `Examples` can."""

    flip = False

    def example(self, i, *, mirrored=False):
        image, label, mask = self.examples[i]
        if mirrored:
            return image.flip(-1), label, None if mask is None else mask.flip(-1)
        return image, label, mask


class Untaught(Stripes):
    """Class 0 has the stripe as often as class 1: what training never showed."""

    def __init__(self, n=24, seed=7):
        super().__init__(n, seed, stripe=False)
        self.examples = [
            (i + torch.nn.functional.pad(torch.full((3, 3, 16), 2.0), (0, 0, 0, 13)), y, m)
            if k % 4 in (0, 3) else (i, y, m)
            for k, (i, y, m) in enumerate(self.examples)
        ]  # fmt: skip


def test_exchanged_objects_take_the_answer_from_the_stripe():
    """No image of training shows the one without the other; masks of a few are enough."""
    train, test = Stripes(48, annotated=0.5), Untaught()
    common = SETTINGS | {"epochs": 30, "monitor": "answer"}
    options = {"edge": 0, "place": "same", "flip": False, "fill": "mean", "alone": 0.0}
    plain, guided = net(), net()
    fit(plain, train, **common | {"loss": "none"})
    result = fit(
        guided, train, **common | {"exchange": True, "exchange_options": options, "keep": 1.0}
    )
    config = GuideConfig(layer="6")
    before = guidance.answers(plain, test, config=config)
    after = guidance.answers(guided, test, config=config)
    assert before.accuracy.value < 0.7
    assert after.accuracy.value > 0.9
    assert "exchanged" in result.history[0]
    assert any(note.startswith("exchange: 12 images beside each batch") for note in result.notes)


def test_exchange_needs_two_classes():
    data = Stripes(16)
    data.examples = [(i, y, m if y else None) for i, y, m in data.examples]
    with pytest.raises(errors.DataError, match="two classes"):
        fit(net(), data, **SETTINGS | {"exchange": True})
    result = fit(net(), data, **SETTINGS | {"exchange": None, "epochs": 1})
    assert result.config.exchange is False
    assert any("the map may move without the answer" in note for note in result.notes)


def test_what_is_cut_where_one_class_is_the_absence_of_the_other():
    """Images without the object are ground as they are, and lend a patch in its outline."""
    data = Stripes(16)
    data.examples = [(i, y, m if y else None) for i, y, m in data.examples]
    data.absent = frozenset({0})
    cuts = cuts_of(data, survey(data), seed=0)
    ground = cuts.grounds[0]
    there = cuts.labels == 1
    assert torch.equal(ground[~there], cuts.images[~there])
    assert not torch.equal(ground[there], cuts.images[there])
    assert torch.equal(cuts.real, there)
    outlines = {tuple(m.nonzero().flatten().tolist()) for m in cuts.masks[there]}
    assert all(tuple(m.nonzero().flatten().tolist()) in outlines for m in cuts.masks[~there])
    pool = Exchanges(cuts, 40, {"place": "same", "flip": False, "jitter": 0.0}, seed=0)
    kinds = {(label, mask is not None) for _, label, mask in (pool[i] for i in range(40))}
    assert kinds == {(1, True), (0, False)}
    a, b = pool[3], pool[3]
    assert torch.equal(a[0], b[0])  # repeatable
    assert not torch.equal(pool[3][0], pool[4][0])


def test_a_mean_over_both_batches_is_the_sum_of_their_means():
    data = Stripes(6)
    first = next(batches(data, 4))
    second = next(batches(Stripes(6, seed=3), 2))
    maps = torch.randn(6, 16, 16)
    loss = guidance.losses.energy
    both = loss(maps, joined(first, second).annotation).total
    apart = loss(maps[:4], first.annotation).total + loss(maps[4:], second.annotation).total
    torch.testing.assert_close(both, apart)


def test_order_of_an_epoch_by_hand():
    data = [(torch.zeros(3, 4, 4), int(i >= 18), None) for i in range(20)]
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    for i in (3, 5, 18):
        data[i] = (*data[i][:2], mask)
    known = survey(data)
    assert known.counts() == {0: 18, 1: 2}
    assert known.imbalance == 9
    order = order_of(known, 10, seed=0, balanced=False, annotated=0.0)
    assert sorted(order) == list(range(20))
    order = order_of(known, 10, seed=0, balanced=True, annotated=0.0)
    assert sum(known.labels[i] for i in order) == 10
    order = order_of(known, 10, seed=0, balanced=False, annotated=0.4)
    for start in (0, 10):
        heads = order[start : start + 4]
        assert set(heads) <= {3, 5, 18}
        assert heads.count(18) == 2  # of the annotated, the classes come alike
    assert order == order_of(known, 10, seed=0, balanced=False, annotated=0.4)
    assert survey(iter(data)) is None


def test_uneven_classes_are_balanced_and_said():
    data = Stripes(24)
    data.examples = [e for k, e in enumerate(data.examples) if e[1] == 0 or k < 6]
    result = fit(net(), data, **SETTINGS | {"epochs": 1})
    assert result.config.balanced is True
    assert "classes are drawn equally often, since there are 12 of class 0, 3 of class 1" in (
        result.notes
    )
    assert fit(net(), Stripes(8), **SETTINGS | {"epochs": 1}).config.balanced is False


def test_as_many_epochs_as_make_the_steps():
    result = fit(net(), Stripes(24), **SETTINGS | {"epochs": None, "steps": 7})
    assert result.config.epochs == len(result.history) == 3  # of three steps
    assert "3 epochs of 3 steps" in result.notes


# -- the tail ------------------------------------------------------------------------------------


def test_the_tail_of_known_networks():
    timm = pytest.importorskip("timm")
    from attnviz.models import default_layer

    x = torch.randn(1, 3, 64, 64)
    for name, first, boundary in (
        ("resnet18", "layer4.0.conv1.weight", "layer4"),
        ("tf_efficientnet_lite0", "conv_head.weight", "conv_head"),
    ):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=2).eval()
        names = trained_names(model, "tail", default_layer(model), x)
        assert names[0] == first
        assert names[-1].endswith("bias")
        for n, p in model.named_parameters():
            p.requires_grad_(n in names)
        prefix = divide(model, x)
        assert prefix.boundary == boundary
        y = torch.randn(3, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(prefix.rest(prefix(y)), model(y), rtol=1e-4, atol=1e-5)
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        assert trained <= {id(p) for p in prefix.rest.parameters()}
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2, depth=3)
    names = trained_names(vit, "tail", default_layer(vit), x)
    assert names[0].startswith("blocks.2.")
    for n, p in vit.named_parameters():
        p.requires_grad_(n in names)
    assert divide(vit, x) is None  # positions are added between the modules


def test_the_frozen_part_computed_once_trains_the_same():
    settings = SETTINGS | {"train": "tail", "layer": "4", "keep": 1.0, "pull": 0.0}
    kept, anew = net(batchnorm=False), net(batchnorm=False)
    frozen = {k: v.clone() for k, v in kept.state_dict().items() if k.startswith("0.")}
    result = fit(kept, Fixed(16), **settings)
    assert any("computed once" in note for note in result.notes)
    other = fit(anew, Fixed(16), **settings | {"cache": False})
    assert not any("computed once" in note for note in other.notes)
    for a, b in zip(kept.parameters(), anew.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(v, kept.state_dict()[k]) for k, v in frozen.items())
    assert not torch.equal(kept[4].weight, net(batchnorm=False)[4].weight)
    assert all(p.requires_grad for p in kept.parameters())
    with pytest.raises(errors.GuidanceError, match="cache=True needs a dataset with example"):
        fit(net(), Stripes(8), **settings | {"cache": True})


def test_features_are_those_of_the_image_and_of_its_mirror():
    model = net(batchnorm=False)
    for p in model[:4].parameters():
        p.requires_grad_(False)
    prefix = divide(model, torch.randn(1, 3, 16, 16))
    data = Fixed(4)
    seen = Features(data, prefix, False, torch.device("cpu"))
    for mirrored in (False, True):
        x, label, mask = data.example(1, mirrored=mirrored)
        f, y, where = seen.example(1, mirrored=mirrored)
        torch.testing.assert_close(f, model[:4](x[None])[0])
        assert y == label
        pooled = torch.nn.functional.adaptive_avg_pool2d(mask[None], 8)[0]
        torch.testing.assert_close(where["mask"], pooled)


def test_a_part_of_the_way_is_kept():
    """Without validation the weights are start + share (trained - start), the head's are whole."""
    settings = SETTINGS | {"pull": 0.0, "epochs": 2}
    start, whole, half = net(), net(), net()
    fit(whole, Stripes(8), **settings)
    fit(half, Stripes(8), **settings | {"keep": 0.5})
    for name in ("0.weight", "4.bias"):
        s, w, h = (m.state_dict()[name] for m in (start, whole, half))
        torch.testing.assert_close(h, s + 0.5 * (w - s))
    assert torch.equal(half[9].weight, whole[9].weight)
    model = net()
    pulled = Start(model, GuideConfig(pull=2.0, keep=1.0))
    with torch.no_grad():
        model[0].weight += 1
    pulled.draw(0.1)
    torch.testing.assert_close(model[0].weight, net()[0].weight + 0.8)


def test_resuming_an_exchange_is_to_the_bit(tmp_path):
    settings = SETTINGS | {"exchange": True, "pull": 0.5, "keep": 0.6, "monitor": "answer"}
    settings |= {"exchanged": 4, "exchange_options": {"edge": 0}}
    whole = net()
    full = fit(whole, Stripes(), validation=Stripes(12, seed=1), **settings)

    class Killed(Exception):
        pass

    def kill(kind, record):
        if kind == "step" and record["epoch"] == 4:
            raise Killed

    with pytest.raises(Killed):
        fit(
            net(), Stripes(), validation=Stripes(12, seed=1), out=tmp_path, progress=kill,
            **settings,
        )  # fmt: skip
    resumed = net(seed=5)
    result = fit(
        resumed, Stripes(), validation=Stripes(12, seed=1), out=tmp_path, resume=True, **settings
    )
    assert same(whole, resumed)
    assert list(result.history) == list(full.history)
    assert "val_exchanged_worst" in result.history[-1]


# -- erasing and pooling -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hide-and-seek", {"cells": 4}), ("cutmix", {}), ("adl", {"layer": "4"}), ("eil", {}),
        ("seenet", {}), ("acol", {"width": 4}), ("cascade", {"rounds": 2, "stop_accuracy": 0.0}),
    ],
)  # fmt: skip
def test_every_erasing_scheme_trains(name, options, tmp_path):
    model, data = net(), Stripes(16)
    settings = SETTINGS | {"loss": "none", "erasing": name, "erasing_options": options}
    result = fit(model, data, validation=Stripes(8, seed=2), out=tmp_path, **settings)
    assert result.history[-1]["classification"] > 0
    assert not same(model, net())
    fresh = guidance.restored(net(seed=3), tmp_path, example=torch.randn(1, 3, 16, 16))
    x = torch.stack([data[i][0] for i in range(4)])
    from attnviz.targets import logits_of

    torch.testing.assert_close(logits_of(fresh(x)), logits_of(result.model.eval()(x)))
    if name == "acol":
        assert isinstance(result.model, type(fresh))
        assert result.model is not model


def test_erasing_beside_a_map():
    result = fit(net(), Stripes(16), **SETTINGS | {"erasing": "has", "warmup": 0.0})
    assert "guidance/outside" in result.history[-1]
    with pytest.raises(errors.GuidanceError, match="acol.*loss='none'"):
        fit(net(), Stripes(8), **SETTINGS | {"erasing": "acol"})


@pytest.mark.parametrize(("name", "options"), [("lse", {"r": 1.0}), ("topk", {}), ("gmp", {})])
def test_every_pooling_trains(name, options, tmp_path):
    model = net()
    settings = SETTINGS | {"pooling": name, "pooling_options": options}
    result = fit(model, Stripes(16), out=tmp_path, **settings)
    assert same(model, net())  # the pooled one is a new model
    assert isinstance(result.model, guidance.PooledModel)
    assert not torch.equal(result.model.head.weight[:, :, 0, 0], model[9].weight)
    x = torch.randn(2, 3, 16, 16)
    fresh = guidance.restored(net(), tmp_path, example=torch.randn(1, 3, 16, 16))
    torch.testing.assert_close(fresh(x), result.model.eval()(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"erasing": "hide"}, "'hide' is not known"),
        ({"erasing": "adl", "erasing_options": {"gama": 1}}, "did you mean 'gamma'"),
        ({"pooling": "lse", "pooling_options": {"k": 1}}, "no option 'k'. It has: r|has no option"),
        ({"pooling": "ls"}, "did you mean 'lse'"),
        ({"exchange_options": {"grou": 1}}, "did you mean 'grow'"),
        ({"erasing_options": {"gamma": 1}}, "no option 'gamma'"),
        ({"annotated": 2.0}, "share of a batch"),
        ({"keep": 1.5}, "keep is a number from 0 to 1"),
        ({"train": "tial"}, "'tail'"),
        ({"against": "every"}, "'strongest' or 'all'"),
    ],
)
def test_unknown_settings_are_errors(change, message):
    with pytest.raises(errors.AttnvizError, match=message):
        fit(net(), Stripes(8), **SETTINGS | change)


# -- what is answered ----------------------------------------------------------------------------


class Reads(nn.Module):
    """Answers by the stripe (rows 0 to 2) or by the mean of the rest, as it is told."""

    def __init__(self, stripe):
        super().__init__()
        self.stripe = stripe
        self.conv = nn.Conv2d(3, 1, 1)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        seen = self.conv(x)
        score = seen[:, 0, :3].mean((1, 2)) - 3 if self.stripe else seen[:, 0, 4:].sum((1, 2))
        return torch.stack([-score, score], 1)


def test_answers_tell_what_is_read():
    data = Stripes(16)
    config = GuideConfig(layer="conv")
    by_stripe = guidance.answers(Reads(True), data, config=config, classes=("no", "yes"))
    by_object = guidance.answers(Reads(False), data, config=config, classes=("no", "yes"))
    assert by_stripe.accuracy.value == by_object.accuracy.value == 1
    assert by_stripe.worst("exchanged")[1].value == 0
    assert by_object.worst("exchanged")[1].value == 1
    assert by_stripe.worst("pasted back")[1].value == 1
    name, found = by_object.worst("exchanged")
    assert (found.low, found.images) == (pytest.approx(0.676, abs=0.01), 8)
    again = guidance.Answers.from_dict(by_stripe.as_dict())
    assert again.as_dict() == by_stripe.as_dict()


def test_a_map_that_moved_alone_is_said():
    data = Stripes(16)
    seen = guidance.answers(Reads(True), data, config=GuideConfig(layer="conv"))
    from dataclasses import replace

    before, after = replace(seen, energy=0.1, chance=0.1), replace(seen, energy=0.4, chance=0.1)
    (said, *_) = guidance.findings(before, after)
    assert said.startswith("the map moved onto the object and the answer did not")
    good = guidance.answers(Reads(False), data, config=GuideConfig(layer="conv"))
    (said, *_) = guidance.findings(seen, good)
    assert said.startswith("the answer goes with the object more than before")


def test_uneven_accuracy_is_not_left_alone():
    """A set of 19 and 335 on which one class is always named."""
    data = [(torch.zeros(3, 8, 8), int(i < 2), None) for i in range(35)]
    seen = guidance.answers(Reads(False), data, config=GuideConfig(layer="conv"))
    assert seen.accuracy.value == pytest.approx(33 / 35)
    assert seen.always == pytest.approx(33 / 35)
    assert any("accuracy says little here" in s for s in guidance.findings(seen, seen))


# -- the last layer ------------------------------------------------------------------------------


def test_the_head_is_retrained_on_balanced_data():
    """A network that leans on the stripe keeps its features and changes its answer."""
    model = net()
    fit(model, Stripes(48), **SETTINGS | {"loss": "none", "epochs": 20})
    body = copy.deepcopy(model[:9]).state_dict()
    test = Untaught(64, seed=11)
    before = guidance.answers(model, test, config=GuideConfig(layer="6")).accuracy.value
    balanced = Untaught(64, seed=12)
    groups = [2 * (i % 2) + (i % 4 in (0, 3)) for i in range(64)]
    result = guidance.retrain_head(model, balanced, groups=groups)
    after = guidance.answers(model, test, config=GuideConfig(layer="6")).accuracy.value
    assert after > before + 0.15
    assert result.groups == {0: 16, 1: 16, 2: 16, 3: 16}
    assert all(torch.equal(v, model[:9].state_dict()[k]) for k, v in body.items())
    with pytest.raises(errors.DataError, match="two images of each group"):
        guidance.retrain_head(model, Stripes(4), groups=[0, 1, 1, 1])
    with pytest.raises(errors.ModelError, match="linear layer"):
        guidance.retrain_head(nn.Conv2d(3, 2, 1), Stripes(4))


def test_the_solver_against_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    from attnviz.guidance.retraining import _fit

    draws = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=draws, dtype=torch.float64)
    y = ((x[:, 0] + 0.5 * x[:, 1] + 0.3 * torch.randn(60, generator=draws)) > 0).long()
    weight, bias = _fit(x, y, 2, 0.3, 3000)
    z = (x - x.mean(0)) / x.std(0)

    def cost(w, b):
        logits = x @ w.T + b
        scaled = (w * x.std(0)).abs().sum()
        return nn.functional.cross_entropy(logits, y) + scaled / (0.3 * 60)

    theirs = linear_model.LogisticRegression(
        penalty="l1", C=0.3, solver="saga", max_iter=20000, tol=1e-10
    ).fit(z, y)
    # one row of differences against two rows: the same decision, half the weight each
    w = torch.from_numpy(theirs.coef_)[0] / x.std(0) / 2
    b = torch.from_numpy(theirs.intercept_)[0] / 2 - w @ x.mean(0)
    other = cost(torch.stack([-w, w]), torch.stack([-b, b]))
    assert cost(weight, bias) <= other + 1e-6


def test_changed_images_are_what_they_say():
    data = Stripes(8)
    cuts = cuts_of(data, survey(data), seed=0)
    made = changed_of(cuts, seed=0, each=2)
    assert {n: len(m) for n, m in made.items()} == {"exchanged": 16, "pasted back": 8, "alone": 8}
    for i in range(16):
        image, label, mask = made["exchanged"][i]
        row = int(made["exchanged"].sources[i])
        assert label == int(cuts.labels[row])
        core = mask > 0.99
        assert (image - cuts.images[row])[:, core].abs().max() < 1.5  # the object, soft-edged
    flat, _, mask = made["alone"][0]
    outside = flat[:, mask == 0]
    assert (outside - outside[:, :1]).abs().max() < 1e-5
