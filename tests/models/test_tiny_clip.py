"""The tiny CLIP that comes along finds what its prompts name, on scenes that it never saw."""

import pytest
import torch

import attnviz
from attnviz import TextTarget
from attnviz.data import boatwater as bw
from attnviz.data.boatwater.arrays import OBJECT, WATER
from attnviz.errors import TargetError
from attnviz.metrics import energy
from attnviz.models.tiny_clip import weights_path

UNSEEN = 91  # training took seed 11


@pytest.fixture(scope="module")
def scenes():
    return bw.generate(groups=["boat/water"] * 40, seed=UNSEEN)


def gain(scenes, prompt, region, method):
    """Energy in the region over its share of the picture: mean, and the 95 % interval's low end."""
    maps = attnviz.explain(
        "tiny-clip", list(scenes.images), target=TextTarget(prompt), method=method
    )
    ratio = energy(maps.values, torch.from_numpy(scenes.region == region)).extra["ratio"]
    ratio = ratio[~ratio.isnan()]
    assert len(ratio) >= 36
    mean = float(ratio.mean())
    return mean, mean - 1.96 * float(ratio.std()) / len(ratio) ** 0.5


@pytest.mark.parametrize("method", ["gradcam", "grad_eclip", "generic_relevance"])
def test_a_boat_lies_on_the_boat(scenes, method):
    mean, low = gain(scenes, "a boat", OBJECT, method)
    assert mean > 4
    assert low > 3
    # and what is explained decides: the same scenes for "water" are less on the boat
    assert gain(scenes, "water", OBJECT, method)[0] < mean / 2


@pytest.mark.parametrize("method", ["legrad", "generic_relevance"])
def test_water_lies_on_the_water(scenes, method):
    mean, low = gain(scenes, "water", WATER, method)
    assert mean > 1.25
    assert low > 1.15
    assert gain(scenes, "a boat", WATER, method)[0] < mean


def test_prompts_tell_scenes_apart():
    data = bw.generate(groups=bw.balanced(10), seed=UNSEEN + 1)
    model = attnviz.models.zero_shot(attnviz.load("tiny-clip"), ["water", "land"])
    logits = attnviz.explain(model, list(data.images), target="water").logits
    assert (logits.argmax(1) == torch.from_numpy(1 - data.context)).float().mean() > 0.9


def test_words_it_does_not_know_are_said():
    with pytest.raises(TargetError, match="does not know the word 'boats'; did you mean 'boat'"):
        attnviz.explain("tiny-clip", torch.rand(1, 3, 64, 64), target="text:boats")  # fmt: skip
    assert weights_path().stat().st_size < 1_000_000
