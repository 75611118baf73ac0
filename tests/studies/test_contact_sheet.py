"""The contact sheet draws each package's picture, and says what each leaves in the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_it_draws_and_says_what_is_left(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import contact_sheet

    contact_sheet.main([str(photo), str(photo), "--out", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert "attnviz leaves: nothing" in said
    columns = 2 + said.count(" leaves: ") - 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 2 * columns * (contact_sheet.SIDE + contact_sheet.GAP) + 8
