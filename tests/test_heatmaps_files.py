"""Heatmaps in files: exact, whole or not at all, and no pickle."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from attnviz import limits
from attnviz.errors import DataError, OutputExists
from attnviz.geometry import Geometry
from attnviz.heatmaps import Heatmaps


def make(n=3, **parts):
    given = {
        "values": torch.randn(n, 5, 7) * 1e-3,
        "method": "gradcam",
        "layer": "layer4",
        "target": tuple({"kind": "contrast", "of": (i, np.int64(i + 1))} for i in range(n)),
        "label": tuple(f"Boot «{i}» – 船" for i in range(n)),
        "score": torch.randn(n),
        "geometry": tuple(Geometry((10, 20), (5, 7), (0.1 + i, 1 / 3, 9.7, 8.0)) for i in range(n)),
        "sources": ("a.jpg", *[None] * (n - 1)) if n else (),
        "units": "logit",
        "meta": {"model": "x", "seed": 3, "nested": {"a": [1, 2.5, None, True]}},
    }
    return Heatmaps(**{**given, **parts})


def same(a, b):
    for field in ("method", "layer", "target", "label", "geometry", "sources", "units", "meta"):
        assert getattr(a, field) == getattr(b, field), field
    for field in ("values", "score"):
        x, y = getattr(a, field), getattr(b, field)
        assert x.dtype == y.dtype
        assert torch.equal(x.detach().nan_to_num(nan=123.0), y.nan_to_num(nan=123.0))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    "maps",
    [
        make(),
        make(1),
        make(0),
        make(geometry=None, sources=None, meta={}, units=""),
        make(values=torch.randn(3, 2, 2, dtype=torch.float64), score=torch.randn(3).double()),
        make(values=torch.tensor([[[float("nan"), float("inf")]]] * 3)),
        make(values=torch.rand(3, 4, 4, requires_grad=True)),
        make(values=torch.rand(3, 4, 8)[..., ::2]),
        make(sources=None),
    ],
)
def test_round_trip_is_exact(tmp_path, maps, suffix):
    path = maps.save(tmp_path / f"maps{suffix}")
    same(maps, Heatmaps.load(path))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == (["maps.json", "maps.npz"] if suffix == ".npz" else ["maps.safetensors"])
    if suffix == ".npz":
        same(maps, Heatmaps.load(path.with_suffix(".json")))


def test_photos_are_not_saved_and_are_attached_again(tmp_path):
    photo = np.zeros((10, 20, 3), np.uint8)
    maps = make(images=(photo,) * 3)
    maps.save(tmp_path / "a.npz")
    loaded = Heatmaps.load(tmp_path / "a.npz")
    assert loaded.images is None
    drawn = loaded.with_images([photo] * 3).overlay(0)
    assert np.array_equal(np.asarray(drawn), np.asarray(maps.overlay(0)))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_nothing_is_overwritten_unless_asked(tmp_path, suffix):
    path = tmp_path / f"maps{suffix}"
    first, second = make(), make()
    first.save(path)
    with pytest.raises(OutputExists, match="force"):
        second.save(path)
    same(first, Heatmaps.load(path))
    second.save(path, force=True)
    same(second, Heatmaps.load(path))


def test_a_json_in_the_way_protects_the_pair(tmp_path):
    (tmp_path / "maps.json").write_text("mine")
    with pytest.raises(OutputExists):
        make().save(tmp_path / "maps.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["maps.json"]
    assert (tmp_path / "maps.json").read_text() == "mine"


@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.parametrize("before", [True, False])
def test_a_failure_half_way_leaves_what_was_there(tmp_path, monkeypatch, fails_at, before):
    path = tmp_path / "maps.npz"
    old = make()
    if before:
        old.save(path)
    replace, calls = os.replace, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == fails_at:
            raise OSError("disk full")
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="disk full"):
            make().save(path, force=True)
    if before:
        same(old, Heatmaps.load(path))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["maps.json", "maps.npz"]
    else:
        assert list(tmp_path.iterdir()) == []


def test_other_endings_are_refused(tmp_path):
    for name in ("maps.pt", "maps.pkl", "maps"):
        with pytest.raises(DataError, match="safetensors"):
            make().save(tmp_path / name)
        with pytest.raises(DataError, match="safetensors"):
            Heatmaps.load(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        Heatmaps.load(tmp_path / "missing.npz")
    with pytest.raises(DataError, match="no such file"):
        Heatmaps.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_files_are_said_to_be_so(tmp_path, suffix):
    path = make().save(tmp_path / f"maps{suffix}")
    data = path.read_bytes()
    for broken in (b"", b"nonsense", data[: len(data) // 2], data[:-1]):
        path.write_bytes(broken)
        with pytest.raises(DataError):
            Heatmaps.load(path)


def test_arrays_carry_their_own_description(tmp_path):
    make().save(tmp_path / "a.npz")
    second = make()
    second.save(tmp_path / "b.npz")
    os.replace(tmp_path / "b.npz", tmp_path / "a.npz")
    same(second, Heatmaps.load(tmp_path / "a.npz"))
    same(second, Heatmaps.load(tmp_path / "a.json"))


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_between_the_renames_leaves_the_old_or_the_new(tmp_path, at):
    old = make()
    old.save(tmp_path / "maps.npz")
    code = f"""
