"""`attnviz selftest`."""

from __future__ import annotations

TINY = ["tests.cli.tiny:colours", "--preprocess", "imagenet"]


def test_a_sound_method_passes(run):
    done = run("selftest", *TINY, "--methods", "cam,hirescam")
    assert done.code == 0
    assert "HiResCAM completeness: sum + bias = logit: holds" in done.out
    assert "cam: exact" in done.out
    assert "testing identities ..." in done.err


def test_json_and_photos(run, photos):
    done = run("selftest", *TINY, "--methods", "cam", "--photos", photos, "--json")
    assert done.json["schema"] == "attnviz.selftest"
    assert done.json["images"] == 3
    assert done.json["layer"] == "features"
    assert done.code == (0 if done.json["passed"] else 3)
    failing = [f for f in done.json["findings"] if f["gate"] and f["verdict"] == "fails"]
    assert bool(failing) is not done.json["passed"]


def test_faults(run, photos):
    assert run("selftest", *TINY, "--methods", "camm").code == 2
    (photos / "bad.jpg").write_bytes(b"no picture")
    done = run("selftest", *TINY, "--photos", photos)
    assert done.code == 1
    assert "bad.jpg" in done.err
    done = run("selftest", "tests.cli.tiny:nan", "--preprocess", "imagenet")
    assert done.code == 1
    assert "not finite" in done.err
