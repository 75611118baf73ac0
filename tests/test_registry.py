"""Registries: complete for every thread, one spelling, no name taken twice, open to plug-ins."""

import json
import subprocess
import sys
import textwrap

import pytest

from attnviz.errors import AttnvizWarning, MethodError
from attnviz.registry import Registry


def run_python(code: str, *, path: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {path!r})\n{textwrap.dedent(code)}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_threads_of_a_fresh_process_all_find_every_method():
    code = """
        import json, threading
        from attnviz.methods import METHODS
        found, errors = [], []
        start = threading.Barrier(8)
        def ask(i):
            start.wait()
            try:
                METHODS.get("gradcam" if i % 2 else "rollout")
                found.append(METHODS.names())
            except BaseException as error:
                errors.append(repr(error))
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(json.dumps([errors, [len(f) for f in found], len(METHODS)]))
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    errors, counts, total = json.loads(done.stdout)
    assert errors == []
    assert counts == [total] * 8


def test_a_thread_waits_until_a_slow_package_is_complete(tmp_path):
    package = tmp_path / "slow_parts"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from attnviz.registry import Registry\nPARTS = Registry('part', 'slow_parts')\n"
    )
    for name in ("first", "second"):
        (package / f"{name}.py").write_text(
            "import time\nfrom slow_parts import PARTS\ntime.sleep(0.2)\n"
            f"@PARTS.register({name!r})\ndef part(): 'One.'\n"
        )
    code = """
        import threading
        from slow_parts import PARTS
        found = []
        threads = [threading.Thread(target=lambda: found.append(PARTS.names())) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert found == [["first", "second"]] * 4, found
    """
    done = run_python(code, path=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_names_are_found_in_any_case():
    parts = Registry("part")

    @parts.register("MyCAM", aliases=("My-CAM",))
    def my_cam():
        """A map."""

    assert parts.get("MyCAM").fn is my_cam
    assert parts.get("mycam") is parts.get("MY-CAM")
    assert parts.names() == ["mycam"]
    assert "My-Cam" in parts


def test_a_name_taken_by_another_function_is_refused():
    parts = Registry("part")

    def make(module):
        def part():
            """A part."""

        part.__module__ = module
        return part

    first = make("one")
    parts.register("Part", aliases=("bit",))(first)
    with pytest.raises(ValueError, match=r"part 'part' is registered already, by one\."):
        parts.register("part")(make("two"))
    with pytest.raises(ValueError, match="'bit' is registered already"):
        parts.register("other", aliases=("BIT",))(make("two"))
    assert parts.get("part").fn is first
    assert parts.names() == ["part"]


def test_a_function_defined_anew_replaces_itself():
    parts = Registry("part")
    for _ in range(2):

        @parts.register("part")
        def part():
            """A part."""

    assert parts.get("part").fn is part


def test_a_user_cannot_replace_a_built_in_method_before_the_first_use():
    code = """
        from attnviz.methods.cam import register_cam
        try:
            @register_cam("gradcam", paper="", units="")
            def gradcam(activation, gradient):
                return activation.mean(1)
        except ValueError as error:
            assert "attnviz.methods.cam.gradcam" in str(error), error
        else:
            raise SystemExit("replaced without a word")
        from attnviz.methods import METHODS
        assert METHODS.get("gradcam").fn.__module__ == "attnviz.methods.cam.gradcam"
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_has_the_nearest():
    parts = Registry("part")
    parts.register("gradcam")(lambda: None)
    with pytest.raises(MethodError, match=r"did you mean 'gradcam'\? Known: gradcam"):
        parts.get("grdcam")
    with pytest.raises(MethodError, match=r"not known\. Known: gradcam"):
        parts.get("zzz")


@pytest.fixture
def plugin(tmp_path):
    """A package on disk, as pip would install it, with a method and a broken second plug-in."""
    (tmp_path / "ringcam.py").write_text(
        textwrap.dedent(
            """
            from attnviz.methods.cam import register_cam

            @register_cam("RingCAM", paper="doi:10.1000/ring", units="logit")
            def ringcam(activation, gradient):
                '''RingCAM: a plug-in's map.'''
                return (activation * gradient).sum(1)
            """
        )
    )
    info = tmp_path / "ringcam-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ringcam\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[attnviz.methods]\nbroken = no_such_module_of_ours\nring = ringcam\n"
    )
    return tmp_path


@pytest.mark.slow
def test_a_plug_in_reaches_explain_and_the_command_line(plugin):
    code = """
        import warnings, torch, attnviz
        from torch import nn
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                              nn.Linear(4, 3))
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            maps = attnviz.explain(model, torch.rand(2, 3, 8, 8), method="RingCAM", layer="1")
        assert maps.method == "ringcam", maps.method
        assert any("plug-in 'broken'" in str(w.message) for w in heard), heard
        from attnviz.cli import main
        assert main(["methods", "--json"]) == 0
    """
    done = run_python(code, path=str(plugin))
    assert done.returncode == 0, done.stderr
    assert '"ringcam"' in done.stdout


@pytest.mark.slow
def test_a_metric_is_one_file_and_reaches_python_and_the_command_line(tmp_path):
    (tmp_path / "mean_of_map.py").write_text(
        textwrap.dedent(
            """
            from attnviz.metrics import Protocol, Scores, register_metric

            @register_metric("mean_of_map", family="complexity", higher_is_better=None)
            def mean_of_map(maps):
                '''Mean of a map, by a plug-in.'''
                return Scores(maps.mean((1, 2)), Protocol.of("mean_of_map"))
            """
        )
    )
    info = tmp_path / "mean_of_map-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean_of_map\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[attnviz.metrics]\nmean = mean_of_map\n")
    code = """
        import torch
        from attnviz import metrics
        from attnviz.benchmark import Settings
        from attnviz.cli import main
        assert metrics.mean_of_map(torch.ones(2, 3, 3)).values.tolist() == [1, 1]
        stream = metrics.StreamingMetric("mean_of_map")
        stream.update(torch.zeros(1, 2, 2))
        assert len(stream.compute()) == 1
        assert Settings(("gradcam",), ("mean_of_map",)).measures()[0].needs == ()
        assert main(["benchmark", "-", "--metrics", "list"]) == 0
    """
    done = run_python(code, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "mean_of_map" in done.stdout


def test_a_broken_plug_in_is_named_and_left_out(monkeypatch):
    class Broken:
        name, value = "broken", "nowhere:part"

        def load(self):
            raise ImportError("no module named nowhere")

    monkeypatch.setattr("attnviz.registry.entry_points", lambda group: [Broken()])
    parts = Registry("part", plugins="some.group")
    parts.register("own")(lambda: None)
    with pytest.warns(AttnvizWarning, match="plug-in 'broken'.*nowhere"):
        assert parts.names() == ["own"]
    assert parts.names() == ["own"]  # and said once
