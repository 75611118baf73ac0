"""The notebook runs as it stands, on generated scenes and a small budget."""

import json

import pytest


@pytest.mark.slow
def test_boat_or_water(repo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATTNVIZ_QUICK", "1")
    monkeypatch.chdir(tmp_path)
    book = json.loads((repo / "notebooks" / "boat_or_water.ipynb").read_text("utf-8"))
    code = ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]
    # what is stored was made of generated scenes: no photo of the development data is in it
    stored = [o for c in book["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    assert "generated scenes" in json.dumps(stored[0])
    names = {}
    for number, cell in enumerate(code):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert names["before"].verdict.kind == "context"
    assert "generated scenes" in capsys.readouterr().out
    assert (tmp_path / "attnviz-out" / "boat-or-water" / "report.html").exists()
