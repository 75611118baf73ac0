"""The gallery's page: every card with its own picture, nothing fetched, nothing unescaped."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import attnviz
from attnviz import gallery
from attnviz.cli import main
from attnviz.errors import DataError, MethodError, OutputExists
from attnviz.gallery.card import CARDS
from attnviz.gallery.drawing import chosen
from attnviz.gallery.page import SAID, number_text

HOSTILE = "</code></pre><script>alert(1)</script><img src=x onerror='a()'>\"'&{{ 7*7 }}"
ALL = gallery.cards()


def coloured(colour: str, **words):
    """A card whose picture is one colour."""

    def show():
        figure = Figure(figsize=(2, 1))
        figure.patch.set_facecolor(colour)
        figure.savefig = lambda *a, **k: Figure.savefig(figure, *a, **{**k, "facecolor": colour})
        numbers = words.get("numbers", {"drawn": float(torch.rand(()))})
        return gallery.Shown(
            figure, torch.zeros(2, 3, 5), words.get("caption", f"all {colour}"),
            words.get("alt", f"a {colour} field"), numbers,
        )  # fmt: skip

    return gallery.Card(
        words.get("name", f"card_{colour}"),
        words.get("title", colour.title()),
        words.get("family", "channel"),
        words.get("sentence", f"It is {colour}."),
        words.get("equation", r"a = \frac{b}{c}"),
        words.get("paper", "N. N. 2020"),
        words.get("reads", f"the {colour}"),
        words.get("code", f"import attnviz\n{colour} = 1"),
        lambda: (None, None),
        words.get("show", show),
    )


def by_hand(card):
    """What a card shows, and its figure as pixels, without the gallery."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shown = card.show()
    file = io.BytesIO()
    shown.figure.savefig(file, format="png", dpi=120, facecolor="white")
    return shown, np.asarray(Image.open(file).convert("RGB"))


