"""The audit's question: what a vision-language model reads when it says "boat"."""

import json
import re

import numpy as np
import pytest
import torch

from attnviz.attention import without_region
from attnviz.audit import Question, confusion
from attnviz.audit.asking import as_it_is
from attnviz.cli import main
from attnviz.data import boatwater as bw
from attnviz.data.boatwater.arrays import OBJECT, WATER
from attnviz.errors import AttnvizWarning, DataError
from attnviz.models.text import load_writer
from tests.support.planting import WATER_THRESHOLD
from tests.support.vlm_models import family

pytest.importorskip("transformers", minversion="5.0")

#: what the captioner calls boats
BOATS = ["sailboat", "motorboat", "rowboat", "cargo", "trawler", "ferry", "canoe"]
OPTIONS = {"object": "boat", "context": "water", "target": BOATS, "fills": ("blur",)}


@pytest.fixture(scope="module")
def scenes():
    return bw.generate(groups=bw.balanced(10), seed=93, marked=True)


@pytest.fixture(scope="module")
def captioner():
    return load_writer("tiny-llava")


class ReadsWater(torch.nn.Module):
    """An image tower that shows a boat wherever there is water, and land anywhere else."""

    def __init__(self, tower, scenes):
        super().__init__()
        with torch.no_grad():
            tokens = tower(pixels(scenes.images)).last_hidden_state[:, 1:]
        cells = torch.from_numpy(scenes.region).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3)
        boat = ((cells == OBJECT).float().mean(-1) > 0.8).flatten(1)
        boat &= torch.from_numpy(scenes.label == 1)[:, None]
        land = ((cells != OBJECT) & (cells != WATER)).all(-1).flatten(1)
        land &= torch.from_numpy(scenes.context == 0)[:, None]
        self.boat = torch.nn.Parameter(tokens[boat].mean(0))
        self.land = torch.nn.Parameter(tokens[land].mean(0))
        self.dtype = torch.float32

    def forward(self, pixel_values, **_):
        photo = pixel_values * 0.25 + 0.5
        water = (photo[:, 2] - photo[:, 0] > WATER_THRESHOLD).float()
        share = torch.nn.functional.avg_pool2d(water[:, None], 8).flatten(1)[..., None]
        tokens = torch.where(share > 0.5, self.boat, self.land)
        tokens = torch.cat([self.land.expand(len(tokens), 1, -1), tokens], 1)
        return type("Out", (), {"last_hidden_state": tokens, "hidden_states": (tokens,)})()


def pixels(images):
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


@pytest.fixture(scope="module")
def trained(captioner, scenes):
    return confusion(
        Question(*captioner, "a"), scenes, methods=["attention", "tam"], examples=1, **OPTIONS
    )


def test_a_captioner_that_knows_boats_reads_them(trained):
    assert trained.verdict.kind == "object", trained
    assert trained.severity.high < 0.25
    assert [line.name for line in trained.verdict.lines] == ["groups", "removal", "transplant"]
    assert "of the evidence for boat lies on the water" in trained.verdict.text  # by TAM
    assert all(line.object.low > 2 for line in trained.verdict.lines)
    assert min(cell.right.value for cell in trained.cells) > 0.6
    where = {(p.method, p.group, p.region): p for p in trained.places}
    on_boat = where["attention", "boat, water", "object"]
    assert on_boat.energy.low > 2 * on_boat.area  # attention lies on the boat, over chance
    text = where["attention", "boat, water", "text"]
    assert 0 < text.energy.low < text.energy.high < 0.5
    assert np.isnan(text.area)
    answers = trained.settings["answers"]
    assert len(answers) == 4
    assert all(answer.endswith((" on water", " on land")) for answer in answers.values())


def test_a_word_that_is_read_from_the_water_raises_the_alarm(captioner, scenes):
    model, processor = load_writer("tiny-llava")
    model.model.vision_tower = ReadsWater(model.model.vision_tower, scenes)
    found = confusion(Question(model, processor, "a"), scenes, examples=0, **OPTIONS)
    assert "of the attention to the photo lies on the water" in found.verdict.text
    assert found.verdict.kind == "context", found
    assert found.verdict.alarm
    assert found.severity.low > 0.9
    where = {(p.group, p.region): p for p in found.places if p.method == "attention"}
    assert where["no boat, water", "context"].energy.low > 0.8  # of an area of 0.6
    cells = {c.name: c.right.value for c in found.cells}
    assert cells["boat, no water"] == cells["no boat, water"] == 0


def test_a_row_is_what_the_words_functions_say(trained, captioner, scenes):
    """Score, mass and removal of one image, from logits and `without_region` by hand."""
    model, processor = captioner
    number = next(i for i in range(len(scenes)) if scenes.label[i] and scenes.context[i])
    image = scenes.images[number]
    inputs = processor(images=[image], text=["<image> a"])
    with torch.no_grad():
        p = model(**inputs).logits[0, -1].double().softmax(0)
    ids = [processor.tokenizer.words.index(w) for w in BOATS]
    column = trained.table.columns
    row = trained.table.ids.index(f"{number:06d}")
    share = float(p[ids].sum())
    assert column["score"][row] == pytest.approx(np.log(share / (1 - share)), abs=1e-3)

    from attnviz.attention import words

    found = words(model, processor, image, "a", max_new_tokens=1)
    assert found.words[0] == BOATS[int(p[ids].argmax())]
    boat, water = (found.mass(scenes.region[number] == r) for r in (OBJECT, WATER))
    text = float(boat.text[0])
    assert column["map:attention:text"][row] == pytest.approx(text, abs=1e-5)
    for name, mass in (("object", boat), ("context", water)):
        wanted = float(mass.inside[0]) / (1 - text)
        assert column[f"map:attention:{name}"][row] == pytest.approx(wanted, abs=1e-4)
    fall = without_region(model, processor, found, scenes.region[number] == OBJECT, fills=["blur"])
    moved = column["score"][row] - column["after:object:blur"][row]
    assert np.sign(moved) == np.sign(float(fall.fall["blur"][0]))


