"""`attnviz audit` on files: verdict, report, gate, resume, comparison."""

import json

import numpy as np
import pytest

from attnviz.cli import main
from attnviz.data import boatwater as bw
from attnviz.data import open_dataset
from attnviz.data.masks import files_of
from attnviz.errors import AttnvizWarning


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    bw.generate(groups=bw.balanced(12), seed=3, marked=True).write(folder)
    return folder


def run(folder, out, *extra, reads="water", json_out=True):
    words = [
        "audit", "--model", f"tests.audit.makers:reads_{reads}", "--data", str(folder), "--object",
        "boat", "--context", "water", "--preprocess", "unit", "--labels", "other,boat",
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
    assert said.count("why      the water's share of the evidence, ") == 2
    assert "is surely above 0.5; between the groups the water moves the log-odds of boat by" in said
    assert "answers got better over all images and in 'boat, no water', 'no boat, water'" in said
    assert "'boat, no water' 0 % [0, 24] to 100 % [76, 100] right" in said


def test_maps_are_printed_beside_their_chance(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "w", json_out=False) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line}
    document = json.loads((tmp_path / "w" / "audit.json").read_text())
    place = next(p for p in document["where"]
                 if (p["group"], p["region"]) == ("boat, water", "context"))  # fmt: skip
    energy = place["energy"]
    want = (f"{100 * energy['value']:.0f} % [{100 * energy['low']:.0f}, "
            f"{100 * energy['high']:.0f}] on {100 * place['area']:.0f} %")  # fmt: skip
    assert want in lines["gradcam"]
    assert "where it looks in 'boat, water'" in said


def test_discovery_alone_and_in_the_report(folder, tmp_path, capsys):
    words = ["audit", "--model", "tests.audit.makers:reads_water", "--data", str(folder),
             "--object", "boat", "--discover", "--preprocess", "unit", "--labels", "other,boat",
             "--device", "cpu", "--out", str(tmp_path / "d")]  # fmt: skip
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "attnviz.audit-discovery"
    # a reader of water calls the 12 boats on water boats, and the 12 waters without one
    called = [i for c in found["clusters"] for i in c["ids"]]
    assert len(called) == len(set(called)) == 24
    assert sum(c["share"] for c in found["clusters"]) == pytest.approx(1)
    rates = [c["wrong"] for c in found["clusters"]]
    assert rates == sorted(rates, reverse=True)
    counts = [c["images"] for c in found["clusters"]]
    assert sum(r * n for r, n in zip(rates, counts)) == pytest.approx(12)
    files = sorted(p.name for p in (tmp_path / "d").iterdir())
    assert files == ["discovery.html", "discovery.json"]
    assert main(words) == 1
    assert "exist already" in capsys.readouterr().err
    assert main([*words, "--fail-above", "0.3"]) == 2
    capsys.readouterr()
    assert run(folder, tmp_path / "both", "--discover") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["discovery"]["clusters"] == found["clusters"]
    page = (tmp_path / "both" / "report.html").read_text("utf-8")
    assert page.count('class="sheet"') == len(found["clusters"])


