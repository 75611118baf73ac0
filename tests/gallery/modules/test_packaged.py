"""The trained weights travel inside the built wheel, where the library looks for them first."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from attnviz.gallery.modules import files

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML itself")
ROOT = Path(__file__).resolve().parents[3]
INSIDE = "attnviz/gallery/modules/weights"


def test_the_wheel_takes_the_folder_where_the_library_looks():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = settings["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"] == {
        "assets/reference": INSIDE, "assets/models": "attnviz/models/weights"
    }  # fmt: skip
    assert "assets" in targets["sdist"]["include"]
    assert files.HERE.relative_to(ROOT).as_posix() + "/weights" == INSIDE
    # what is sent along is what the manifest names, and the digits
    kept = {p.name for p in (ROOT / "assets" / "reference").iterdir() if p.is_file()}
    named = {f"{name}.safetensors" for name in files.manifest()["models"]}
    assert kept == named | {"manifest.json", "digits.safetensors"}


@pytest.mark.slow
def test_a_built_wheel_loads_its_own_weights(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    sdist = pytest.importorskip("hatchling.builders.sdist")
    [source] = list(sdist.SdistBuilder(str(ROOT)).build(directory=str(tmp_path)))
    assert Path(source).stat().st_size < 8_000_000
    [built] = list(
        wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    )
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json, torch, attnviz\n"
            "from attnviz.gallery import modules as reference\n"
            "from attnviz.gallery.modules import files\n"
            "batch = reference.sample('stn', 5)\n"
            "with torch.no_grad():\n"
            "    theta = reference.load('stn')(*batch.inputs).theta\n"
            "print(json.dumps([attnviz.__file__, str(files.folder()), theta.tolist()]))",
        ],
        cwd=tmp_path / "site",
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    package, folder, theta = json.loads(told.stdout)
    assert Path(package) == tmp_path / "site" / "attnviz" / "__init__.py"
    assert Path(folder) == tmp_path / "site" / INSIDE
    # the same numbers as from the checkout's file
    from attnviz.gallery import modules as reference

    here = reference.load("stn")(*reference.sample("stn", 5).inputs).theta
    assert (here - here.new_tensor(theta)).abs().max() < 1e-6
