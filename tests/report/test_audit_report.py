"""The report: offline, escaped, small, and with the audit's own numbers."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from attnviz import audit
from attnviz.data import boatwater as bw
from attnviz.errors import OutputExists
from attnviz.report import audit_page
from attnviz.report.charts import ChartRow, intervals, nice_ticks
from attnviz.statistics.intervals import Interval
from tests.support import planting


@pytest.fixture(scope="module")
def found():
    data = bw.generate(groups=bw.balanced(10), seed=3, marked=True)
    return audit.confusion(
        planting.planted("water"), data, object="boat", context="water", examples=8, resamples=200
    )


def test_opens_offline_in_a_browser(found, tmp_path, open_in_browser):
    paths = found.save(tmp_path / "audit")
    dom, asked = open_in_browser(paths["report"])
    assert 'data-ready="yes"' in dom
    assert asked == []
    assert dom.count('class="example"') == 8
    assert dom.count("<svg") == 10  # five charts, each for broad and for narrow screens


def test_files(found, tmp_path):
    paths = found.save(tmp_path)
    text = paths["report"].read_text("utf-8")
    assert "It reads the water" in text
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
    # 200 images at 8 pictures each would stay below 20 MB
    assert len(text) / 8 * 200 < 20e6
    back = json.loads(paths["json"].read_text("utf-8"))
    assert back["groups"][0]["right"]["value"] == found.cells[0].right.value
    assert len(paths["csv"].read_text("utf-8").splitlines()) == 41
    with pytest.raises(OutputExists):
        found.save(tmp_path)
    found.save(tmp_path, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audit.json", "images.csv", "report.html"]


def test_names_are_escaped(found):
    hostile = "</script><script>alert(1)</script>"
    cell = replace(found.cells[0], name="<img src=x onerror=alert(1)>")
    text = audit_page(replace(found, model=hostile, object='"><b>', cells=(cell, *found.cells[1:])))
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert '"><b>' not in text


def test_comparison(found, tmp_path, open_in_browser):
    data = bw.generate(groups=bw.balanced(10), seed=3, marked=True)
    after = audit.confusion(
        planting.planted("object"), data, object="boat", context="water", examples=2, resamples=200
    )
    both = audit.compare(found, after)
    dom, asked = open_in_browser(both.save(tmp_path / "c")["report"])
    assert asked == []
    assert "Before and after" in dom
    assert "20 images came right, the greatest changes first" in dom
    assert dom.count('class="pair"') == 6
    assert dom.count('alt="map before"') == dom.count('alt="map after"') == 6
    assert dom.count("Why: the water's share of the evidence, ") == 2
    # four groups, before in grey at its own place: from 250 (0 %) to 610 (100 %)
    chart = dom[dom.index("before and after</title>") : dom.index('class="chart narrow"')]
    assert chart.count('class="dot control"') == chart.count('class="dot object"') == 4
    for cells, kind in ((both.before.cells, "control"), (both.after.cells, "object")):
        places = [float(x) for x in re.findall(rf'class="dot {kind}" cx="([\d.]+)"', chart)]
        assert places == pytest.approx([250 + 360 * c.right.value for c in cells], abs=0.06)


def test_chart_places_points_on_its_axis():
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.3, 7.1) == [-2, 0, 2, 4, 6, 8]
    bar = ChartRow("<a>", Interval(0.5, 0.25, 0.75, 0.95, 9), mark=1.0)
    svg = str(intervals([bar], title="t", share=True, unit="<u>"))
    broad, narrow = svg.split('class="chart narrow"')
    for part, want in (
        (broad, (340.0, 430.0, 520.0)),  # 250 to 610 is 0 to 100 %
        (narrow, (101.0, 180.0, 259.0)),  # 22 to 338
    ):
        found = (r'whisker " x1="([\d.]+)"', r'cx="([\d.]+)"', r'whisker .*?x2="([\d.]+)"')
        assert tuple(float(re.search(p, part).group(1)) for p in found) == want
        assert "&lt;a&gt;" in part
    assert "&lt;u&gt;" in svg
    assert "textLength" not in svg
    long = str(intervals([ChartRow("n" * 60, bar.interval)], title="t"))
    assert re.findall('textLength="([0-9]+)"', long) == ["240", "230"]
    assert str(intervals([ChartRow("n", Interval(np.nan, 0, 0, 0.95, 0))], title="t")) == ""


def test_json_follows_its_schema(found):
    jsonschema = pytest.importorskip("jsonschema")
    from importlib import resources

    schema = json.loads(
        resources.files("attnviz.report").joinpath("audit.schema.json").read_text("utf-8")
    )
    document = json.loads(json.dumps(found.as_dict()))
    jsonschema.validate(document, schema)
    document["gap"].pop("low")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_discovery_page(tmp_path, open_in_browser):
    data = bw.generate(groups=bw.balanced(10), seed=3, marked=True)
    found = audit.discover(
        planting.planted("water"), data, object="boat", labels=("<i>other</i>", "boat"), clusters=2
    )
    paths = found.save(tmp_path / "d")
    dom, asked = open_in_browser(paths["report"])
    assert 'data-ready="yes"' in dom
    assert asked == []
    assert dom.count('class="sheet"') == 2
    assert json.loads(paths["json"].read_text())["clusters"][0]["images"] > 0
    with pytest.raises(OutputExists):
        found.save(tmp_path / "d")
