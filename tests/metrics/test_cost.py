"""What a metric says it will cost is what it costs."""

from __future__ import annotations

import importlib

import pytest
import torch

import attnviz.metrics as am

OPTIONS = {
    "deletion": [{}, {"steps": 5}],
    "road": [{}, {"percentiles": (10, 50), "order": "combined"}],
    "infidelity": [{"samples": 7}],
    "sensitivity_n": [{}, {"fractions": (0.5,), "subsets": 9}],
    "saco": [{"groups": 4}],
    "max_sensitivity": [{"samples": 3}],
    "stability": [{}, {"transforms": ("flip",)}],
    "parameter_randomisation": [{"stages": 2}],
}


@pytest.mark.parametrize("name", [e.name for e in am.METRICS if "model" in e.meta["needs"]])
def test_forwards_are_predicted(name, convnet, counting):
    entry = am.METRICS.get(name)
    if "explainer" in entry.meta["needs"]:
        pytest.skip("counted in explanations, below")
    x = torch.randn(3, 3, 24, 24)
    for options in OPTIONS.get(name, [{}]):
        model = counting(convnet.float())
        entry.fn(model, x, torch.rand(3, 6, 6), **options)
        predicted = entry.meta["forwards"](options)
        if name == "irof":  # about as many superpixels as wished for
            assert 0.8 * predicted <= model.images / 3 <= 1.2 * predicted
        else:
            assert model.images == 3 * predicted


@pytest.mark.parametrize("name", [e.name for e in am.METRICS if "explainer" in e.meta["needs"]])
def test_explanations_are_predicted(name, convnet):
    entry = am.METRICS.get(name)
    x = torch.randn(3, 3, 24, 24)
    for options in OPTIONS.get(name, [{}]):
        made = []

        def explain(*arguments, made=made):
            image = next(a for a in arguments if isinstance(a, torch.Tensor))
            made.append(len(image))
            return image.abs().mean(1)

        if name == "random_logit":
            entry.fn(explain, x, [0, 1, 2], classes=5, **options)
        elif "model" in entry.meta["needs"]:
            entry.fn(explain, convnet.float(), x, **options)
        else:
            entry.fn(explain, x, **options)
        assert sum(made) == 3 * entry.meta["explanations"](options)


def test_imputations_are_predicted(convnet, monkeypatch):
    made = []
    impute = am.impute

    def counted(x, *arguments, **options):
        made.append(len(x))
        return impute(x, *arguments, **options)

    for module in ("baselines", "road"):
        monkeypatch.setattr(importlib.import_module(f"attnviz.metrics.{module}"), "impute", counted)
    x, maps = torch.randn(3, 3, 24, 24), torch.rand(3, 6, 6)
    for name, options in (
        ("deletion", {"baseline": "imputed", "steps": 4}),
        ("insertion", {"baseline": "mean"}),
        ("road", {"order": "combined"}),
    ):
        made.clear()
        am.METRICS.get(name).fn(convnet.float(), x, maps, **options)
        assert sum(made) == 3 * am.METRICS.get(name).meta["imputations"](options)
