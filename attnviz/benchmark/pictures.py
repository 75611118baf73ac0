"""The small overlays that a benchmark draws."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ..data.prepared import Prepared
from ..heatmaps import Heatmaps
from ..writing import utf8


def draw(folder: Path, id: str, seen: Prepared, maps: dict[str, Heatmaps]) -> None:
    """Write the photo and one small overlay a method; existing ones are replaced."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    whole = {"photo": Image.fromarray(seen.photo)}
    for name, single in maps.items():
        whole[name] = seen.attach(single.to("cpu")).overlay(0)
    for name, picture in whole.items():
        picture.thumbnail((240, 240))
        picture.convert("RGB").save(folder / picture_name(id, name), quality=82)


def picture_name(image: str, name: str) -> str:
    """Return the file name of one picture of an image, whatever else is compared with it."""
    stem = re.sub(r"[^\w.-]+", "-", Path(image).stem)[:40]
    mark = hashlib.blake2b(utf8(image), digest_size=5).hexdigest()
    return f"{stem}-{mark}-{name.replace('+', 'p')}.jpg"
