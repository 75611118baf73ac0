"""`--masks-from`: a segmenter's masks in `audit` and `guide`, marked as such."""

import json

import numpy as np
import pytest
from PIL import Image

from attnviz.cli import main
from attnviz.data import boatwater as bw
from attnviz.models import segmenting


class Painter:
    """Tells marked boats and water by their colours."""

    labels = ("land", "boat", "water")

    def __call__(self, photo):
        red, green, blue = (photo[..., c].astype(int) for c in range(3))
        return np.where(red - green > 72, 1, np.where(blue - red > 52, 2, 0))


@pytest.fixture
def painter(monkeypatch):
    asked = []

    def load(name, *, device=None):
        asked.append(name)
        return Painter()

    monkeypatch.setattr(segmenting, "load_segmenter", load)
    return asked


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Class folders without any mask, boats on water alone."""
    root = tmp_path_factory.mktemp("classes")
    for sample in bw.generate(groups=[0, 3] * 16, seed=3, marked=True).dataset():
        (root / sample.label).mkdir(exist_ok=True)
        Image.fromarray(sample.read()).save(root / sample.label / f"{sample.id}.png")
    return root


@pytest.mark.parametrize(("reads", "verdict"), [("water", "context"), ("object", "object")])
def test_an_audit_by_a_segmenter_s_masks(classes, painter, tmp_path, capsys, reads, verdict):
    words = ["audit", "--data", str(classes), "--model", f"tests.audit.makers:reads_{reads}",
             "--object", "boat", "--preprocess", "unit", "--labels", "other,boat", "--fill", "blur",
             "--method", "gradcam", "--examples", "1", "--device", "cpu", "--masks-from", "hf:net",
             "--out", str(tmp_path / "a")]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert painter == ["hf:net"]
    assert "masks from hf:net, not drawn by people: 16 of boat" in said.err
    assert "16 masks are not drawn by people but from hf:net" in said.out
    document = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert document["verdict"]["kind"] == verdict
    assert document["settings"]["masks_from"] == {"hf:net": 16}
    assert "but from hf:net" in document["verdict"]["why"]
    page = (tmp_path / "a" / "report.html").read_text("utf-8")
    assert "16 masks not drawn by people, but from hf:net" in page
    # a named context is looked for in all images, and is there where the segmenter sees it
    named = [*words[:-1], str(tmp_path / "b"), "--context", "water", "--allow-empty-groups"]
    assert main(named) == 0
    document = json.loads((tmp_path / "b" / "audit.json").read_text())
    assert [g["images"] for g in document["groups"]] == [16, 0, 0, 16]
    assert document["verdict"]["kind"] == verdict
    assert main([*words, "--force", "--groups"]) == 2
    assert main([*words, "--force", "--object", "other"]) == 1
    assert "hf:net cannot say where it is" in capsys.readouterr().err


def test_guidance_by_a_segmenter_s_masks(classes, painter, tmp_path, capsys):
    code = main([
        "guide", "--data", str(classes), "--object", "boat", "--masks-from", "hf:net",
        "--model", "attnviz.data.boatwater.recipe:SmallNet", "--preprocess", "imagenet",
        "--steps", "3", "--batch-size", "8", "--photos", "0", "--no-baseline", "--out",
        str(tmp_path / "run"),
    ])  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "note         16 masks are not drawn by people but from hf:net" in said.out
    answers = json.loads((tmp_path / "run" / "answers.json").read_text())
    assert "16 masks are not drawn by people but from hf:net" in answers["notes"]


@pytest.mark.parametrize(("reads", "verdict"), [("water", "context"), ("object", "object")])
def test_a_context_by_a_prompt_s_dense_map(tmp_path, capsys, reads, verdict):
    """Masks of boats alone: where the water is, and on which photos, a CLIP tells."""
    root = tmp_path / "scenes"
    for sample in bw.generate(groups=[0, 1, 2, 3] * 16, seed=3, marked=True).dataset():
        for folder in (root / sample.label, root / "masks" / sample.label):
            folder.mkdir(exist_ok=True, parents=True)
        Image.fromarray(sample.read()).save(root / sample.label / f"{sample.id}.png")
        if sample.label == "boat":
            mask = Image.fromarray(sample.mask("boat").astype(np.uint8) * 255)
            mask.save(root / "masks" / "boat" / f"{sample.id}.png")
    words = ["audit", "--data", str(root), "--model", f"tests.audit.makers:reads_{reads}",
             "--object", "boat", "--preprocess", "unit", "--labels", "other,boat", "--fill", "blur",
             "--method", "gradcam", "--examples", "1", "--device", "cpu", "--out",
             str(tmp_path / "a"), "--context", "text:water|land"]  # fmt: skip
    assert main([*words, "--clip", "tiny-clip"]) == 0
    said = capsys.readouterr()
    source = "tiny-clip by the prompt 'water' against land"
    assert f"masks from {source}, not drawn by people" in said.err
    document = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert document["verdict"]["kind"] == verdict
    assert document["settings"]["context"] == "water"
    assert source in document["settings"]["masks_from"]
    assert f"not drawn by people but from {source}" in document["verdict"]["why"]
    groups = {g["name"]: g["images"] for g in document["groups"]}
    assert all(13 <= count <= 19 for count in groups.values()), groups  # 16 of each in truth
    assert main([*words, "--force"]) == 2
    assert "needs --clip" in capsys.readouterr().err
    assert main([*words[:-1], "text:water", "--clip", "tiny-clip", "--force"]) == 2
    assert "say what else is on the photos" in capsys.readouterr().err
