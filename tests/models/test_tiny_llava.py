"""The tiny captioner that comes along: its words are right, and lie on what they name."""

import pytest
import torch

from attnviz.attention import words
from attnviz.data import boatwater as bw
from attnviz.data.boatwater.arrays import CONTEXTS, OBJECT
from attnviz.errors import ModelError
from attnviz.metrics import energy
from attnviz.models.text import load_writer
from attnviz.models.tiny_clip import weights_path
from attnviz.models.tiny_llava import FILE

pytest.importorskip("transformers", minversion="5.0")

UNSEEN = 93  # training took seed 21


@pytest.fixture(scope="module")
def captioner():
    return load_writer("tiny-llava")


@pytest.fixture(scope="module")
def told(captioner):
    """Scenes of boats and of other things, on water and on land, each with what is said of it."""
    data = bw.generate(groups=bw.balanced(12), seed=UNSEEN)
    methods = ["attention", "tam", "rollout"]
    return data, [words(*captioner, image, "a", methods=methods) for image in data.images]


def test_it_says_what_a_scene_shows(told):
    data, found = told
    wanted = [
        f"{kind} on {CONTEXTS[context]}"
        for kind, context in zip(data.kind, data.context.tolist(), strict=True)
    ]
    right = [one.text == text for one, text in zip(found, wanted, strict=True)]
    assert sum(right) / len(right) > 0.7
    assert all(one.text.endswith(("on water", "on land")) for one in found)


@pytest.mark.parametrize("method", ["attention", "tam"])
def test_the_first_word_lies_on_the_object(told, method):
    data, found = told
    maps = torch.cat([one.maps[method][:1] for one in found])
    ratio = energy(maps, torch.from_numpy(data.region == OBJECT)).extra["ratio"]
    ratio = ratio[~ratio.isnan()]
    mean, half = float(ratio.mean()), 1.96 * float(ratio.std()) / len(ratio) ** 0.5
    assert mean - half > 1.2, (mean, half)


def test_region_mass_is_more_of_the_object_for_its_word_than_for_the_place(told):
    data, found = told
    share = torch.stack([
        one.mass(region == OBJECT).inside[[0, -1]]
        for one, region in zip(found, data.region, strict=True)
    ])  # fmt: skip
    difference = share[:, 0] - share[:, 1]
    assert float(difference.mean()) > 2 * float(difference.std()) / len(difference) ** 0.5


def test_words_it_does_not_know_are_said(captioner):
    with pytest.raises(ModelError, match="does not know the word 'what'"):
        words(*captioner, torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), "what is this")
    assert weights_path(FILE).stat().st_size < 2_000_000
