"""What a vision-language model writes: word by word, and the answer to an audit's question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ._app import tell

if TYPE_CHECKING:
    from ..audit import Question
    from ._options import Subject


def asked(subject: Subject, question: str, answer: str) -> Question:
    """Return a vision-language model with what it is asked, for an audit."""
    from ..audit import Question
    from ..models.text import load_writer

    if subject.model is None:
        raise typer.BadParameter(
            "--question needs --model hf:NAME, a folder, or tiny-llava: the embedded model writes "
            "nothing"
        )
    model, processor = load_writer(subject.model, device=subject.device)
    return Question(model, processor, question, answer, name=subject.model)


def write_words(
    photos: list[str], text: str, extra: list[str], *, subject: Subject, random: bool,
    methods: str | None, html: Path | None, region: Path | None, grid: str | None, most: int,
    heads: bool, force: bool,
) -> None:  # fmt: skip
    """Print the answer, write its page, and print each word's attention to a region.

    Args:
        extra: names of options that were given and have no place here.
    """
    from ..attention.word_reading import words
    from ..attention.word_removal import without_region
    from ..data.masks import read_label_image
    from ..images import read_image
    from ..models.text import load_writer
    from ._console import print_table
    from ._files import refuse_existing
    from ._options import sides

    if extra:
        raise typer.BadParameter(
            f"{', '.join(extra)}: not for a photo and a text together; the page (--html) has all "
            "layers"
        )
    shape = None if grid is None else sides("grid", grid)
    if len(photos) != 1:
        raise typer.BadParameter(f"--text is asked of one photo, got {len(photos)}")
    photo, model = Path(photos[0]), str(subject.model)
    page = html or Path("attnviz-out") / f"{photo.stem}.words.html"
    if not force:
        refuse_existing([page])
    image = read_image(photo)
    module, processor = load_writer(model, device=subject.device, random=random)
    asked = [name.strip() for name in (methods or "attention").split(",")]
    if (
        methods is None and getattr(module.config, "model_type", None) != "mllama"
    ):  # it has no image tokens
        asked.append("tam")
    found = words(
        module, processor, image, text, max_new_tokens=most, methods=asked,
        grid=shape, heads=heads,
    )  # fmt: skip
    tell(found.text)
    if region is not None:
        mask = read_label_image(region)
        mass = found.mass(mask)
        fall = without_region(module, processor, found, mask)
        columns = (mass.inside, mass.outside, mass.text, *fall.fall.values())
        print_table(
            ["word", "region", "rest of photo", "text",
             *(f"log p falls ({fill})" for fill in fall.fall)],
            [[word, *(f"{float(v[i]):.3f}" for v in columns)] for i, word in enumerate(mass.words)],
        )  # fmt: skip
    found.save(page, title=f"What {model} looks at, word by word", force=force)
    tell(f"{page}: {len(found.words)} words of {model}")
