"""Word maps beside the counterfactual, on a few scenes."""

import pytest
from word_maps import measured

pytest.importorskip("transformers", minversion="5.0")


def test_the_words_fall_without_what_they_name():
    found = measured(6)
    for word, other in (("boat", "water"), ("water", "boat")):
        own = found.estimate(f"{word}: fall without the {word} (mean)").interval
        rest = found.estimate(f"{word}: fall without the {other} (mean)").interval
        assert own.low > 2 > rest.value
    assert found.estimate("boat: gradient on the boat").interval.low > 1.5
