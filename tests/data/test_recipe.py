from __future__ import annotations

import pytest
import torch

from attnviz.data import boatwater as bw
from attnviz.errors import DataError


@pytest.fixture(scope="module")
def confused() -> bw.Trained:
    return bw.train_confused()


def test_a_network_that_never_saw_boats_on_land_reads_the_water(confused: bw.Trained) -> None:
    assert confused.train_accuracy > 0.98
    assert confused.accuracy["boat/water"] > 0.95
    assert confused.accuracy["other/land"] > 0.95
    assert confused.accuracy["boat/land"] < 0.1
    assert confused.accuracy["other/water"] < 0.1


def test_removing_the_boat_hardly_matters_to_it_and_removing_the_water_does(
    confused: bw.Trained,
) -> None:
    data = bw.generate(groups=[3] * 60, seed=77, plain=True)
    elsewhere = bw.generate(groups=[2] * 60, seed=77)  # the same boats on land
    score = lambda images: bw.predict(confused.model, images) @ (-1, 1)  # noqa: E731
    plain = bw.GroupedImages(
        data.plain, data.region, data.label, data.context, data.source, data.background, data.kind
    )
    without_boat = (score(data) - score(plain)).mean()
    without_water = (score(data) - score(elsewhere)).mean()
    assert without_water > 5 * abs(without_boat)


def test_training_leaves_the_global_random_state_alone_and_repeats() -> None:
    before = torch.get_rng_state()
    one, two = (bw.train(1.0, n=64, epochs=1, size=32, width=8) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not one.model.training


@pytest.mark.slow
def test_mixed_training_is_not_confused() -> None:
    trained = bw.train_unconfused()
    assert min(trained.accuracy.values()) > 0.85


def test_predict_puts_the_mode_back_and_size_is_checked() -> None:
    model = bw.SmallNet(4).train()
    statistics = model.stages[0][1].running_mean.clone()
    bw.predict(model, bw.generate(4, size=32))
    assert model.training
    assert torch.equal(model.stages[0][1].running_mean, statistics)
    with pytest.raises(DataError, match="multiple of 8"):
        bw.train(1.0, size=60)
