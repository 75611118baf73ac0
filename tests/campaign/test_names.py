"""Names that somebody chose on purpose, in every page and file that shows them."""

from __future__ import annotations

import csv
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

#: each would run or break something where it is not escaped
NAMES = (
    '"><script>alert(77)<%2Fscript>', "<img src=x onerror=alert(77)>", "' onmouseover='alert(77)",
    "</script><script>alert(77)<!--", "{{ 7*11*1000003 }}", "${7*7}", "a\nb", "a\tb\rc",
    "\u202egnp.exe", "a\u2028b", "&lt;b&gt;", "x" * 120, "-rf", "%s%n",
    "\x1b[31mred", "\ufeffbom", "é\u0301" * 20, "]]>", "--><b>", "`id`", "a'b\"c",
    "=cmd|' %2FC calc'!A0", "@SUM(1+1)", "caf\udce9 in Latin 1", "\x9b31mC1", "$\\frac{$",
)  # fmt: skip
TINY = ("--model", "tests.cli.tiny:colours", "--preprocess", "unit")


class Strict(HTMLParser):
    """Finds a name that became markup."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.inside: str = ""
        self.wrong: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.inside = tag if tag in ("script", "style") else ""
        for name, value in attrs:
            if name.startswith("on") and "77" in (value or ""):
                self.wrong.append(f"<{tag} {name}={value}>")
            if name in ("src", "href") and value == "x":
                self.wrong.append(f"<{tag} {name}={value}>")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script" and data.strip().startswith("alert(77)"):
            self.wrong.append(data[:60])
        if "77000231" in data:
            self.wrong.append("a template was filled in")


def number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def file_name(name: str) -> str:
    return name.replace("/", "%2F").replace("\0", "")[:120]


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Photos, class folders with masks, and labels of these names."""
    top = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    for k, name in enumerate(NAMES + tuple(f"{n[:100]}2" for n in NAMES)):
        label = file_name(NAMES[k % 3])
        image = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        image[8:24, 8:24, k % 3] = 250
        mask = np.zeros((48, 48), np.uint8)
        mask[8:24, 8:24] = 255
        for kind, array in (("images", image), ("masks", mask)):
            (top / "data" / kind / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(top / "data" / kind / label / f"{file_name(name)}.png")
    (top / "labels.json").write_text(json.dumps(list(NAMES[:3])))
    return top


def command(kind: str, top, out) -> list[str]:
    data, labels = str(top / "data" / "images"), ("--labels", str(top / "labels.json"))
    one, other, _ = (file_name(n) for n in NAMES[:3])
    return {
        "explain": ["explain", data, *TINY, *labels, "--html", str(out / "page.html"), "--json"],
        "svg": ["explain", data, *TINY, *labels, "--format", "svg"],
        "shards": ["explain", data, "--shards", *TINY, *labels],
        "benchmark": ["benchmark", data, *TINY, *labels, "--methods", "gradcam", "--metrics",
                      "deletion", "--steps", "2"],
        "audit": ["audit", "--data", str(top / "data"), "--object", one, *TINY, "--labels",
                  str(top / "labels.json"), "--target", "0", "--fill", "mean", "--method",
                  "gradcam"],
        "discover": ["audit", "--data", str(top / "data"), "--object", one, "--discover", *TINY,
                     "--labels", str(top / "labels.json"), "--target", "0", "--method", "gradcam"],
        "choose": ["choose", str(top / "data" / "images"), "--budget", "4", *TINY, "--classes",
                   str(top / "classes.json")],
        "concepts": ["concepts", data, *TINY, *labels, "--count", "2"],
        "erase": ["erase", str(next((top / "data" / "images").rglob("*red*"))), *TINY, *labels],
        "attend": ["attend", data, "--model", "tests.cli.tiny:sized", *labels, "--target", "0",
                   "--map", "gradient_rollout"],
        "attend page": ["attend", str(next((top / "data" / "images").rglob("*red*"))), "--model",
                        "tests.cli.tiny:sized", "--html", str(out / "page.html")],
        "words": ["attend", str(next((top / "data" / "images").rglob("*red*"))), "--model",
                  "tiny-llava", "--text", "a", "--html", str(out / "page.html")],
        "question": ["audit", "--data", str(top / "data"), "--object", one, "--model",
                     "tiny-llava", "--question", "a", "--target", "boat,ferry", "--fill", "mean",
                     "--method", "attention"],
        "guide": ["guide", "--data", str(top / "data" / "images"), "--masks",
                  str(top / "data" / "masks"), "--model", "attnviz.data.boatwater.recipe:SmallNet",
                  "--preprocess", "unit", "--epochs", "1", "--photos", "3", "--no-exchange"],
    }[kind] + ([] if kind == "words" else ["--out", str(out)])  # fmt: skip


KINDS = (
    "explain", "svg", "shards", "benchmark", "audit", "discover", "choose", "concepts", "erase",
    "attend", "attend page", "words", "question", "guide",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_every_page(kind, top, forks, campaign):
    """Hostile names of photos, folders and labels: nothing becomes markup, every file is read."""
    campaign(len(NAMES))
    classes = {file_name(n): k for k, n in enumerate(NAMES[:3])}
    (top / "classes.json").write_text(json.dumps(classes))
    out = top / kind
    shutil.rmtree(out, ignore_errors=True)
    (ended,) = forks(command(kind, top, out))
    assert ended.code == 0, ended.said
    for control in ("\x1b[31m", "\u202e", "\u2028", "\x9b"):
        assert control not in ended.said, "a name moved or coloured the terminal"
    pages = [p for p in out.rglob("*") if p.suffix in (".html", ".svg")]
    assert pages or kind in ("shards", "choose", "concepts", "erase", "attend", "guide")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        parser = Strict()
        parser.feed(text)
        parser.close()
        assert parser.wrong == [], page.name
        assert "<script>alert(77)" not in text, page.name
    for table in out.rglob("*.csv"):
        with table.open(encoding="utf-8", newline="") as file:
            fields = [field for row in csv.reader(file) for field in row]
        assert not [f for f in fields if f[:1] in ("=", "@", "-", "+") and not number(f)]
    for document in out.rglob("*.json"):
        json.loads(document.read_text(encoding="utf-8"))
