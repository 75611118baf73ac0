"""Which photos are taken, and what their results are called."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from attnviz.cli._photos import gather, paths_given, result_stems, slug


@pytest.mark.parametrize(
    ("photos", "stems"),
    [
        (["a/beach.jpg", "b/boat.jpg"], ["beach", "boat"]),
        (["paris/beach.jpg", "rome/beach.jpg", "x/b.jpg"], ["paris-beach", "rome-beach", "b"]),
        (["1/x/beach.jpg", "2/x/beach.jpg"], ["1-x-beach", "2-x-beach"]),
        (["a/beach.jpg", "a/beach.png"], ["a-beach-jpg", "a-beach-png"]),
        (["a/Beach.jpg", "b/beach.jpg"], ["a-Beach", "b-beach"]),
        # flattening makes the second photo's folders look like the first one's stem
        (["x/a-b.jpg", "a/b.jpg", "c/b.jpg"], None),
        (["a-b/c.jpg", "a/b-c.jpg", "z/c.jpg", "z/b-c.jpg"], None),
    ],
)
def test_result_names_tell_photos_apart(photos: list[str], stems: list[str] | None) -> None:
    got = result_stems([Path(p) for p in photos])
    assert len({s.lower() for s in got}) == len(photos)
    if stems is not None:
        assert got == stems


def test_a_photo_keeps_its_name_whatever_other_photos_are_called() -> None:
    photos = [Path(f"folder{i}/same.jpg") for i in range(50)] + [Path("else/other.jpg")]
    stems = result_stems(photos)
    assert stems[-1] == "other"
    assert stems[7] == "folder7-same"


def test_the_same_file_is_taken_once_and_what_is_missing_is_told(tmp_path: Path) -> None:
    photo = tmp_path / "one.jpg"
    photo.write_bytes(b"not looked at here")
    (tmp_path / "link.jpg").symlink_to(photo)
    photos, failed = gather([str(tmp_path / "no.jpg"), str(photo), str(tmp_path), str(photo)])
    assert photos == [photo]
    assert [name for name, _ in failed] == [str(tmp_path / "no.jpg")]
    assert "no such file" in str(failed[0][1])


def test_stdin_gives_one_path_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a photo.jpg\n\nb.jpg\r\n"))
    assert paths_given(["first.jpg", "-"]) == ["first.jpg", "a photo.jpg", "b.jpg"]


def test_slug_is_safe_in_a_file_name() -> None:
    assert slug("military uniform") == "military-uniform"
    assert slug("gradcam++") == "gradcam++"
    assert slug("../../etc/passwd: a - b") == "etc-passwd-a-b"
    assert slug("...") == "unnamed"
