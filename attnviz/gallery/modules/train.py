"""Train the reference modules: `python -m attnviz.gallery.modules.train NAME ... | all`.

Writes NAME.safetensors (float16) and manifest.json into assets/reference of a checkout, or into
`--out`. Needs no download. One CPU thread; the numbers in the manifest are measured with the
float16 weights, on test examples that training never saw.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch
from safetensors import __version__ as safetensors_version
from safetensors.torch import load_file, save_file

from ...errors import AttnvizError, DataError
from .files import HERE
from .store import measure, names, task
from .training import fit

LARGEST = 1_000_000


def train(name: str, folder: Path, *, seed: int = 0, steps: int | None = None) -> dict:
    """Train one reference, write its weights, measure them as stored, return the manifest entry.

    Raises:
        DataError: the weights are larger than 1 MB, or a number that has to hold does not.
    """
    wanted, begun = task(name), time.process_time()
    model = fit(wanted, seed=seed, steps=steps, say=lambda line: print(line, file=sys.stderr))
    took = time.process_time() - begun
    path = folder / f"{name}.safetensors"
    part = path.with_suffix(".part")
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, part, metadata={"seed": str(seed)})
    part.chmod(0o644)
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
        "steps": steps or wanted.steps,
        "cpu_seconds": round(took),
        "command": f"python -m attnviz.gallery.modules.train {name} --seed {seed}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m attnviz.gallery.modules.train")
    parser.add_argument("name", nargs="+", help=f"all, or: {', '.join(names())}")
    parser.add_argument("--seed", type=int, default=None, help="default: the task's own")
    parser.add_argument("--steps", type=int, help="fewer steps, for a trial; bounds not enforced")
    parser.add_argument("--out", type=Path, default=HERE.parents[2] / "assets" / "reference")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "manifest.json"
    failed = 0
    for name in names() if options.name == ["all"] else options.name:
        try:
            seed = task(name).seed if options.seed is None else options.seed
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