def test_concepts_named_and_judged(folder, tmp_path, capsys):
    words = ["audit", "--model", "tests.audit.makers:reads_water", "--data", str(folder),
             "--object", "boat", "--discover", "--by", "concepts", "--preprocess", "unit",
             "--labels", "other,boat", "--device", "cpu", "--fill", "blur", "--out",
             str(tmp_path / "c")]  # fmt: skip
    assert main([*words, "--clip", "tiny-clip", "--prompts", "land|water"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "audited as the context" in said[0]
    first = next(line for line in said[1:] if line[:1].isdigit())
    assert first.split()[1] == "(water)"
    assert "context 1.00" in first
    found = json.loads((tmp_path / "c" / "discovery.json").read_text())["clusters"][0]
    assert found["name"].endswith("(water)")
    assert found["verdict"]["kind"] == "context"
    page = (tmp_path / "c" / "discovery.html").read_text("utf-8")
    assert f"reads the {found['name']}: " in page
    assert main([*words, "--by", "concept"]) == 2
    assert "not one of features, maps, concepts" in capsys.readouterr().err


def test_context_from_a_segmenter(folder, tmp_path, capsys):
    out = tmp_path / "s"
    assert run(folder, out, "--context-masks", "tests.audit.makers:sea") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["kind"] == "context"
    assert found["settings"]["context_masks"] == "sea"
    assert run(folder, tmp_path / "t", "--context-masks", "tests.audit.makers:see") == 1
    assert "did you mean 'sea'" in capsys.readouterr().err
    assert run(folder, tmp_path / "u", "--clip", str(tmp_path)) == 2


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Class folders boat/ and other/, boats on water alone, masks/boat/ for one boat in five."""
    from PIL import Image

    root = tmp_path_factory.mktemp("classes")
    seen = 0
    for sample in bw.generate(groups=[0, 3] * 50, seed=3, marked=True).dataset():
        for name in (sample.label, f"masks/{sample.label}"):
            (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.read()).save(root / sample.label / f"{sample.id}.png")
        seen += sample.label == "boat"
        if sample.label == "boat" and not seen % 5:
            mask = sample.mask("boat").astype("uint8") * 255
            Image.fromarray(mask).save(root / "masks" / "boat" / f"{sample.id}.png")
    return root


def folders(root, out, *extra, reads="water"):
    return main(["audit", "--model", f"tests.audit.makers:reads_{reads}", "--data", str(root),
                 "--preprocess", "unit", "--fill", "blur", "--method", "gradcam", "--examples",
                 "1", "--device", "cpu", "--out", str(out), *extra])  # fmt: skip


@pytest.mark.parametrize(("reads", "said"), [("water", "background"), ("object", "vessel")])
def test_class_folders_reach_a_verdict_by_one_line(classes, tmp_path, capsys, reads, said):
    words = ["--object", "boat", "--labels", "land,vessel", "--classes", "boat=vessel"]
    assert folders(classes, tmp_path / "a", *words, reads=reads) == 0
    found = capsys.readouterr()
    assert found.out.startswith(f"verdict  reads the {said.replace('vessel', 'boat')}: ")
    assert "no --context is named: all that is not boat is its context" in found.err
    assert "of 50 images with boat 10 masks say where it is; the other 40" in found.out
    # the same by folders of the user's own: --masks means what it means in guide
    import shutil

    shutil.copytree(classes, tmp_path / "own", ignore=shutil.ignore_patterns("masks"))
    assert folders(tmp_path / "own", tmp_path / "b", *words, reads=reads) == 1
    assert "no image says where 'boat' is" in capsys.readouterr().err
    given = ["--masks", str(classes / "masks"), "--json"]
    assert folders(tmp_path / "own", tmp_path / "c", *words, *given, reads=reads) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert again["verdict"] == first["verdict"]


def test_the_gate_says_what_it_compared(classes, tmp_path, capsys):
    words = ["--object", "boat", "--labels", "other,boat", "--fail-above", "0.3"]
    assert folders(classes, tmp_path / "a", *words) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    severity = json.loads((tmp_path / "a" / "audit.json").read_text())["verdict"]["severity"]
    assert said.startswith(
        f"gate: the lower end of the severity's 95 % interval, {severity['low']:.3f}, is above 0.3 "
        "(--fail-above): fails. "
    )
    assert "is the background's share of the evidence for boat, in 100 images" in said
    assert folders(classes, tmp_path / "b", *words, reads="object") == 0
    assert "is not above 0.3 (--fail-above): passes" in capsys.readouterr().err


def test_identical_images_are_left_out_on_request(classes, tmp_path, capsys):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(classes, data)
    one = sorted((data / "boat").iterdir())[0]
    shutil.copy(one, data / "boat" / "again.png")
    words = ["--object", "boat", "--labels", "other,boat"]
    assert folders(data, tmp_path / "a", *words) == 1
    said = capsys.readouterr().err
    assert f"'boat/{one.name}' = 'boat/again.png'" in said
    assert "--skip-identical" in said
    assert folders(data, tmp_path / "a", *words, "--skip-identical") == 0
    found = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert found["settings"]["identical_skipped"] == 1
    assert found["images"] == 100


def test_all_classes_by_the_model_s_names(folder, tmp_path, capsys):
    mapping = tmp_path / "classes.json"
    mapping.write_text(json.dumps({"boat": ["vessel"], "other": 0}))
    words = ["audit", "--model", "tests.audit.makers:reads_water", "--data", str(folder),
             "--preprocess", "unit", "--labels", "thing,vessel", "--all-classes", "--json",
             "--device", "cpu"]  # fmt: skip
    assert main(words) == 1
    assert "--classes" in capsys.readouterr().err
    assert main([*words, "--classes", str(mapping)]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert (pairs[0]["object"], pairs[0]["context"]) == ("boat", "water")
    assert main([*words, "--classes", "boat"]) == 2


def test_usage(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "d", "--boxes", "--groups") == 2
    assert main(["audit", "--data", str(folder)]) == 2
    assert run(folder, tmp_path / "e", "--fail-above", "7") == 2
    capsys.readouterr()
    assert main(["audit", "--data", str(folder), "--model", "tests.audit.makers:reads_water",
                 "--object", "water", "--context", "water", "--preprocess", "unit",
                 "--out", str(tmp_path / "f")]) == 1  # fmt: skip
    assert "both 'water'" in capsys.readouterr().err


def pictured(folder):
    return sorted((folder / "images").rglob("*.png"))


def stopped(folder, out, monkeypatch):
    """Leave an audit that was stopped after its first batch."""
    from attnviz.audit import running

    real = running.SharedJournal.append

    def append(self, rows):
        real(self, rows)
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(running.SharedJournal, "append", append)
        assert run(folder, out, "--batch-size", "8") == 1
    assert (out / "journal.jsonl").is_file()


def test_a_stopped_audit_goes_on_or_starts_over(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a"
    stopped(folder, out, monkeypatch)
    assert run(folder, out) == 1
    assert "go on with --resume, or start over with --force" in capsys.readouterr().err
    assert run(folder, out, "--resume") == 0
    whole = json.loads(capsys.readouterr().out)
    stopped(folder, tmp_path / "b", monkeypatch)
    assert run(folder, tmp_path / "b", "--force", "--seed", "0") == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["text"] == whole["verdict"]["text"]
    assert sorted(p.name for p in out.iterdir()) == ["audit.json", "images.csv", "report.html"]


def test_going_on_with_other_pixels_is_refused(folder, tmp_path, monkeypatch, capsys):
    import shutil

    from PIL import Image

    data, out = tmp_path / "data", tmp_path / "a"
    shutil.copytree(folder, data)
    stopped(data, out, monkeypatch)
    photo = pictured(data)[0]
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photo)
    assert run(data, out, "--resume") == 1
    said = capsys.readouterr().err
    assert "belongs to another audit (data differ)" in said
    assert (out / "journal.jsonl").is_file()  # of the old data, whose owner may come back


def test_a_refused_audit_leaves_nothing(folder, tmp_path, capsys):
    import shutil

    from PIL import Image

    data, out = tmp_path / "data", tmp_path / "a"
    shutil.copytree(folder, data)
    # a boat in the middle, which neither the choice of the layer nor a donor reads beforehand
    found = open_dataset(data)
    sample = next(found[i] for i in range(19, 28) if "boat" in found[i].labels)
    (mask,) = files_of(sample.masks["boat"])
    kept = mask.read_bytes()
    Image.new("L", (7, 9), 1).save(mask)
    assert run(data, out, "--batch-size", "4") == 1
    assert "9 x 7" in capsys.readouterr().err
    assert not out.exists()
    mask.write_bytes(kept)
    assert run(data, out) == 0


def test_two_audits_in_one_folder(folder, tmp_path, capsys):
    from attnviz.writing import locked

    out = tmp_path / "a"
    with locked(out):
        assert run(folder, out) == 1
        assert "is in use by another run" in capsys.readouterr().err
    assert not out.exists()


def test_a_photo_that_goes_while_the_audit_runs_is_left_out_and_said(
    folder, tmp_path, monkeypatch, capsys
):
    """It stopped, and threw the journal away. What is left counts as if it had been all."""
    import shutil

    from attnviz.audit import running

    data = tmp_path / "data"
    shutil.copytree(folder, data)
    photos = pictured(data)
    real, gone = running.Instrument.measure, photos[-3]

    def measure(self, pictures):
        gone.unlink(missing_ok=True)
        return real(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(running.Instrument, "measure", measure)
        assert run(data, tmp_path / "a", "--batch-size", "4") == 1
    done = capsys.readouterr()
    assert f"{gone.name} does not exist; the audit goes on without it" in done.err
    assert f"error: 1 of {len(photos)} images could not be read" in done.err
    found = json.loads(done.out)
    assert "1 images could not be read when it was their turn" in json.dumps(found["verdict"])
    assert run(data, tmp_path / "b", "--batch-size", "4", "--resume") in (0, 1)
    assert json.loads((tmp_path / "a" / "audit.json").read_text())["images"] == len(photos) - 1


@pytest.mark.parametrize("cut", [0, 40, 400])
def test_a_photo_that_is_damaged_from_the_start_is_left_out_and_said(folder, tmp_path, capsys, cut):
    """It stopped the audit."""
    import shutil

    data = tmp_path / "data"
    shutil.copytree(folder, data)
    photos = pictured(data)
    photos[-3].write_bytes(photos[-3].read_bytes()[:cut])
    assert run(data, tmp_path / "a", "--batch-size", "4") == 1
    done = capsys.readouterr()
    assert f"{photos[-3].stem}" in done.err
    assert "the audit goes on without it" in done.err
    assert f"error: 1 of {len(photos)} images could not be read; the report is of" in done.err
    found = json.loads(done.out)
    assert found["images"] == len(photos) - 1
    assert found["settings"]["gone"] == [
        g for g in found["settings"]["gone"] if photos[-3].stem in g
    ]


def test_a_photo_that_has_gone_leaves_the_numbers_of_the_rest(folder, tmp_path, monkeypatch):
    """The table of an audit that lost an image is that of an audit without it."""
    import shutil

    import attnviz
    from attnviz.audit import confusion, running

    data = tmp_path / "data"
    shutil.copytree(folder, data)
    samples = open_dataset(data)
    lost = len(samples) - 3
    options = dict(
        object="boat", context="water", preprocess="unit", labels=["other", "boat"],
        methods=["gradcam"], fills=["mean"], batch_size=4, examples=0,
    )  # fmt: skip
    model = attnviz.load("tests.audit.makers:reads_water")
    real = running.Instrument.measure

    def measure(self, pictures):
        samples[lost].image.unlink(missing_ok=True)
        return real(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(running.Instrument, "measure", measure)
        with pytest.warns(AttnvizWarning, match="does not exist"):
            found = confusion(model, samples, **options)
    rest = samples.subset([i for i in range(len(samples)) if i != lost])
    wanted = confusion(model, rest, **options)
    assert found.settings["gone"] == [samples[lost].id]
    assert found.table.ids == wanted.table.ids
    shared = [n for n in found.table.columns if n in ("called", "score") or n[:4] == "map:"]
    assert len(shared) > 3
    for name in shared:
        one, other = found.table.columns[name], wanted.table.columns[name]
        np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)
    assert found.cells == wanted.cells
