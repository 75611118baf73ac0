"""The story of `attnviz demo --story boat-water`."""

from __future__ import annotations

from pathlib import Path

STORY_SCHEMA = 1


def boat_water(out: Path, as_json: bool) -> None:
    """Tell the story and name the report, in a folder of its own that no earlier demo wrote."""
    from ..audit.story import tell as tell_story
    from ._app import say, tell
    from ._console import print_json

    folder, number = out / "boat-water", 2
    while folder.exists():
        folder, number = out / f"boat-water-{number}", number + 1
    told = tell_story(say=say)
    paths = told.save(folder)
    if as_json:
        print_json(
            "demo-story", STORY_SCHEMA, seconds=told.seconds, comparison=told.comparison.as_dict(),
            alone=told.alone, repaired_by=told.repaired_by,
            files={k: str(p) for k, p in paths.items()},
        )  # fmt: skip
        return
    for word in ("before", "after"):
        verdict = getattr(told.comparison, word).verdict
        tell(f"{word:<8} {verdict.text}")
        tell(f"why      {verdict.why}")
    tell(f"change   {told.comparison.text}")
    tell(f"by what  {told.repaired_by}")
    tell(f"time     {', '.join(f'{name} {s:.0f} s' for name, s in told.seconds.items())}")
    tell(f"report   {paths['report'].absolute()}")
