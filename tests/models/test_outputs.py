"""Which tensor of an output are the logits, and what they say of classes and probabilities."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from attnviz import explain
from attnviz.errors import AttnvizWarning, TargetError
from attnviz.models import reading
from attnviz.models.outputs import (
    class_column,
    class_logits,
    find_logits,
    logits_of,
    predicted,
    probabilities,
)

A, B5, C5 = torch.randn(4, 16), torch.randn(4, 5), torch.randn(4, 5)
DENSE = torch.randn(4, 5, 8, 8)
Pair = namedtuple("Pair", "first second")


@dataclass
class Plain:
    features: torch.Tensor
    prediction: torch.Tensor


@pytest.mark.parametrize(
    ("output", "path", "found"),
    [
        (B5, "", B5),
        ({"logits": B5, "scores": A}, "logits", B5),
        (SimpleNamespace(logits=B5, other=A), "logits", B5),
        ({"out": DENSE, "aux": DENSE}, "out", DENSE),
        ((B5, DENSE), "0", B5),
        ({"maps": [DENSE, DENSE], "answer": B5}, "answer", B5),
        ([[B5]], "0.0", B5),
        ({"loss": torch.tensor(1.0), "score": B5}, "score", B5),
        ({"index": torch.arange(8).view(4, 2), "score": B5}, "score", B5),
    ],
)
def test_the_only_candidate_is_taken(output, path, found):
    where, logits = find_logits(output)
    assert where == path
    assert logits is found


@pytest.mark.parametrize(
    ("output", "listed"),
    [
        ((A, B5), ["'0' (4, 16)", "'1' (4, 5)", "output=1"]),
        ({"scores": A, "prediction": B5}, ["'scores' (4, 16)", "output='prediction'"]),
        (Plain(A, B5), ["features", "prediction"]),
        (Pair(A, B5), ["first", "second"]),
        ([DENSE, DENSE], ["'0' (4, 5, 8, 8)"]),
        ({"heads": {"a": B5, "b": C5}}, ["'heads.a' (4, 5)", "'heads.b' (4, 5)"]),
    ],
)
def test_several_candidates_are_refused_and_named(output, listed):
    with pytest.raises(TargetError) as caught:
        find_logits(output)
    assert all(word in str(caught.value) for word in listed), caught.value


def test_the_labels_tell_which():
    assert find_logits((A, B5), width=5)[1] is B5
    assert find_logits((B5, torch.randn(4, 1)), width=2)[0] == "1"  # one logit, two classes
    assert find_logits((A, DENSE), width=5)[1] is DENSE
    with pytest.raises(TargetError, match="2 tensors 5 wide, as the labels are"):
        find_logits({"a": B5, "b": C5}, width=5)
    with reading(labels=list("abcde")):
        assert logits_of((A, B5)) is B5


@pytest.mark.parametrize(
    ("output", "choice"),
    [
        ((A, B5), 1),
        ((A, B5), -1),
        ((A, B5), "1"),
        ({"a": A, "b": B5}, "b"),
        ({"a": A, "b": B5}, 1),
        ({"a.b": B5, "a": A}, "a.b"),
        ({"heads": {"a": A, "b": B5}}, "heads.b"),
        ([{"x": A}, {"x": B5}], "1.x"),
        (Plain(A, B5), "prediction"),
        (SimpleNamespace(inner=Pair(A, B5)), "inner.second"),
        ((A, B5), lambda out: out[1]),
    ],
)
def test_a_choice(output, choice):
    assert find_logits(output, choice)[1] is B5


@pytest.mark.parametrize(
    ("output", "choice", "message"),
    [
        ((A, B5), 2, "has no '2'.*tensors in it: 0, 1"),
        ({"logit": A, "b": B5}, "logits", "did you mean 'logit'"),
        ({"heads": {"a": A}}, "heads", "no tensor; tensors in it: heads.a"),
        ((A, B5), lambda out: 3, "is a int, no tensor"),
    ],
)
def test_a_choice_that_is_not_there(output, choice, message):
    with pytest.raises(TargetError, match=message):
        find_logits(output, choice)


def test_nothing_and_detections():
    with pytest.raises(TargetError, match="no logits found.*output=INDEX"):
        find_logits({"last_hidden_state": torch.randn(1, 3, 4), "loss": torch.tensor(1.0)})
    with pytest.raises(TargetError, match="detections"):
        find_logits([{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}])


def test_reading_nests_and_ends():
    with reading(output=1) as outer:
        with reading(activation="none") as inner:
            assert logits_of((A, B5)) is B5
            assert probabilities(B5) is None
        assert inner.path == "1"
        assert logits_of((B5, A)) is A
        assert outer.facts() == {"output": "1"}
    with pytest.raises(TargetError):
        logits_of((A, B5))
    with pytest.raises(TargetError, match="activation 'relu' is not known"):
        reading(activation="relu").__enter__()


def test_one_logit_is_a_binary_classifier():
    z = torch.tensor([[-3.67], [2.0]])
    p = torch.sigmoid(z[:, 0])
    for logits in (z, z[:, 0]):
        assert torch.equal(predicted(logits), torch.tensor([0, 1]))
        torch.testing.assert_close(probabilities(logits), torch.stack([1 - p, p], 1))
        torch.testing.assert_close(class_logits(logits).softmax(1)[:, 1], p)
        assert torch.equal(class_column(logits, 1), z[:, 0])
        assert torch.equal(class_column(logits, 0), -z[:, 0])


def test_what_is_a_probability_already_stays_one():
    logits = torch.randn(6, 5, requires_grad=True)
    assert torch.equal(probabilities(logits.softmax(1)), logits.softmax(1))
    torch.testing.assert_close(probabilities(logits.log_softmax(1)), logits.softmax(1))
    assert torch.equal(probabilities(logits), logits.softmax(1))
    one = logits[:, :1].sigmoid()
    assert torch.equal(probabilities(one)[:, 1], one[:, 0])
    assert torch.equal(predicted(one), (logits[:, 0] > 0).long())
    with reading(activation="sigmoid"):
        assert torch.equal(probabilities(logits), logits.sigmoid())


class Net(nn.Module):
    """Two convolutions, an average, a head; `form` makes the output."""

    def __init__(self, classes=5, form=None):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(16, classes)
        self.form = form

    def forward(self, x):
        features = self.conv(x).mean((2, 3))
        logits = self.head(features)
        return logits if self.form is None else self.form(features, logits)


@pytest.fixture
def x():
    return torch.rand(4, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("form", "choice", "said"),
    [
        (lambda f, z: (f, z), 1, "1"),
        (lambda f, z: {"scores": f, "prediction": z}, "prediction", "prediction"),
        (lambda f, z: {"a": z, "b": -z}, "a", "a"),
        (lambda f, z: SimpleNamespace(inner=(f, z)), "inner.1", "inner.1"),
        (lambda f, z: (f, z), lambda out: out[1], "a function"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "cam"])
def test_explain_reads_the_chosen_output(x, form, choice, said, method):
    torch.manual_seed(0)
    model = Net()
    expected = explain(model, x, layer="conv", method=method)
    model.form = form
    with pytest.raises(TargetError, match="could be the logits"):
        explain(model, x, layer="conv", method=method)
    maps = explain(model, x, layer="conv", method=method, output=choice)
    assert torch.equal(maps.values, expected.values)
    assert maps.target == expected.target
    assert maps.meta["output"] == said


def test_labels_choose_in_explain_and_other_functions(x):
    torch.manual_seed(0)
    model = Net()
    names = list("abcde")
    expected = explain(model, x, layer="conv")
    model.form = lambda f, z: (f, z)
    maps = explain(model, x, layer="conv", labels=names)
    assert torch.equal(maps.values, expected.values)
    assert maps.meta["output"] == "1"

    from attnviz.guidance import class_map
    from attnviz.metrics import deletion

    with pytest.raises(TargetError, match="could be the logits"):
        class_map(model, x, torch.tensor([3] * 4), layer="conv")
    with pytest.raises(TargetError, match="could be the logits"):
        deletion(model, x, expected.values, target=3)
    with reading(output=1):
        seen = class_map(model, x, torch.tensor([3] * 4), layer="conv")
        assert seen.logits.shape == (4, 5)
        curve = deletion(model, x, expected.values, target=3)
    model.form = None
    again = deletion(model, x, expected.values, target=3)
    assert torch.equal(curve.auc, again.auc)


def test_one_logit_in_explain(x):
    torch.manual_seed(0)
    model = Net(classes=1)
    z = model(x)[:, 0].detach()
    maps = explain(model, x, layer="conv", labels=["ant", "bee"])
    assert maps.label == tuple("bee" if v > 0 else "ant" for v in z.tolist())
    torch.testing.assert_close(maps.score, z.abs())
    bee = explain(model, x, layer="conv", target="bee", labels=["ant", "bee"], signed=True)
    torch.testing.assert_close(bee.score, z)
    both = explain(model, x, layer="conv", classes=[0, 1], signed=True, method="cam")
    torch.testing.assert_close(both.score, torch.stack([-z, z], 1).flatten())
    torch.testing.assert_close(both.values[0::2], -both.values[1::2])
    mixed = explain(model, x, layer="conv", target=[0, 1, 0, 1])
    torch.testing.assert_close(mixed.score, z * torch.tensor([-1.0, 1, -1, 1]))
    plain = explain(model, x, layer="conv", activation="none")
    torch.testing.assert_close(plain.score, z)  # a regression: the number itself

    from attnviz.guidance import class_map

    for against in (None, "all", "strongest"):
        seen = class_map(model, x, torch.tensor([1, 1, 0, 0]), layer="conv", against=against)
        torch.testing.assert_close(seen.score, z * torch.tensor([1.0, 1, -1, -1]))
        known = {"layer": "conv", "method": "hirescam", "signed": True}
        slow = explain(model, x, target=[1, 1, 0, 0], **known)
        fast = class_map(model, x, [1, 1, 0, 0], against=against, **known)
        torch.testing.assert_close(fast.maps, slow.values)


def test_labels_are_counted_before_anything_is_drawn(x):
    model = Net(classes=3)
    with pytest.raises(TargetError, match="4 labels.*background that the model does not have"):
        explain(model, x, labels=["background", "ant", "bee", "cat"], layer="conv")
    with pytest.raises(TargetError, match="2 labels.*count a background as its class 0"):
        explain(model, x, labels=["ant", "bee"], layer="conv", target=1)
    with pytest.raises(TargetError, match="1 label .*name both"):
        explain(Net(classes=1), x, labels=["bee"], layer="conv")


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Softmax(1)])
def test_probabilities_given_for_logits_are_warned_of(last: nn.Module) -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model = nn.Sequential(*body, last).eval()
    x = torch.rand(2, 3, 12, 12)
    with pytest.warns(AttnvizWarning, match=r"sigmoid or softmax is inside.*nn.Identity\(\)"):
        explain(model, x, target=1, layer="1")
    explain(nn.Sequential(*body).eval(), x, target=1, layer="1")  # logits: nothing is said
