"""`fit`: a guided training that can be stopped, resumed to the bit, and trusted to stop itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.identity import examples_stamp, run_versions
from ..errors import AttnvizError, DataError, GuidanceError, OutputExists
from ..hooks import averaging, unwrap
from . import checkpoints
from ._pass import Step, forward_pass
from ._run import Run, check_content, prepare, resume_run
from .batches import Batch, batches
from .batchnorm import batchnorm_frozen
from .cascading import cascaded
from .changed import changed_of, cuts_of
from .checkpoints import own_random_state
from .config import GuideConfig
from .liveness import check_alive
from .losses import LOSSES
from .optimisers import take_step
from .snapshots import Snapshots
from .stored import save_weights
from .survey import order_of, survey
from .validating import improvement, slack, validate

#: called before the first step, after each step and each epoch: fn("start" | "step" | "epoch",
#: record)
Progress = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class FitResult:
    """What a guided training did.

    Attributes:
        model: the model that was given, with the weights of the best epoch (the last one without
            a validation split); with another pooling or ACoL the new model made of it.
        history: one record an epoch: epoch, lr, strength, loss parts, mass, validation figures.
        best_epoch: its number, counted from 1.
        stopped: why training ended: "done" or "patience".
        folder: of the run, or None.
        config: the settings, with everything settled that was left open.
        events: what the collapse guard did.
        notes: what was settled and why: epochs, exchange, balance, what is trained.
    """

    model: nn.Module
    history: tuple[Mapping[str, Any], ...]
    best_epoch: int
    stopped: str
    folder: Path | None
    config: GuideConfig
    events: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fit(
    model: nn.Module,
    data: Any,
    *,
    validation: Any = None,
    config: GuideConfig | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    photos: Any = None,
    photo_targets: Any = None,
    preprocess: Any = None,
    labels: Sequence[str] | None = None,
    writer: Any = None,
    progress: Progress | None = None,
    identity: Mapping[str, str] | None = None,
    **settings: Any,
) -> FitResult:
    """Fine-tune a classifier on its labels and on where it looks.

    The loss is cross-entropy + strength * guidance loss, and, where objects can be exchanged, the
    cross-entropy of objects in front of the other classes' grounds: masks of the training images
    are all that takes. The strength is zero during a warm-up, then rises; the map's positive mass
    is watched, and guidance backs off before it dies. Before the first guided step it is checked
    that the loss can move the model. Trained is the network's tail (`train="all"` for a network
    without pretrained weights). Only `data` and `validation` are read; test data has no place
    here.

    Args:
        model: a classifier; trained in place, on the device it is on.
        data: examples (image (C, H, W) float, label), or with a third entry that says where the
            object is: a mask (H, W), boxes (4,) or (n, 4), a mapping, or None. A map-style
            dataset is shuffled; an iterable is taken in its order. `Examples` makes this from
            `attnviz.data`.
        validation: examples that decide on the best epoch and on stopping: by the answers on them
            as they are and, where they have masks, with their objects exchanged.
        config: the settings; or give them one by one as keyword arguments.
        out: folder of the run: a checkpoint after every epoch, `run.json`, `maps/`, and the best
            weights as `model.safetensors`. None keeps nothing.
        resume: go on with the run in `out`; the result is that of an uninterrupted training, to
            the bit on CPU (a dataset's own random state must be torch's, numpy's or Python's).
        force: start over in a folder that holds a run.
        photos: fixed images whose maps are kept before training and after each epoch: paths,
            arrays, or a preprocessed batch.
        photo_targets, preprocess, labels: for these, as in `explain`.
        writer: a TensorBoard `SummaryWriter` or anything with `add_scalar(name, value, step)`.
        progress: called with ("start", {notes, epochs}), ("step", record) and ("epoch", record).
        identity: what else the result depends on, as texts (a stamp of the weights at the start);
            kept in `run.json` beside stamps of `data` and `validation` where these are
            `Examples`, and compared by `resume`.
        **settings: fields of `GuideConfig`; others are refused.

    Returns:
        `FitResult`.

    Raises:
        GuidanceError: a loss that cannot train the model, a dying map, a loss or weights that are
            not finite, a full disk; the last good checkpoint is kept, and named.
        DataError: examples of one class only, no annotation for a loss that needs it, masks or
            boxes that do not fit their images; a run to resume that was begun with other data.
        OutputExists: `out` holds a run, and neither resume nor force is set.
    """
    config = _configured(config, settings)
    folder = None if out is None else Path(out)
    if folder is None and resume:
        raise GuidanceError("resume=True needs the run's folder: out=...")
    if folder is not None and (folder / "run.json").exists() and not (resume or force):
        raise OutputExists(
            f"{str(folder)!r} holds a run already; resume it (resume=True, --resume), or start "
            "over (force=True, --force)"
        )
    if averaging(model) is not None:
        raise GuidanceError(
            "fit trains in one process; under DistributedDataParallel write the loop with "
            "guidance.class_map and a loss, three lines, whose gradients are averaged"
        )
    target = unwrap(model)
    known = {**(identity or {})}
    if folder is not None:
        known |= run_versions()
        known |= {"data": examples_stamp(data), "validation": examples_stamp(validation)}
    if config.erasing == "cascade":
        data, config = cascaded(target, data, config, fit)
    before = {m: m.training for m in target.modules()}
    requires = {p: p.requires_grad for p in target.parameters()}
    try:
        with own_random_state(config.seed):
            run = prepare(target, config, data)
            run.identity = known
            if progress is not None:
                progress("start", {"notes": run.notes, "epochs": run.epochs})
            snapshots = Snapshots(folder, photos, photo_targets, preprocess, run.config, labels)
            if folder is not None and resume and (folder / "run.json").exists():
                resume_run(run, folder)
                if not snapshots.there(run.epoch):
                    with run.start.kept():
                        snapshots.take(run.model, run.epoch)
            else:
                snapshots.take(run.model, 0)
            return _train(
                run, model if run.model is target else run.model, validation, folder, snapshots,
                writer, progress,
            )  # fmt: skip
    finally:
        for module, mode in before.items():
            module.training = mode
        for parameter, flag in requires.items():
            parameter.requires_grad_(flag)


def _configured(config: GuideConfig | None, settings: Mapping[str, Any]) -> GuideConfig:
    known = [f.name for f in fields(GuideConfig)]
    for name in settings:
        if name not in known:
            from ..errors import did_you_mean

            raise GuidanceError(
                f"fit has no setting {name!r}{did_you_mean(name, known) or '.'} "
                f"Known: {', '.join(known)}"
            )
    base = {} if config is None else {n: getattr(config, n) for n in known}
    return GuideConfig(**{**base, **settings})


def _train(
    run: Run,
    model: nn.Module,
    validation: Any,
    folder: Path | None,
    snapshots: Snapshots,
    writer: Any,
    progress: Progress | None,
) -> FitResult:
    config = run.config
    stopped = "done"
    held, changed = (None, None) if validation is None else _validation(run, validation)
    while run.epoch < run.epochs:
        if config.patience and run.best_epoch and run.epoch - run.best_epoch >= config.patience:
            stopped = "patience"
            break
        where = ""
        if folder is not None and run.epoch:
            where = f" (the last good checkpoint, of epoch {run.epoch}, is in {str(folder)!r})"
        try:
            record = _epoch(run, writer, progress)
            _check_seen(run)
            _check_finite(run)
            run.epoch += 1
            with run.start.kept():
                if validation is not None:
                    record |= validate(run.module, held, config, run.loss, run.device, changed)
                score = improvement(record, config)
                if validation is None or not run.counts or score < run.best + slack(record, config):
                    run.best = min(score, run.best) if run.counts else float("inf")
                    run.best_epoch = run.epoch
                    state = run.model.state_dict()
                    run.best_weights = {k: v.detach().clone() for k, v in state.items()}
                snapshots.take(run.model, run.epoch)
        except AttnvizError as error:
            if type(error) not in (AttnvizError, GuidanceError):
                raise  # what is wrong with the data has nothing to do with the checkpoint
            raise GuidanceError(f"{error}{where}") from error
        run.history.append(record)
        if folder is not None:
            stored = run.best_epoch == run.epoch and run.start.share >= 1
            checkpoints.save_state(
                folder, run.epoch, run.modules, run.optimiser, run.record(),
                best=None if stored else run.best_weights,
            )  # fmt: skip
        if writer is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "epoch":
                    writer.add_scalar(f"epoch/{name}", value, run.epoch)
        if progress is not None:
            progress("epoch", record)
    run.model.load_state_dict(run.best_weights)
    if folder is not None:
        save_weights(folder, run.model, note=f"epoch {run.best_epoch}")
    return FitResult(
        model, tuple(run.history), run.best_epoch, stopped, folder, config,
        tuple(run.guard.events), run.notes,
    )  # fmt: skip


def _validation(run: Run, validation: Any) -> tuple[Any, Mapping[str, Any]]:
    """The split as the trained module takes it, and its images with objects exchanged."""
    config = run.config
    changed: dict[str, Any] = {}
    if run.loss is not None and config.monitor == "answer":
        with own_random_state(config.seed):
            known = survey(validation, degenerate="skip")
            cuts = cuts_of(validation, known, seed=config.seed)
        if cuts is not None:
            made = changed_of(cuts, seed=config.seed, each=2)
            changed = {"exchanged": run.look(made["exchanged"])}
    return run.look(validation), changed


def _epoch(run: Run, writer: Any, progress: Progress | None) -> dict[str, Any]:
    config = run.config
    sums: dict[str, float] = {}
    count = step = 0
    group: list[Batch] = []
    with _training_mode(run):
        seed = (config.seed + 1) * 1_000_003 + run.epoch
        order = None
        if run.known is not None:
            order = order_of(
                run.known, config.batch_size, seed=seed, balanced=bool(config.balanced),
                annotated=config.annotated,
            )  # fmt: skip
        stream = batches(run.data, config.batch_size, order=order, degenerate=config.degenerate)
        beside = _beside(run, seed)
        for batch in stream:
            group.append(batch)
            step += 1
            if len(group) < config.accumulate and step != run.steps:
                continue
            done = _optimise(run, group, beside, step - len(group))
            group = []
            for name, value in done.log.items():
                sums[name] = sums.get(name, 0.0) + value * done.images
            count += done.images
            number = run.epoch * (run.steps or step) + step
            if writer is not None:
                for name, value in done.log.items():
                    writer.add_scalar(f"step/{name}", value, number)
            if progress is not None:
                progress(
                    "step", {"step": step, "steps": run.steps, "epoch": run.epoch + 1, **done.log}
                )
        if group:  # an iterable whose length was not known
            _optimise(run, group, beside, step - len(group))
    if step == 0:
        raise DataError("the training data has no example (an iterator that is used up?)")
    run.steps = run.steps or step
    means = {name: value / max(count, 1) for name, value in sums.items()}
    return {"epoch": run.epoch + 1, **means}


def _beside(run: Run, seed: int) -> Iterator[Batch | None]:
    """Batches of exchanged images without end, in an order of their own; None without exchange."""
    if run.pool is None:
        while True:
            yield None
    rows: list[int] = []
    draws = torch.Generator().manual_seed(seed)
    size = run.config.exchanged
    while True:
        while len(rows) < size:
            rows += torch.randperm(len(run.pool), generator=draws).tolist()
        taken, rows = rows[:size], rows[size:]
        yield next(batches(run.pool, size, order=taken, degenerate="skip"))


@contextlib.contextmanager
def _training_mode(run: Run) -> Iterator[None]:
    for module in run.modules.values():
        module.train()
    if run.config.train != "all":
        for module in run.model.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()
    with (
        batchnorm_frozen(run.model) if run.config.batchnorm == "eval" else contextlib.nullcontext()
    ):
        yield


def _optimise(run: Run, group: list[Batch], beside: Iterator[Batch | None], step: int) -> Step:
    """One step of the optimiser on the mean over a group of batches."""
    config = run.config
    progress = run.progress(step)
    lr = config.lr_at(progress)
    for parameters in run.optimiser.param_groups:
        parameters["lr"] = lr
    strength = config.strength.at(progress) * run.guard.factor if run.loss else 0.0
    options = config.options_at(progress)
    images = sum(len(b.labels) for b in group)
    extras = [None if (e := next(beside)) is None else e.to(run.device) for _ in group]

    def backward() -> list[Step]:
        steps = []
        for batch, extra in zip(group, extras, strict=True):
            share = len(batch.labels) / images
            done = forward_pass(
                run.module, batch.to(run.device), extra, config, run.loss, strength, options,
                check=_checker(config) if strength > 0 and not run.alive else None,
            )  # fmt: skip
            run.alive |= done.checked
            if not torch.isfinite(done.total.detach()):
                raise GuidanceError(
                    f"epoch {run.epoch + 1}, step {step + 1}: the loss is "
                    f"{float(done.total.detach())}, so training stops before the weights take "
                    f"it over; parts: {done.log}. Lower the learning rate or the weight"
                )
            run.scaler.scale(done.total * share).backward()
            steps.append(done)
        return steps

    steps = backward()
    for batch in group:
        run.labels.update(batch.labels.tolist())
        run.annotated += int(batch.annotation.present.sum())
    take_step(run.optimiser, backward, run.scaler, config.clip)
    run.start.draw(lr)
    log = {
        name: sum(s.log.get(name, 0.0) * s.images for s in steps) / images
        for name in dict.fromkeys(n for s in steps for n in s.log)
    }
    if run.loss is not None:
        where = f"epoch {run.epoch + 1}, step {step + 1}"
        run.guard.step(log["mass"], active=strength > 0, where=where)
    log |= {"lr": lr, "strength": strength}
    return Step(steps[-1].total.detach(), log, images)


def _checker(config: GuideConfig) -> Callable[..., Any]:
    mapped = LOSSES.get(config.loss).meta["mapped"]
    return lambda parts, model, seen: check_alive(parts, model, maps=seen if mapped else None)


def _check_seen(run: Run) -> None:
    """After the first epoch it is known what the data holds."""
    check_content(run.labels, run.annotated, run.config)


def _check_finite(run: Run) -> None:
    """What the last step of an epoch did to the weights is in no loss yet, and not to be stored."""
    for name, value in run.model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise GuidanceError(
                f"epoch {run.epoch + 1}: {name!r} is not finite after its last step, so training "
                "stops before it is stored. Lower the learning rate or the weight, or set clip"
            )
