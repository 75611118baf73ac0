"""Judge every image, batch by batch, keeping what is done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Sample
from ..data.identity import run_versions, sample_stamp, weights_stamp
from ..data.prepared import Prepared
from ..errors import (
    AttnvizError,
    AttnvizWarning,
    DataError,
    ImageError,
    MethodError,
    MetricError,
)
from ..explaining import explain
from ..geometry import size_of
from ..heatmaps import Heatmaps
from ..metrics import control_maps, grid_members
from ..metrics.forward import untouched
from ..models import LoadedModel, labels_of, resolve_preprocess
from ..models.outputs import class_count, logits_of, predicted
from ..processes import current
from ..targets import class_index
from .cost import Cost, measure_cost
from .export import write_all
from .judging import Explainer, JudgedBatch, control_explainer, judge, judge_grid, method_explainer
from .pictures import draw
from .settings import Settings
from .store import Store, open_store
from .subjects import object_boxes, object_mask
from .summary import Summary, summarise

#: a killed run loses at most about so many seconds of work, or one image's
_LOSS = 20.0


@dataclass(frozen=True)
class Done:
    """An image that was judged, or why it could not be.

    Attributes:
        id: the image.
        error: what was wrong with it, or None.
    """

    id: str
    error: str | None = None


class Runner:
    """A comparison on one model: which methods apply, what it will cost, and the run itself.

    Args:
        loaded: the model with its preprocessing and labels.
        subjects: the images.
        settings: what is compared.
        preprocess: as `explain` takes it; None is the model's own.
        labels: class names, if the model's own are not known.
        batch_size: images a forward pass at most.

    Attributes:
        methods: the methods that apply to the model.
        refused: method -> why it does not apply.
        chunk: images that are explained and judged together, and whose results are kept together.
        controls: the controls that are judged.

    Raises:
        MethodError: none of the methods applies to this model.
        ImageError: none of the images can be read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        subjects: Sequence[Sample],
        settings: Settings,
        *,
        preprocess: Any = None,
        labels: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> None:
        self.loaded = loaded
        self.model = loaded.module
        self.subjects = list(subjects)
        self.settings = settings
        self.batch_size = batch_size
        self.labels = labels or labels_of(loaded.module, loaded)
        self._prepare = resolve_preprocess(preprocess, loaded.module, loaded)
        describe = getattr(self._prepare, "describe", None)
        self._described = describe() if describe else type(self._prepare).__name__
        self._place = next(
            (p for p in self.model.parameters() if p.is_floating_point()), torch.zeros(0)
        )
        first = self._first()
        self._x = self._batch([first])
        logits = self._logits(self._x)
        self.classes = logits.shape[1]
        self._target = self._targets(logits)
        self.methods, self.refused = self._applicable()
        self._size = self._map_size()
        self.chunk = 4
        self.controls = settings.control_names(any(s.masks for s in self.subjects))

    # -- before ----------------------------------------------------------------------------------

    def _first(self) -> Prepared:
        fault: Exception | None = None
        for subject in self.subjects:
            try:
                return Prepared.read(subject, self._prepare)
            except (ImageError, DataError) as error:
                fault = fault or error
        raise ImageError(f"none of {len(self.subjects)} images can be read; the first: {fault}")

    def _applicable(self) -> tuple[list[str], dict[str, str]]:
        applies, refused = [], {}
        for name in self.settings.methods:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AttnvizWarning)
                    self._explain(self._x, self._target, [name])
                applies.append(name)
            except AttnvizError as error:
                refused[name] = str(error)
        if not applies:
            reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
            raise MethodError(f"none of the methods applies to this model. {reasons}")
        return applies, refused

    def _map_size(self) -> tuple[int, int]:
        """Return the coarsest size of the methods' maps: that of the random control."""
        found = self._explain(self._x, self._target, self.methods)
        return min((size_of(m.values) for m in found.values()), key=lambda s: s[0] * s[1])

    def cost(self) -> Cost:
        """Return what the comparison will cost, by timing its parts on one image.

        Sets `chunk` by it, so that little is lost when the run is killed.
        """
        found = measure_cost(
            self.settings,
            self.model,
            self._x,
            self._target,
            self._explainers(),
            self.methods,
            self.controls,
            batch_size=self.batch_size,
        )
        self.chunk = current().gathered(min(8, max(1, int(_LOSS / max(found.per_image, 1e-3)))))[0]
        return found

    def plan(self) -> dict[str, Any]:
        """Return everything that the numbers depend on, as JSON values."""
        return {
            **run_versions(),
            "model": self.loaded.name,
            "weights": weights_stamp(self.model),
            "preprocess": self._described,
            "labels": None if self.labels is None else list(self.labels),
            "settings": self.settings.as_dict(),
            "methods": self.methods,
            "input": list(self._x.shape[1:]),
        }

    # -- the run ---------------------------------------------------------------------------------

    def run(self, store: Store, pictures: Path | None = None) -> Iterator[Done]:
        """Judge the images that the store does not hold yet, one after the other.

        Of several processes each judges its share; see `finish` for the rest.

        Args:
            store: where results go; see `plan`.
            pictures: a folder for small overlays, see `picture_name`; None draws none.
        """
        waiting: list[tuple[Sample, Prepared]] = []
        ahead = [s.id for s in self.subjects if not store.has(s.id, sample_stamp(s))]
        mine = {ahead[i] for i in current().mine(len(ahead), self.chunk)}
        for subject in self.subjects:
            if subject.id not in mine:
                yield Done(subject.id)
                continue
            try:
                ready = Prepared.read(subject, self._prepare)
            except (ImageError, DataError) as error:
                yield Done(subject.id, str(error))
                continue
            if waiting and ready.input.shape != waiting[0][1].input.shape:
                yield from self._judge(waiting, store, pictures)
                waiting = []
            waiting.append((subject, ready))
            if len(waiting) >= self.chunk:
                yield from self._judge(waiting, store, pictures)
                waiting = []
        if waiting:
            yield from self._judge(waiting, store, pictures)

    def judge_grids(self, store: Store) -> None:
        """Judge what grids of images of four classes tell, each class being the one explained."""
        measures = [m for m in self.settings.measures() if m.needs == ("grid",)]
        done = [s for s in self.subjects if store.has(s.id, sample_stamp(s))]
        try:
            grids = grid_members([store.rows[s.id]["target"] for s in done]) if measures else []
        except MetricError as error:
            self.refused |= {m.key: str(error) for m in measures}
            return
        for members in grids:
            chosen = [done[i] for i in members]
            if store.has_grid([s.id for s in chosen]):
                continue
            ready = [Prepared.read(s, self._prepare) for s in chosen]
            if len({r.input.shape for r in ready}) > 1:
                continue  # images of unlike sizes make no grid
            facts = [store.rows[s.id] for s in chosen]
            classes = [fact["target"] for fact in facts]
            judged = judge_grid(
                measures, self.model, self._batch(ready), classes, self._explainers()
            )
            store.add_grid(facts, judged)

    def _judge(
        self, ready: Sequence[tuple[Sample, Prepared]], store: Store, pictures: Path | None
    ) -> Iterator[Done]:
        x = self._batch([r for _, r in ready])
        found = self._explain(x, self.settings.target, self.methods)
        said = next(iter(found.values()))
        logits, target = said.logits, list(said.target)
        assert logits is not None  # of a classifier, which `check` made sure of
        places = [object_mask(s) for s, _ in ready]
        masks = [None if m is None else r.mask(m) for m, (_, r) in zip(places, ready, strict=True)]
        boxes = [object_boxes(s, m) for m, (s, _) in zip(places, ready, strict=True)]
        maps = {name: m.values for name, m in found.items()}
        whole = torch.stack(
            [torch.zeros(x.shape[-2:], dtype=torch.bool) if m is None else m for m in masks]
        )
        controls = control_maps(x, whole, size=self._size, seed=self.settings.seed)
        maps |= {name: controls[name] for name in self.controls}
        batch = JudgedBatch(
            self.model,
            x,
            target,
            self.classes,
            masks,
            [r.boxes(b).tolist() for b, (_, r) in zip(boxes, ready, strict=True)],
            self.batch_size,
        )
        judged = judge(self.settings.measures(), batch, maps, self._explainers(), self.methods)
        probability = logits.softmax(1) if self.classes > 1 else logits.sigmoid()
        facts = [
            {
                "id": s.id,
                "stamp": sample_stamp(s),
                "target": index,
                "label": self.labels[index] if self.labels else f"class {index}",
                "probability": float(probability[row, index]),
                "annotated": s.label,
            }
            for row, (index, (s, _)) in enumerate(zip(target, ready, strict=True))
        ]
        if pictures is not None:
            for row, (s, r) in enumerate(ready):
                draw(pictures, s.id, r, {name: m[row] for name, m in found.items()})
        store.add(facts, judged)
        yield from (Done(s.id) for s, _ in ready)

    # -- parts -----------------------------------------------------------------------------------

    def _batch(self, ready: Sequence[Prepared]) -> Tensor:
        rows = torch.stack([r.input for r in ready])
        return rows.to(self._place.device, self._place.dtype)

    def _logits(self, x: Tensor) -> Tensor:
        with untouched(self.model):
            logits = torch.cat([logits_of(self.model(p)) for p in x.split(self.batch_size)])
        if logits.ndim != 2:
            raise MethodError(
                f"the model's output has shape {tuple(logits.shape)}; a benchmark needs a "
                "classifier with logits (B, classes)"
            )
        return logits.float()

    def _targets(self, logits: Tensor) -> list[int]:
        if self.settings.target is None:
            return predicted(logits).tolist()
        return [class_index(self.settings.target, class_count(logits), self.labels)] * len(logits)

    def _explain(self, x: Tensor, target: Any, methods: Sequence[str]) -> dict[str, Heatmaps]:
        return explain(
            self.model,
            x,
            method=list(methods),
            layer=self.settings.layer,
            target=target,
            labels=self.labels,
            batch_size=self.batch_size,
        )

    def _explainers(self) -> dict[str, Explainer]:
        found = {name: method_explainer(name, self.settings.layer) for name in self.methods}
        for name in self.controls:
            if name != "mask":
                found[name] = control_explainer(name, self._size, self.settings.seed)
        return found


