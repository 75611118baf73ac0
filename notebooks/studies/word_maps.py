"""Which map of a word agrees with what its region does: on tiny-llava, beside the counterfactual.

    python notebooks/studies/word_maps.py [--scenes N]

Scenes of boats on water that it was not trained on. For each scene and the words "boat" (whatever
kind it writes) and "water": the share of the word's map on the boat and on the water, over the
share of the photo that they take (1 is chance), and how much the word's log-probability falls when
the boat or the water is filled. Intervals by a bootstrap over scenes (95 %).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from attnviz.attention import without_region, words
from attnviz.attention.word_maps import WORD_METHODS
from attnviz.data import boatwater as bw
from attnviz.data.boatwater.arrays import OBJECT, WATER
from attnviz.metrics import energy
from attnviz.models.tiny_llava import build
from attnviz.statistics.clustered import ClusterBootstrap

SEED = 22  # training took 21


def measured(scenes: int) -> ClusterBootstrap:
    """Return all columns, one row a scene."""
    data = bw.generate(groups=["boat/water"] * scenes, seed=SEED)
    model, processor = build()
    columns: dict[str, list[float]] = {}
    for number, (image, region) in enumerate(zip(data.images, data.region, strict=True)):
        found = words(model, processor, image, "a", methods=WORD_METHODS)
        places = {"boat": region == OBJECT, "water": region == WATER}
        falls = {n: without_region(model, processor, found, m).fall for n, m in places.items()}
        at = {"boat": 0}
        if "water" in found.words:
            at["water"] = found.words.index("water")
        row = {}
        for word, which in at.items():
            for place, mask in places.items():
                for method, maps in found.maps.items():
                    gain = energy(maps[which][None], torch.from_numpy(mask)[None]).extra["ratio"]
                    row[f"{word}: {method} on the {place}"] = float(gain[0])
                for fill, fall in falls[place].items():
                    row[f"{word}: fall without the {place} ({fill})"] = float(fall[which])
        for name, value in row.items():
            columns.setdefault(name, [np.nan] * number).append(value)
        for values in columns.values():
            values += [np.nan] * (number + 1 - len(values))
    return ClusterBootstrap(
        {n: np.array(v) for n, v in columns.items()}, [np.arange(scenes, dtype=np.int64)]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options.scenes)
    for name in found.names:
        told = found.estimate(name).interval
        print(f"{name}: {told.value:.2f} ({told.low:.2f} to {told.high:.2f}), {told.images} scenes")
    for word in ("boat", "water"):
        for method in WORD_METHODS:
            pair = [f"{word}: {method} on the {place}" for place in ("boat", "water")]
            own, other = pair if word == "boat" else pair[::-1]
            gap = found.estimate(lambda m, a=own, b=other: m[a] - m[b], pair).interval
            print(f"{word}, {method}: its own region less the other {gap.value:+.2f} "
                  f"({gap.low:+.2f} to {gap.high:+.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
