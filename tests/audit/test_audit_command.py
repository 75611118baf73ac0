"""`attnviz audit` on files: verdict, report, gate, resume, comparison."""

import json

import pytest

from attnviz.cli import main
from attnviz.data import boatwater as bw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    bw.generate(groups=bw.balanced(12), seed=3, marked=True).write(folder)
    return folder


def run(folder, out, *extra, reads="water", json_out=True):
    words = [
        "audit", "--model", f"tests.audit.makers:reads_{reads}", "--data", str(folder), "--object",
        "boat", "--context", "water", "--masks", "--preprocess", "unit", "--labels", "other,boat",
        "--out", str(out), "--fill", "blur", "--method", "gradcam", "--examples", "2", "--device",
        "cpu", *(["--json"] if json_out else []), *extra,
    ]  # fmt: skip
    return main(words)


def test_verdict_gate_and_files(folder, tmp_path, capsys):
    out = tmp_path / "a"
    assert run(folder, out, "--fail-above", "0.3") == 3
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "attnviz.audit"
    assert found["schema_version"] == 1
    assert found["verdict"]["kind"] == "context"
    assert found["gate_failed"] is True
    assert sorted(p.name for p in out.iterdir()) == ["audit.json", "images.csv", "report.html"]
    assert run(folder, out) == 1  # nothing is overwritten
    assert "exist already" in capsys.readouterr().err
    assert run(folder, out, "--force", "--fail-above", "0.3", reads="object") == 0


def test_lines_and_comparison(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "b", json_out=False) == 0
    said = capsys.readouterr().out
    assert said.startswith("verdict  reads the water: ")
    assert "boat, no water" in said
    code = run(
        folder, tmp_path / "c", "--against", "tests.audit.makers:reads_object", json_out=False
    )
    said = capsys.readouterr().out
    assert code == 0
    assert "better after Holm in" in said
    assert "'boat, no water' 0 % [0, 24] to 100 % [76, 100] right" in said


def test_usage(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "d", "--boxes") == 2
    assert main(["audit", "--data", str(folder)]) == 2
    assert run(folder, tmp_path / "e", "--fail-above", "7") == 2
    capsys.readouterr()
    assert main(["audit", "--data", str(folder), "--model", "tests.audit.makers:reads_water",
                 "--object", "water", "--context", "water", "--preprocess", "unit",
                 "--out", str(tmp_path / "f")]) == 1  # fmt: skip
    assert "both 'water'" in capsys.readouterr().err