import os, sys
from tests.test_heatmaps_files import make
replace, count = os.replace, [0]
def dying(*names):
    count[0] += 1
    if count[0] == {at}:
        os._exit(9)
    replace(*names)
os.replace = dying
maps = make()
import dataclasses
dataclasses.replace(maps, method="other").save({str(tmp_path / "maps.npz")!r}, force=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    for name in ("maps.npz", "maps.json"):
        assert Heatmaps.load(tmp_path / name).method == (old.method if at == 1 else "other")
    make().save(tmp_path / "more.npz")  # the next write cleans up after the dead
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["maps.json", "maps.npz", "more.json", "more.npz"]


def test_a_small_file_that_opens_into_much_is_refused(tmp_path):
    path = make().save(tmp_path / "maps.npz")
    with np.load(path) as arrays:
        parts = dict(arrays)
    parts["values"] = np.zeros((len(parts["values"]), 2000, 2000), np.float32)
    np.savez_compressed(path, **parts)
    assert path.stat().st_size < 300_000
    with limits.raised(bytes=10_000_000), pytest.raises(DataError, match="ATTNVIZ_LIMITS=bytes="):
        Heatmaps.load(path)


def test_a_stated_size_is_checked_before_anything_of_it_is_made(tmp_path):
    path = make().save(tmp_path / "maps.safetensors")
    with safe_open(path, "pt") as file:
        arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        described = json.loads(file.metadata()["attnviz.heatmaps"])
    described["geometry"] = [
        {"image_size": [50_000, 50_000], "input_size": [4, 4], "crop": [0, 0, 4, 4]}
    ] * len(arrays["values"])
    save_file(arrays, path, {"attnviz.heatmaps": json.dumps(described)})
    with pytest.raises(DataError, match="pixels, more than the limit"):
        Heatmaps.load(path)


@pytest.mark.parametrize(("key", "value"), [("version", 2), ("schema", "other")])
def test_other_schemas_are_refused(tmp_path, key, value):
    path = make().save(tmp_path / "a.npz").with_suffix(".json")
    described = json.loads(path.read_text(encoding="utf-8"))
    assert described["version"] == 1
    path.write_text(json.dumps({**described, key: value}))
    with pytest.raises(DataError, match=r"version 2|not an attnviz\.heatmaps"):
        Heatmaps.load(path)


def test_no_pickle_is_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "a.npz"
    make().save(path)
    np.savez(path, values=np.array([Trap()], dtype=object), score=np.zeros(1))
    described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    import hashlib

    described["arrays"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="allow_pickle"):
        Heatmaps.load(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        Heatmaps.load(path)
    assert not (tmp_path / "sprung").exists()
