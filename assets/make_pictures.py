"""Make the pictures of the README: `python assets/make_pictures.py [FOLDER]`.

The photos come with packages, so that this runs anywhere:

* Grace Hopper, matplotlib: US Navy (James S. Davis), public domain.
* A palace by a lake, scikit-learn's china.jpg: danielbuechele, CC BY 2.0.
* Coffee, scikit-image: Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import skimage
import sklearn
from PIL.Image import Image

import attnviz

HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
PALACE = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
COFFEE = Path(skimage.__file__).parent / "data" / "coffee.png"


def pictures() -> dict[str, Image]:
    """Return the pictures by file name."""
    model = attnviz.load()
    hopper = attnviz.explain(model, HOPPER)
    palace = attnviz.explain(
        model,
        PALACE,
        classes=["palace", "lakeside", attnviz.Contrast("palace", "lakeside")],
        method="hirescam",
        signed=True,
    )
    methods = ["gradcam", "hirescam", "layercam", "eigencam"]
    coffee = attnviz.explain(model, COFFEE, target="espresso", method=methods, layer="blocks.4")
    return {
        "hopper.jpg": hopper.panel(),
        "palace.jpg": palace.grid(),
        "coffee.jpg": attnviz.grid(coffee, title="Espresso, at the middle layer blocks.4"),
    }


def main(folder: Path) -> None:
    """Write the pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        picture.save(folder / name, quality=88)
        print(folder / name, f"{(folder / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
