"""Train the gallery's reference modules and its cards' small networks.

    python notebooks/studies/train_modules.py NAME ... | all

Writes NAME.safetensors (float16) and manifest.json into assets/reference, or into `--out`; the
cards' networks into its folder cards. Needs no download. One CPU thread; the numbers in the
manifest are measured with the float16 weights, on test examples that training never saw.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import __version__ as safetensors_version
from safetensors.torch import load_file, save_file
from study.card_networks import SCENES, UNLABELLED, train_card
from study.module_recipes import RECIPES
from torch import nn

from attnviz.errors import AttnvizError, DataError
from attnviz.gallery.modules import measure, names, task

LARGEST = 1_000_000
ASSETS = Path(__file__).resolve().parents[2] / "assets" / "reference"
CARDS = [*SCENES, *UNLABELLED]


def fit(
    name: str, *, seed: int = 0, steps: int | None = None, say: Callable[[str], None] | None = None
) -> nn.Module:
    """Train a task's model from scratch on the CPU.

    Args:
        name: of the module.
        seed: of the weights, the data and the sampling; the caller's random state is left alone.
        steps: fewer or more than the task's own.
        say: receives a progress line now and then.

    Returns:
        The model in eval mode.
    """
    work, recipe = task(name), RECIPES[name]
    steps = steps or recipe.steps
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = work.build().train()
    bank = work.sample(recipe.bank, generator, True) if recipe.bank else None
    groups: dict[float, list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        factor = next((f for prefix, f in recipe.slow.items() if path.startswith(prefix)), 1.0)
        groups.setdefault(factor, []).append(parameter)
    optimiser = torch.optim.AdamW(
        [{"params": p, "lr": recipe.rate * f, "peak": recipe.rate * f} for f, p in groups.items()],
        weight_decay=recipe.decay,
    )
    warm, begun, mean = max(steps // 20, 1), time.monotonic(), 0.0
    for step in range(steps):
        progress = min(step / warm, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * progress
        if bank is None:
            batch = work.sample(recipe.batch, generator, True)
        else:
            batch = bank.take(torch.randint(recipe.bank, (recipe.batch,), generator=generator))
        value = recipe.loss(model, batch, generator)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        mean += (value.item() - mean) * (1 / (step + 1) if step < 100 else 0.01)
        if say and (step + 1) % max(steps // 8, 1) == 0:
            took = time.monotonic() - begun
            say(f"{name}: step {step + 1}/{steps}, loss {mean:.4f}, {took:.0f} s")
    return model.eval()


def keep(model: nn.Module, path: Path, *, seed: int = 0) -> None:
    """Write a network's weights as float16."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"seed": str(seed)})
    path.chmod(0o644)


def train(name: str, folder: Path, *, seed: int = 0, steps: int | None = None) -> dict:
    """Train one reference, write its weights, measure them as stored, return the manifest entry.

    Raises:
        DataError: the weights are larger than 1 MB, or a number that has to hold does not.
    """
    wanted, begun = task(name), time.process_time()
    model = fit(name, seed=seed, steps=steps, say=lambda line: print(line, file=sys.stderr))
    took = time.process_time() - begun
    path = folder / f"{name}.safetensors"
    part = path.with_suffix(".part")
    keep(model, part, seed=seed)
    size = part.stat().st_size
    if size > LARGEST:
        part.unlink()
        raise DataError(f"{name}: weights have {size} bytes, at most {LARGEST} are kept")
    model.load_state_dict({k: v.float() for k, v in load_file(part).items()})
    numbers = measure(name, model, count=1000, seed=1)
    short = {k: (numbers[k], least) for k, least in wanted.holds.items() if numbers[k] < least}
    if short and steps is None:
        part.unlink()
        raise DataError(f"{name}: did not reach what has to hold (got, at least): {short}")
    part.replace(path)
    return {
        "task": wanted.says,
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": size,
        "measured": {k: round(v, 4) for k, v in numbers.items()},
        "measured_on": "1000 test examples, seed 1, float16 weights",
        "holds": dict(wanted.holds),
        "seed": seed,
        "steps": steps or RECIPES[name].steps,
        "cpu_seconds": round(took),
        "command": f"python notebooks/studies/train_modules.py {name} --seed {seed}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="+", help=f"all, or: {', '.join([*names(), *CARDS])}")
    parser.add_argument("--seed", type=int, default=None, help="default: the task's own")
    parser.add_argument("--steps", type=int, help="fewer steps, for a trial; bounds not enforced")
    parser.add_argument("--out", type=Path, default=ASSETS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "manifest.json"
    failed = 0
    wanted = [*names(), *CARDS] if options.name == ["all"] else options.name
    for name in wanted:
        if name in CARDS:
            keep(
                train_card(name, steps=options.steps), options.out / "cards" / f"{name}.safetensors"
            )
            continue
        try:
            seed = RECIPES[task(name).name].seed if options.seed is None else options.seed
            entry = train(name, options.out, seed=seed, steps=options.steps)
        except AttnvizError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"{name}: {entry['measured']}")
        written = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        models = {**written.get("models", {}), name: entry}
        written = {
            "schema": 1,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "safetensors": safetensors_version,
            },
            "digits": "UCI optdigits test part (scikit-learn load_digits), Alpaydin & Kaynak "
            "1998, doi:10.24432/C50P49, CC BY 4.0",
            "models": {key: models[key] for key in names() if key in models},
        }
        record.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
