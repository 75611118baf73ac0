"""`fit`: a guided training that can be stopped, resumed to the bit, and trusted to stop itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import AttnvizError, DataError, GuidanceError, OutputExists
from ..hooks import unwrap
from . import checkpoints
from ._pass import Step, forward_pass
from ._run import Run, check_content, own_random_state, prepare, resume_run
from .batches import Batch, batches
from .batchnorm import batchnorm_frozen
from .config import GuideConfig
from .liveness import check_alive
from .losses import LOSSES
from .optimisers import take_step
from .snapshots import Snapshots
from .validating import improvement, validate

#: called after each step and each epoch: fn("step" | "epoch", record)
Progress = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class FitResult:
    """What a guided training did.

    Attributes:
        model: the model that was given, with the weights of the best epoch (the last one without
            a validation split).
        history: one record an epoch: epoch, lr, strength, loss parts, mass, validation figures.
        best_epoch: its number, counted from 1.
        stopped: why training ended: "done" or "patience".
        folder: of the run, or None.
        config: the settings.
        events: what the collapse guard did.
    """

    model: nn.Module
    history: tuple[Mapping[str, Any], ...]
    best_epoch: int
    stopped: str
    folder: Path | None
    config: GuideConfig
    events: tuple[str, ...] = ()


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
    **settings: Any,
) -> FitResult:
    """Fine-tune a classifier on its labels and on where it looks.

    The loss is cross-entropy + strength * guidance loss. The strength is zero during a warm-up,
    then rises; the map's positive mass is watched, and guidance backs off before it dies. Before
    the first guided step it is checked that the loss can move the model. Only `data` and
    `validation` are read; test data has no place here.

    Args:
        model: a classifier; trained in place, on the device it is on.
        data: examples (image (C, H, W) float, label), or with a third entry that says where the
            object is: a mask (H, W), boxes (4,) or (n, 4), a mapping, or None. A map-style
            dataset is shuffled; an iterable is taken in its order. `Examples` makes this from
            `attnviz.data`.
        validation: examples that decide on the best epoch and on stopping.
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
        progress: called with ("step", record) and ("epoch", record).
        **settings: fields of `GuideConfig`.

    Returns:
        `FitResult`.

    Raises:
        GuidanceError: a loss that cannot train the model, a dying map, a loss or weights that are
            not finite, a full disk; the last good checkpoint is kept, and named.
        DataError: examples of one class only, no annotation for a loss that needs it, masks or
            boxes that do not fit their images.
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
    target = unwrap(model)
    before = {m: m.training for m in target.modules()}
    requires = {p: p.requires_grad for p in target.parameters()}
    try:
        with own_random_state(config.seed):
            run = prepare(target, config, data)
            snapshots = Snapshots(folder, photos, photo_targets, preprocess, config, labels)
            if resume and (folder / "run.json").exists():
                resume_run(run, folder)
            else:
                snapshots.take(target, 0)
            return _train(run, model, data, validation, folder, snapshots, writer, progress)
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
                f"fit has no setting {name!r}{did_you_mean(name, known)} Known: {', '.join(known)}"
            )
    base = {} if config is None else {n: getattr(config, n) for n in known}
    return GuideConfig(**{**base, **settings})


def _train(
    run: Run,
    model: nn.Module,
    data: Any,
    validation: Any,
    folder: Path | None,
    snapshots: Snapshots,
    writer: Any,
    progress: Progress | None,
) -> FitResult:
    config = run.config
    stopped = "done"
    while run.epoch < config.epochs:
        if config.patience and run.best_epoch and run.epoch - run.best_epoch >= config.patience:
            stopped = "patience"
            break
        where = ""
        if folder is not None and run.epoch:
            where = f" (the last good checkpoint, of epoch {run.epoch}, is in {str(folder)!r})"
        try:
            record = _epoch(run, data, writer, progress)
            _check_seen(run)
            _check_finite(run)
            run.epoch += 1
            if validation is not None:
                record |= validate(run.model, validation, config, run.loss, run.device)
        except AttnvizError as error:
            if type(error) not in (AttnvizError, GuidanceError):
                raise  # what is wrong with the data has nothing to do with the checkpoint
            raise GuidanceError(f"{error}{where}") from error
        score = improvement(record, config)
        if validation is None or not run.counts or score < run.best:
            run.best = score if run.counts else float("inf")
            run.best_epoch = run.epoch
            run.best_weights = {k: v.detach().clone() for k, v in run.model.state_dict().items()}
        run.history.append(record)
        if folder is not None:
            best = run.best_weights if run.best_epoch != run.epoch else None
            checkpoints.save_state(
                folder, run.epoch, run.modules, run.optimiser, run.record(), best=best
            )
        snapshots.take(run.model, run.epoch)
        if writer is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "epoch":
                    writer.add_scalar(f"epoch/{name}", value, run.epoch)
        if progress is not None:
            progress("epoch", record)
    run.model.load_state_dict(run.best_weights)
    if folder is not None:
        _write_model(folder, run)
    return FitResult(
        model, tuple(run.history), run.best_epoch, stopped, folder, config, tuple(run.guard.events)
    )


def _epoch(run: Run, data: Any, writer: Any, progress: Progress | None) -> dict[str, Any]:
    config = run.config
    sums: dict[str, float] = {}
    count = step = 0
    group: list[Batch] = []
    with _training_mode(run):
        stream = batches(
            data, config.batch_size,
            seed=(config.seed + 1) * 1_000_003 + run.epoch, degenerate=config.degenerate,
        )  # fmt: skip
        for batch in stream:
            group.append(batch)
            step += 1
            if len(group) < config.accumulate and step != run.steps:
                continue
            done = _optimise(run, group, step - len(group))
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
            _optimise(run, group, step - len(group))
    if step == 0:
        raise DataError("the training data has no example (an iterator that is used up?)")
    run.steps = run.steps or step
    means = {name: value / max(count, 1) for name, value in sums.items()}
    return {"epoch": run.epoch + 1, **means}


@contextlib.contextmanager
def _training_mode(run: Run) -> Iterator[None]:
    for module in run.modules.values():
        module.train()
    with (
        batchnorm_frozen(run.model) if run.config.batchnorm == "eval" else contextlib.nullcontext()
    ):
        yield


def _optimise(run: Run, group: list[Batch], step: int) -> Step:
    """One step of the optimiser on the mean over a group of batches."""
    config = run.config
    progress = run.progress(step)
    lr = config.lr_at(progress)
    for parameters in run.optimiser.param_groups:
        parameters["lr"] = lr
    strength = config.strength.at(progress) * run.guard.factor if run.loss else 0.0
    options = config.options_at(progress)
    images = sum(len(b.labels) for b in group)

    def backward() -> list[Step]:
        steps = []
        for batch in group:
            share = len(batch.labels) / images
            done = forward_pass(
                run.model, batch.to(run.device), config, run.loss, strength, options,
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


def _write_model(folder: Path, run: Run) -> None:
    from safetensors.torch import save_file

    weights = {k: v.detach().cpu().clone().contiguous() for k, v in run.best_weights.items()}
    note = {"format": "pt", "made_by": "attnviz guide", "epoch": str(run.best_epoch)}
    checkpoints.write_whole(folder / "model.safetensors", lambda p: save_file(weights, p, note))
