"""The actor on a local Ray: each row has the map that `explain` gives."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import attnviz
from tests.integrations.support import OPTIONS, Net

# under `uv run`, Ray would start its workers by another `uv run` of their own; read at its import
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
pytest.importorskip("ray", reason="the extra 'ray' brings it")
pytest.importorskip("pyarrow", reason="Ray Data needs pyarrow")


def photos() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (20, 20, 3), np.uint8) for _ in range(5)]


def check(rows: list[dict]) -> None:
    maps = attnviz.explain(Net(), photos(), **OPTIONS)
    for number, row in enumerate(sorted(rows, key=lambda r: r["id"])):
        torch.testing.assert_close(torch.as_tensor(np.array(row["map"])), maps.values[number])
        assert row["score"] == pytest.approx(float(maps.score[number]), rel=1e-5)
        assert (row["target"], row["label"]) == (maps.target[number], maps.label[number])


def test_a_batch_gets_its_columns() -> None:
    from attnviz.integrations.ray import Explainer

    made = Explainer(Net(), **OPTIONS)({"image": np.stack(photos()), "id": np.arange(5)})
    check([{name: column[i] for name, column in made.items()} for i in range(5)])


@pytest.mark.slow
def test_actors_of_a_local_ray(repo, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from attnviz.integrations.ray import Explainer

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    try:
        data = ray.data.from_items([{"image": p, "id": i} for i, p in enumerate(photos())])
        made = data.map_batches(
            Explainer, fn_constructor_args=(Net(),), fn_constructor_kwargs=OPTIONS,
            concurrency=1, batch_size=2,
        )  # fmt: skip
        check(made.take_all())
    finally:
        ray.shutdown()
