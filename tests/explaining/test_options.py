"""No keyword is swallowed: what nobody takes is an error that names what was meant."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import attnviz
from attnviz.errors import MethodError
from attnviz.methods import METHODS
from attnviz.methods.cam import register_cam

PACKAGE = Path(attnviz.__file__).parent


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"targets": [3] * 4}, "target"),
        ({"traget": 3}, "target"),
        ({"class_idx": 0}, "target"),
        ({"target_layers": ["1"]}, "layer"),
        ({"target_layer": "1"}, "layer"),
        ({"relu": False}, "signed"),
        ({"batchsize": 2}, "batch_size"),
        ({"aug_smooth": True}, None),
        ({"nonsense": 1}, None),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "cam", ["layercam", "eigencam"]])
def test_an_unknown_keyword_is_an_error_with_the_nearest_argument(model, method, given, meant):
    with pytest.raises(MethodError) as raised:
        attnviz.explain(model, torch.rand(4, 3, 16, 16), method=method, layer="1", **given)
    text = str(raised.value)
    assert repr(next(iter(given))) in text
    if meant is not None:
        assert f"use {meant}=" in text or f"did you mean '{meant}'" in text, text


def test_an_option_of_the_method_chosen_is_taken_and_of_another_refused(model):
    @register_cam("scaled_for_test", paper="", units="")
    def scaled(activation, gradient, *, factor: float = 1.0):
        """A map with an option."""
        return factor * activation.mean(1)

    try:
        x = torch.rand(2, 3, 16, 16)
        once = attnviz.explain(model, x, method="scaled_for_test", layer="1")
        twice = attnviz.explain(model, x, method="scaled_for_test", layer="1", factor=2.0)
        torch.testing.assert_close(twice.values, 2 * once.values)
        both = attnviz.explain(
            model, x, method=["gradcam", "scaled_for_test"], layer="1", factor=2.0
        )
        torch.testing.assert_close(both["scaled_for_test"].values, twice.values)
        with pytest.raises(MethodError, match="did you mean 'factor'"):
            attnviz.explain(model, x, method="scaled_for_test", layer="1", facter=2.0)
        with pytest.raises(MethodError, match="'factor' is no argument"):
            attnviz.explain(model, x, method="gradcam", layer="1", factor=2.0)
    finally:
        METHODS._entries.pop("scaled_for_test")


def _ignored(path: Path) -> list[str]:
    """Functions of a file that take `**name` and never use it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.args.kwarg:
            continue
        if any(ast.unparse(d) == "overload" for d in node.decorator_list):
            continue  # for a checker alone; what runs is the one without
        name = node.args.kwarg.arg
        used = any(
            isinstance(n, ast.Name) and n.id == name for part in node.body for n in ast.walk(part)
        )
        if not used:
            found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}(**{name})")
    return found


#: functions whose signature somebody else prescribes
PRESCRIBED = {"cli/_app.py", "attention/hf.py", "models/tiny_llava.py"}


def test_no_function_of_the_package_ignores_its_keywords():
    files = [p for p in PACKAGE.rglob("*.py") if str(p.relative_to(PACKAGE)) not in PRESCRIBED]
    assert [line for path in files for line in _ignored(path)] == []


@pytest.mark.parametrize(
    "extra", [["--target", "3"], ["--preprocess", "imagenet"], ["--drop-keys", "a"]]
)
def test_options_for_photos_are_refused_with_a_text(extra, capsys):
    from attnviz.cli import main

    assert main(["attend", "--text", "a boat", "--model", "hf:none", *extra]) == 2
    assert extra[0] in capsys.readouterr().err