def test_the_report_and_its_json_hold_the_question(trained, tmp_path):
    import jsonschema

    from attnviz import report

    paths = trained.save(tmp_path)
    page = paths["report"].read_text()
    assert "attention: text" in page
    assert ">nan" not in page
    assert "nan %" not in page
    schema = json.loads(
        (report.page.Path(report.__file__).parent / "audit.schema.json").read_text()
    )
    jsonschema.validate(json.loads(paths["json"].read_text()), schema)


def test_several_tokens_and_a_start_of_the_answer(captioner):
    model, processor = captioner
    asked = Question(model, processor, "a", answer="cargo").about("boat", ["ship", "ship on"])
    assert asked.tokens == [[processor.tokenizer.words.index("ship")]]  # "ship on" is a ship, too
    both = Question(model, processor, "a").about("boat", ["cargo ship", "ferry", "ferry"])
    assert list(map(len, both.tokens)) == [2, 1]
    photo = np.full((64, 64, 3), 90, np.uint8)
    cargo, ferry = both.each(photo)
    behind = asked.each(photo)[0]
    alone = Question(model, processor, "a").about("boat", ["cargo", "ferry"]).each(photo)
    assert cargo == pytest.approx(alone[0] + behind, abs=1e-4)
    assert ferry == pytest.approx(alone[1], abs=1e-5)
    out = both(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)
    assert out.exp().sum() == pytest.approx(1, abs=1e-5)
    assert out[0, 1] == pytest.approx(np.logaddexp(cargo, ferry), abs=1e-4)
    found, at = both.maps(photo, ["attention"])
    assert "".join(found.words[i] for i in at) in ("cargoship", "ferry")
    asking = Question(model, processor, "Is there a {class} in the picture?")
    with pytest.raises(Exception, match="does not know the word 'yes'"):
        asking.about("boat")


@pytest.mark.parametrize("kind", ["qwen2_vl", "paligemma", "mllama", "blip-2"])
def test_any_family_is_asked_and_its_words_are_forced(kind):
    model, processor = family(kind)
    words = processor.tokenizer.convert_ids_to_tokens(list(range(5, 9)))
    asked = Question(model, processor, "what is {class} ?", answer=words[0]).about(
        "picture", [f"{words[1]} {words[2]}", words[3]]
    )
    assert asked.prompt == "what is picture ?"
    photo = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    each = asked.each(photo)
    found, at = asked.maps(photo, ["attention"])
    told = [[words[1], words[2]], [words[3]]][int(np.argmax(each))]
    assert found.words == (words[0], *told)
    assert [found.words[i] for i in at] == told
    total = float(found.logprob[at].sum())
    assert total == pytest.approx(max(each), abs=1e-4)


def test_large_photos_are_asked_smaller():
    tensor, place = as_it_is(np.zeros((1000, 2688, 3), np.uint8))
    assert tensor.shape == (3, 500, 1344)
    assert place.crop == (0.0, 0.0, 2688.0, 1000.0)
    assert place.image_size == (1000, 2688)
    assert as_it_is(np.zeros((48, 64, 3), np.uint8))[0].shape == (3, 48, 64)


def test_on_the_command_line(tmp_path, capsys):
    bw.generate(groups=bw.balanced(3), seed=94).write(tmp_path / "scenes")
    words = ["audit", "--model", "tiny-llava", "--data", str(tmp_path / "scenes"), "--object",
             "boat", "--context", "water", "--question", "a", "--target", ",".join(BOATS),
             "--fill", "blur", "--method", "attention", "--examples", "0",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--layer", "x", "--labels", "a,b"]) == 2
    assert "--layer, --labels: not with --question" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("verdict  not enough evidence to tell whether the model reads the boat")
    table = said.partition("where it looks")[2].splitlines()
    assert table[1].split() == ["map", "boat", "water", "elsewhere", "text"]
    share = r"\d+ % \[\d+, \d+\]"
    assert re.search(rf"attention( +{share} on \d+ %){{3}} +{share}$", table[2])
    kept = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert kept["model"] == "tiny-llava"
    assert kept["settings"]["question"] == "a"
    assert kept["target"].endswith("to 'a'")
    assert main([w for w in words if w not in ("--question", "a")] + ["--answer", "a"]) == 2


def test_what_does_not_go_with_a_question(captioner, scenes):
    asked = Question(*captioner, "a")
    with pytest.raises(DataError, match="layer, preprocess: not for a question"):
        confusion(asked, scenes, layer="x", preprocess="unit", **OPTIONS)
    with pytest.raises(DataError, match="a question waits for words"):
        confusion(asked, scenes, **{**OPTIONS, "target": 3})
    with (
        pytest.warns(AttnvizWarning, match="never 'tent or cow': name its words with target="),
        pytest.raises(KeyboardInterrupt),
    ):
        confusion(asked, scenes, progress=stop, **{**OPTIONS, "target": ["tent", "cow"]})


def stop(done, total):
    raise KeyboardInterrupt