def evaluate(
    loaded: LoadedModel,
    subjects: Sequence[Sample],
    settings: Settings,
    *,
    out: Path,
    force: bool = False,
    step: Callable[[Done], None] = lambda done: None,
    **options: Any,
) -> Summary:
    """Run a comparison into a folder, or finish one there, and return its summary.

    Args:
        loaded: see `attnviz.load`.
        subjects: see `from_photos` and `from_dataset`.
        settings: what is compared.
        out: folder for `results.jsonl`, `summary.json`, `values.csv`, `index.html`, `pictures/`.
        force: start anew if the folder holds another comparison.
        step: called after each image.
        **options: of `Runner`.

    Returns:
        `Summary`.
    """
    runner = Runner(loaded, subjects, settings, **options)
    with current().locked(out):
        store = open_store(out, runner.plan(), force=force)
        failed = {}
        for done in runner.run(store, out / "pictures"):
            if done.error is not None:
                failed[done.id] = done.error
            step(done)
        return finish(runner, store, failed, out)


def finish(runner: Runner, store: Store, failed: Mapping[str, str], out: Path) -> Summary:
    """Take together what all processes judged, judge grids of it, and write the results.

    Args:
        runner, store: of this process, after `Runner.run`.
        failed: image -> why it could not be judged, of this process.
        out: the folder.

    Returns:
        `Summary`, the same to all processes.
    """
    group = current()
    faults = {name: why for part in group.gathered(dict(failed)) for name, why in part.items()}

    def written() -> Summary:
        store.take_in(out)
        runner.judge_grids(store)
        ordered = {s.id: faults[s.id] for s in runner.subjects if s.id in faults}
        summary = summarise(runner, store, ordered)
        write_all(summary, store, out)
        return summary

    return group.once(written)