class Read(HTMLParser):
    """Articles by id: their text by tag, attributes of their elements; and all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.articles: dict[str, dict[str, list]] = {}
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.now: dict[str, list] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "article":
            self.now = self.articles[dict(attrs)["id"]] = {"attributes": [], "text": []}
        if self.now is not None:
            self.now["attributes"].append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag == "article":
            self.now = None

    def handle_data(self, data):
        if self.now is not None:
            self.now["text"].append(data)

    def image(self, name: str) -> np.ndarray:
        (source,) = [a["src"] for tag, a in self.articles[name]["attributes"] if tag == "img"]
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))

    def text(self, name: str) -> str:
        return "".join(self.articles[name]["text"])


def test_each_card_has_its_own_picture():
    cards = [coloured("red"), coloured("lime", family="hard"), coloured("blue")]
    read = Read(gallery.page([gallery.draw(c) for c in cards]))
    assert list(read.articles) == ["card-card_red", "card-card_blue", "card-card_lime"]
    for name, colour in (("red", (255, 0, 0)), ("lime", (0, 255, 0)), ("blue", (0, 0, 255))):
        picture = read.image(f"card-card_{name}")
        assert picture.shape == (120, 240, 3)  # 2 x 1 inches at 120 dots
        assert (picture == colour).all()
        text = read.text(f"card-card_{name}")
        for said in (f"It is {name}.", f"all {name}", f"the {name}; here 2 × 3 × 5", "N. N. 2020"):
            assert said in text
        own = f'model, example = attnviz.gallery.subject("card_{name}")  # or yours'
        assert f"import attnviz\n{own}\n{name} = 1" in text
        images = [a for tag, a in read.articles[f"card-card_{name}"]["attributes"] if tag == "img"]
        assert images[0]["alt"] == f"a {name} field"
        assert (images[0]["width"], images[0]["height"]) == ("192", "96")  # at 96 to the inch


def test_contents_lead_to_every_card_and_family():
    drawn = [gallery.draw(coloured(c, family=f)) for c, f in (("red", "hard"), ("blue", "channel"))]
    text = gallery.page(drawn)
    read = Read(text)
    there = {a["id"] for _, a in read.elements if "id" in a}
    links = [a["href"].removeprefix("#") for tag, a in read.elements if tag == "a"]
    assert set(links) == there == {"family-1", "family-2", "card-card_red", "card-card_blue"}
    assert text.index('id="card-card_blue"') < text.index('id="card-card_red"')  # channel first


def test_text_is_escaped():
    words = ("title", "sentence", "paper", "reads", "code", "caption", "alt")
    card = coloured("red", **{w: f"{w} {HOSTILE}" for w in words}, numbers={HOSTILE: 1.0})
    read = Read(gallery.page([gallery.draw(card)]))
    assert [tag for tag, _ in read.elements if tag == "script"] == []
    assert len([tag for tag, _ in read.elements if tag == "img"]) == 1
    assert [k for _, a in read.elements for k in a if k.startswith("on")] == []
    said = read.text("card-card_red")
    for word in set(words) - {"alt"}:
        assert f"{word} {HOSTILE}" in said
    (alt,) = [a["alt"] for tag, a in read.elements if tag == "img"]
    assert alt == f"alt {HOSTILE}"


def test_a_card_that_fails_says_why_and_the_others_stay():
    def broken():
        raise RuntimeError("no <b>weights</b>\nhere")

    drawn = [gallery.draw(c) for c in (coloured("red", show=broken), coloured("blue"))]
    assert drawn[0].error == "RuntimeError: no <b>weights</b> here"
    assert drawn[1].error is None
    text = gallery.page(drawn)
    read = Read(text)
    assert "This card failed: RuntimeError: no <b>weights</b> here" in read.text("card-card_red")
    assert "2 cards, of which 1 failed" in text
    assert (read.image("card-card_blue") == (0, 0, 255)).all()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"alt": " "}, "no caption or no words"),
        ({"caption": ""}, "no caption or no words"),
        ({"equation": r"\nosuchcommand{x}"}, "is no mathtext"),
        ({"equation": " \n "}, "the equation is empty"),
    ],
)
def test_incomplete_cards_fail(words, reason):
    assert reason in gallery.draw(coloured("red", **words)).error


def test_interrupting_is_no_failed_card():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.draw(coloured("red", show=stop))


def test_nothing_is_fetched_and_no_script_runs():
    text = gallery.page([gallery.draw(coloured("red"))])
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    for tag, attributes in Read(text).elements:
        assert tag not in ("script", "link", "iframe", "object", "base"), tag
        for key in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"https?://|url\(|@import", text)


def test_a_browser_shows_it_without_a_network(tmp_path, open_in_browser):
    path = gallery.save_page(tmp_path / "gallery.html", [gallery.draw(coloured("red"))])
    shown, asked = open_in_browser(path)
    assert asked == []
    assert "It is red." in shown


def test_equations_are_the_path_of_the_letters():
    svg = gallery.equation_svg("l")
    left, top, width, height = map(float, re.search(r'viewBox="(.+?)"', svg)[1].split())
    numbers = re.findall(r"(-?[\d.]+) (-?[\d.]+)", re.search(r' d="(.+?)"', svg)[1])
    x, y = np.array(numbers, float).T
    # ink fills the view but for a rim of 0.08 em, and stands on the line (y = 0 points down)
    assert x.min() - left == pytest.approx(8, abs=0.2)
    assert left + width - x.max() == pytest.approx(8, abs=0.2)
    assert y.min() - top == pytest.approx(8, abs=0.2)
    assert y.max() == pytest.approx(0, abs=3)
    assert y.min() < -50

    # a fraction bar is a rectangle of the mathtext, not a glyph: it is there too
    def pieces(text):
        return gallery.equation_svg(text).count("M")

    assert pieces(r"\frac{l}{l}") == 2 * pieces("l") + 1
    assert gallery.equation_svg("a\nb").count("<svg") == 2
    assert set(re.findall(r"[^\d. \-]", re.search(r' d="(.+?)"', svg)[1])) <= set("MLQCZ")


def test_a_card_shows_the_same_alone_and_among_others():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = gallery.draw(coloured("red"))
    torch.rand(3)
    torch.manual_seed(5)
    gallery.draw(coloured("blue"))
    again = gallery.draw(coloured("red"))
    assert first.numbers == again.numbers
    assert first.image == again.image
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.97634, "0.976"), (-66.96, "−67"), (1e-9, "1e−09"), (float("nan"), "–"),
     (-3.0, "−3"), (64.0, "64")],
)  # fmt: skip
def test_numbers(value, text):
    assert number_text(value) == text


def test_saving_is_whole_or_not_at_all(tmp_path):
    drawn = [gallery.draw(coloured("red"))]
    path = tmp_path / "deep" / "gallery.html"
    assert gallery.save_page(path, drawn) == path
    assert path.read_text("utf-8") == gallery.page(drawn)
    with pytest.raises(OutputExists, match="force=True"):
        gallery.save_page(path, [])
    assert path.read_text("utf-8") == gallery.page(drawn)
    other = [gallery.draw(coloured("blue"))]
    gallery.save_page(path, other, force=True)
    assert path.read_text("utf-8") == gallery.page(other)
    assert [p.name for p in path.parent.iterdir()] == ["gallery.html"]
    with pytest.raises(DataError, match="cannot write"):
        gallery.save_page(path / "below.html", drawn)


def test_choosing():
    assert [card.name for card in chosen(["ram", "stn", "stn"])] == ["stn", "ram"]  # spatial first
    assert {card.family for card in chosen(family="hard")} == {"hard"}
    with pytest.raises(MethodError, match="did you mean 'stn'"):
        gallery.draw_all("stnn")
    with pytest.raises(DataError, match="family 'chanel' is not known; did you mean 'channel'"):
        gallery.draw_all(family="chanel")
    with pytest.raises(DataError, match="of stn none is in family 'hard'"):
        gallery.draw_all("stn", family="hard")
    assert attnviz.gallery is gallery


# --- the cards that there are


@pytest.mark.parametrize("card", ALL, ids=lambda card: card.name)
def test_words_of_every_card(card):
    assert re.fullmatch(r"[a-z0-9_]+", card.name)
    compile(card.code, card.name, "exec")
    lines = [line for line in card.code.splitlines() if line.strip()]
    asked = [line for line in lines if not line.startswith(("import ", "from "))]
    assert 1 <= len(asked) <= 3, "three lines, and the imports"
    assert max(map(len, lines)) <= 100
    assert gallery.equation_svg(card.equation).startswith("<svg")
    assert re.search(r"(arXiv:\d{4}\.\d{4,5}|10\.\d{4,9}/\S+|\b(19|20)\d\d\b)", card.paper)
    assert card.sentence.endswith(".")
    assert card.family in SAID


def test_cards_is_the_function_also_once_the_folder_was_read():
    assert callable(gallery.cards)
    assert gallery.cards("stn")[0].name == "stn"


def test_cards_have_names_and_titles_of_their_own():
    assert len({c.name for c in ALL}) == len({c.title for c in ALL}) == len(ALL) == len(CARDS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_page(tmp_path, no_network):
    drawn = gallery.draw_all()
    assert [d.card.name for d in drawn if d.error] == []
    assert [d.card.name for d in drawn] == [c.name for c in ALL]
    path = gallery.save_page(tmp_path / "gallery.html", drawn)
    assert path.stat().st_size < 20_000_000
    read = Read(path.read_text("utf-8"))
    seen = set()
    for d in drawn:
        picture = read.image(f"card-{d.card.name}")
        assert np.array_equal(picture, by_hand(d.card)[1]), d.card.name
        assert picture.std() > 1, f"{d.card.name} is blank"
        assert picture.tobytes() not in seen, f"{d.card.name} has another card's picture"
        seen.add(picture.tobytes())
        assert d.caption in read.text(f"card-{d.card.name}")


# --- the command


def test_command(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["gallery", "--only", "stn", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "gallery.html")
    assert said.err.startswith("stn: ")
    read = Read((out / "gallery.html").read_text("utf-8"))
    assert list(read.articles) == ["card-stn"]
    # the picture is the one that the card draws when asked by hand
    shown, expected = by_hand(gallery.cards("stn")[0])
    assert np.array_equal(read.image("card-stn"), expected)
    assert shown.caption in read.text("card-stn")

    assert main(["gallery", "--only", "stn", "--out", str(out)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["gallery", "--only", "stn", "--out", str(out), "--force", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["schema_version"]) == ("attnviz.gallery", 1)
    (row,) = document["cards"]
    assert (row["name"], row["shape"], row["error"]) == ("stn", [1, 2, 3], None)
    assert row["numbers"] == pytest.approx(shown.numbers, rel=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "stm"], "did you mean 'stn'"),
        (["--family", "spatail"], "did you mean 'spatial'"),
        (["--only", "stn", "--family", "hard"], "none is in family"),
    ],
)
def test_wrong_usage(tmp_path, capsys, words, said):
    assert main(["gallery", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_with_a_failing_card(tmp_path, capsys, monkeypatch):
    def broken():
        raise RuntimeError("no weights")

    cards = [coloured("red", show=broken), coloured("blue")]
    monkeypatch.setattr("attnviz.gallery.drawing.chosen", lambda names, family: cards)
    assert main(["gallery", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "card_red: failed: RuntimeError: no weights" in said.err
    assert said.out.strip() == str(tmp_path / "gallery.html")  # the page is there all the same
    read = Read((tmp_path / "gallery.html").read_text("utf-8"))
    assert (read.image("card-card_blue") == (0, 0, 255)).all()
    assert "no weights" in read.text("card-card_red")
