"""Maps as FiftyOne's heatmaps: read back by its own labels, at their place on the photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attnviz
from attnviz.errors import DataError, OutputExists
from tests.cli.tiny import Colours

pytest.importorskip("fiftyone", reason="`pip install fiftyone` brings it")


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    for number, width in enumerate((64, 96)):
        pixels = np.full((64, width, 3), 40, np.uint8)
        pixels[32:, width // 2 :] = (250, 60, 20)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(2)]


def test_heatmaps_are_the_maps_on_the_photo(photos: list[str], tmp_path: Path) -> None:
    from attnviz.integrations.fiftyone import samples

    maps = attnviz.explain(
        Colours(), photos, classes=[0, 1], preprocess="imagenet", layer="features",
        labels=["red", "green", "blue"], signed=False, batch_size=1,
    )  # fmt: skip
    found = samples(maps, tmp_path / "maps")
    assert [s.filepath for s in found] == photos
    for number, sample in enumerate(found):
        for rank, name in enumerate(("gradcam", "gradcam_2")):
            row, label = 2 * number + rank, sample[name]
            want = maps[row].resize("photo").values[0].nan_to_num(0.0)
            drawn = np.asarray(Image.open(label.map_path))
            assert drawn.shape == Image.open(photos[number]).size[::-1]
            assert (label.label, label.layer) == (maps.label[row], "features")
            assert label.score == float(maps.score[row])
            assert label.probability == float(maps.probability[row])
            assert label.maximum == float(maps.values[row].max())
            scale = max(label.maximum, 1e-30)
            assert np.abs(drawn / 255 - want.numpy() / scale).max() < 1 / 255
            assert np.array_equal(label.get_map(), drawn)
    with pytest.raises(OutputExists):
        samples(maps, tmp_path / "maps")
    samples(maps, tmp_path / "maps", force=True)


def test_what_is_no_heatmap_of_a_file_is_refused(photos: list[str], tmp_path: Path) -> None:
    from attnviz.integrations.fiftyone import samples

    options = {"preprocess": "imagenet", "layer": "features", "target": 1}
    with pytest.raises(DataError, match="no sign; explain with signed=False"):
        samples(attnviz.explain(Colours(), photos[0], signed=True, **options), tmp_path / "a")
    with pytest.raises(DataError, match="do not know their photos"):
        pixels = np.zeros((64, 64, 3), np.uint8)
        samples(attnviz.explain(Colours(), [pixels, pixels + 90], **options), tmp_path / "a")
    assert not (tmp_path / "a").exists()
