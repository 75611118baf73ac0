"""Small runs of the commands that write, and what must hold of a folder they wrote into."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from attnviz.data import boatwater
from attnviz.heatmaps import Heatmaps

_TINY = ("--model", "tests.cli.tiny:colours", "--preprocess", "imagenet")


@dataclass(frozen=True)
class Command:
    """A command line that writes into a folder.

    Attributes:
        name: of the command.
        words: the folder -> its command line.
        again: options that start it again over what a stopped run left.
    """

    name: str
    words: Callable[[Path], list[str]]
    again: tuple[str, ...] = ("--force",)


def commands(top: Path) -> list[Command]:
    """Write what the commands read into a folder; return them."""
    rng = np.random.default_rng(0)
    top.mkdir(parents=True, exist_ok=True)
    photos = [str(top / f"{i}.png") for i in range(3)]
    for photo in photos:
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(photo)
    scenes = boatwater.generate(groups=boatwater.balanced(4), seed=3, marked=True)
    scenes.write(top / "scenes")
    for k in range(8):
        label = "ring" if k % 2 else "disc"
        image = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        mask = np.zeros((48, 48), np.uint8)
        mask[8:24, 8:24] = 255
        image[mask > 0] = (250, 40, 40) if k % 2 else (40, 40, 250)
        for kind, array in (("images", image), ("masks", mask)):
            (top / kind / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(top / kind / label / f"{k:02d}.png")
    vit = ("--model", "timm:vit_tiny_patch16_224", "--random")
    audit = (
        "audit", "--model", "tests.audit.makers:reads_water", "--data", str(top / "scenes"),
        "--object", "boat", "--context", "water", "--preprocess", "unit", "--labels",
        "other,boat", "--fill", "blur", "--method", "gradcam", "--examples", "1",
    )  # fmt: skip
    writes = ("--model", "tiny-llava")
    asked = (
        "audit", *writes, "--data", str(top / "scenes"), "--object", "boat",
        "--context", "water", "--question", "a", "--target", "boat,ferry", "--fill", "blur",
        "--method", "attention", "--examples", "0",
    )  # fmt: skip
    guide = (
        "guide", "--data", str(top / "images"), "--masks", str(top / "masks"), "--model",
        "attnviz.data.boatwater.recipe:SmallNet", "--preprocess", "imagenet", "--batch-size", "4",
        "--photos", "1", "--lr", "0.01", "--epochs", "2",
    )  # fmt: skip
    choose = ("--model", "tests.cli.tiny:colours", "--preprocess", "unit", "--classes",
              "disc=0,ring=1")  # fmt: skip
    judge = ("--methods", "gradcam,layercam", "--metrics", "deletion", "--steps", "4")

    def into(*words: str, file: str = "") -> Callable[[Path], list[str]]:
        return lambda out: [*words, "--out", str(out / file)]

    def to(*words: str) -> Callable[[Path], list[str]]:
        return lambda out: [*words[:-1], str(out / words[-1])]

    return [
        Command("explain", into("explain", *photos, *_TINY)),
        Command("erase", into("erase", photos[0], *_TINY)),
        Command(
            "page",
            lambda out: [
                "explain",
                *photos,
                *_TINY,
                "--out",
                str(out),
                "--html",
                str(out / "page.html"),
            ],
        ),
        Command("shards", into("explain", str(top / "images"), "--shards", *_TINY), ()),
        Command("concepts", into("concepts", *photos, *_TINY, "--count", "2")),
        Command("choose", into("choose", str(top / "images"), "--budget", "3", *choose)),
        Command("attend", into("attend", photos[0], *vit, file="rollout.png")),
        Command("words", to("attend", photos[0], *writes, "--text", "a", "--html", "page.html")),
        Command("drawing", to("inspect", *_TINY[1:2], "--draw", "net.svg")),
        Command("export", to("export", *_TINY[1:2], "--with-map", "net.pt2")),
        Command("discover", into(*audit[:7], *audit[9:], "--discover")),
        Command("question", into(*asked), ("--resume",)),
        Command("gallery", into("gallery", "--only", "se")),
        Command("demo", into("demo")),
        Command("benchmark", into("benchmark", *photos, *_TINY, *judge), ()),
        Command("audit", into(*audit), ("--resume",)),
        Command("guide", into(*guide), ("--resume",)),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of all files of a folder."""
    return {
        p.relative_to(folder).as_posix(): _bytes(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def _bytes(path: Path) -> bytes:
    """Return a file's bytes; safetensors writes its metadata in any order, which is put in one."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]


def check_whole(folder: Path) -> None:
    """Read every file that bears its own name; what is half written bears another.

    Raises:
        Exception: of whatever reads the file, when it is not whole.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or ".new" in path.name or path.name.startswith("."):
            continue
        if path.suffix in (".png", ".jpg", ".webp"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            Heatmaps.load(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                list(tensors.keys())
        elif path.suffix in (".html", ".svg"):
            assert path.read_text().rstrip().endswith(f"</{path.suffix[1:]}>"), path
        elif path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None, path
        elif path.suffix == ".jsonl":  # grown line by line: the last may be cut, and is made anew
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    json.loads(line)
