"""Options that several commands take, in one wording; the model's as one `Subject`."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from ..models import LoadedModel

MODEL_HELP = (
    "torchvision:NAME, timm:NAME, hf:NAME, or package.module:factory, which imports that module "
    "and so runs its code; the embedded EfficientNet-Lite0 if left out."
)

Layer = Annotated[str | None, typer.Option(help="A name of `attnviz layers`; chosen if left out.")]
Target = Annotated[
    list[str] | None,
    typer.Option(
        help="Class index or label, with commas or repeated where several are taken; a label with "
        "a comma is class:LABEL. The predicted class if left out."
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(help="Class names: a file (text, JSON, CSV, YAML), a,b,c, or imagenet."),
]
MasksFrom = Annotated[
    str | None,
    typer.Option(
        help="hf:NAME or hf:FOLDER of a segmenter (SegFormer, Mask2Former): its masks where the "
        "data has none, marked as such."
    ),
]
ExampleSize = Annotated[
    int | None,
    typer.Option("--size", min=1, help="Side of the model's input in pixels; the model's own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the GPU if there is one.")
]

_PHOTOS = "How photos become the model's input"
_WEIGHTS = "The model's weights"


@dataclass(frozen=True)
class Subject:
    """The model that a command line names, and how photos become its input.

    A command that has a parameter `subject: Subject` under `takes_model` gets all of these as
    options.
    """

    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_WEIGHTS,
            help="Weights for that model, .safetensors or .pth (tensors only).",
        ),
    ] = None
    logits: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Which part of what the model returns are its logits: 1, heads.species.",
        ),
    ] = None
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_WEIGHTS,
            help="Where in the checkpoint they are, if there are several: ema_state_dict.",
        ),
    ] = None
    drop_keys: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_WEIGHTS,
            help="Tensors in the checkpoint that are no part of the model, with commas: "
            "'*total_ops,loss.*'.",
        ),
    ] = None
    preprocess: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PHOTOS,
            help="imagenet, imagenet-inception, clip, unit (as it is, 0 to 1) or a JSON file; the "
            "model's own if left out. The options below change it.",
        ),
    ] = None
    resize: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PHOTOS,
            metavar="N|HxW",
            help="Shorter side in pixels, or both. With --resize or --crop the model's own sizes "
            "no longer hold.",
        ),
    ] = None
    crop: Annotated[
        str | None,
        typer.Option(rich_help_panel=_PHOTOS, metavar="N|HxW", help="Cut from the centre."),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PHOTOS, metavar="R,G,B", help="Of the channels, 0 to 1: .485,.456,.406"
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(rich_help_panel=_PHOTOS, metavar="R,G,B", help="Deviation of the channels."),
    ] = None
    interpolation: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PHOTOS, help="nearest, bilinear, bicubic, lanczos, box or hamming."
        ),
    ] = None
    bands: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PHOTOS,
            metavar="R,G,B",
            help="The bands of a photo that the model sees, counted from 1: 4,3,2.",
        ),
    ] = None
    window: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PHOTOS,
            metavar="LOW,HIGH",
            help="The values of a photo that become black and white: 0,4095 for 12 bits.",
        ),
    ] = None
    device: Device = None

    def load(self, *, pretrained: bool = True, photos: bool = True) -> LoadedModel:
        """Load the model, with the preprocessing asked for.

        Args:
            pretrained: fetch weights where no checkpoint is named.
            photos: on the device named, or on the GPU if there is one, ready for photos; False
                leaves the model on the CPU, where its structure alone is looked at.
        """
        from ..models import load

        device = self.device
        if photos and device is None:
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load(
            self.model, checkpoint=self.checkpoint, device=device, pretrained=pretrained,
            checkpoint_key=self.checkpoint_key, drop_keys=_words(self.drop_keys),
        )  # fmt: skip
        return self._prepared(loaded) if photos else loaded

    @property
    def states_preprocessing(self) -> bool:
        """Whether any option says how photos become the input."""
        return self.preprocess is not None or bool(self._changes())

    def words(self, *, preprocessing: bool) -> str:
        """Return the options that name the model, and its preprocessing, for a further command."""
        names = ("model", *(_PREPROCESSING if preprocessing else ()))
        given = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given.items())

    def of_photos(self) -> list[str]:
        """Return the options given that mean nothing where a text is read."""
        names = (*_PREPROCESSING, "bands", "window", "checkpoint_key", "drop_keys")
        return [f"--{n.replace('_', '-')}" for n in names if getattr(self, n) is not None]

    def beside(self) -> dict[str, Any]:
        """Return what holds for a second model as well: its preprocessing, and the device."""
        return {name: getattr(self, name) for name in (*_PREPROCESSING, "device")}

    def _changes(self) -> dict[str, Any]:
        found = {n: getattr(self, n) for n in _PREPROCESSING[1:] if getattr(self, n) is not None}
        for name in ("mean", "std"):
            if name in found:
                found[name] = _channels(name, found[name])
        for name in ("resize", "crop"):
            if name in found:
                found[name] = sides(name, found[name])
        return found

    def _prepared(self, loaded: LoadedModel) -> LoadedModel:
        from ..errors import PreprocessError
        from ..models import Preprocess, resolve_preprocess
        from ._app import say

        changes = self._changes()
        if not self.states_preprocessing:
            name = getattr(loaded.preprocess, "name", "")
            if loaded.preprocess is not None and "assumed" in name:
                say(f"preprocessing: {loaded.preprocess.describe()}; --preprocess says another")
            return loaded
        if self.preprocess is None and {"mean", "std"} <= changes.keys():
            try:
                base = resolve_preprocess(None, loaded.module, loaded)
            except PreprocessError:
                base = Preprocess(resize=None, crop=None)
        else:
            base = resolve_preprocess(self.preprocess, loaded.module, loaded)
        if not changes:
            return replace(loaded, preprocess=base)
        if not isinstance(base, Preprocess):
            raise PreprocessError(
                f"{base.describe()} is a transform of its own, which --{' and --'.join(changes)} "
                "cannot change; say --preprocess imagenet (or another) beside them"
            )
        for name in {"mean", "std"} & changes.keys() if base.grey else ():
            changes[name] = (sum(changes[name]) / len(changes[name]),)
        if "resize" in changes or "crop" in changes:
            changes = {"resize": None, "crop": None, "fit": "squash"} | changes
        sized = {"resize", "crop"} & changes.keys() or self.preprocess is not None
        base = replace(base, **changes, name=f"{base.name}, changed")
        if not sized and (base.resize or base.crop):
            say(f"preprocessing: {base.describe()}; --resize and --crop say other sizes")
        return replace(loaded, preprocess=base)


_PREPROCESSING = ("preprocess", "resize", "crop", "mean", "std", "interpolation")


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _channels(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise typer.BadParameter(f"--{name} takes one number or three, R,G,B; got {text!r}")
    return values * 3 if len(values) == 1 else values


def _numbers(name: str, text: str | None, kind: Callable[[str], Any]) -> list[Any] | None:
    try:
        return None if text is None else [kind(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--{name} takes numbers with commas, got {text!r}") from None


def sides(name: str, text: str) -> Any:
    """Return the (height, width) that an option states; one number is both, but of --resize."""
    given = text.lower().split("x")
    if not all(side.strip().isdecimal() for side in given) or len(given) > 2:
        raise typer.BadParameter(f"--{name} takes 224 or 224x320 (height x width), got {text!r}")
    sizes = tuple(int(side) for side in given)
    if len(sizes) == 2:
        return sizes
    return sizes[0] if name == "resize" else sizes * 2


def example_size(loaded: LoadedModel, size: int | None) -> tuple[int, int]:
    """Return (H, W) in pixels of an input that a command makes itself: as asked for, or the own."""
    crop = getattr(loaded.preprocess, "crop", None)
    return (size, size) if size else tuple(crop) if crop else (224, 224)


def takes_model(
    *, positional: bool = False, photos: bool = True, **helps: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a `Subject` in place of its parameter `subject`.

    Args:
        positional: the model is an argument.
        photos: False leaves out what is for photos, and the device.
        helps: other words for an option's help.
    """

    def wrap(command: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(Subject, include_extras=True)
        names = [f.name for f in fields(Subject)]
        if not photos:
            names = [n for n in names if n not in (*_PREPROCESSING, "bands", "window", "device")]
        if positional:
            hints["model"] = Annotated[
                str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)
            ]
        for name, text in helps.items():
            kind, option = hints[name].__origin__, copy.copy(hints[name].__metadata__[0])
            option.help = text
            hints[name] = Annotated[kind, option]
        own = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "subject":
                parameters += [
                    inspect.Parameter(
                        n, parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=hints[n]
                    )
                    for n in names
                ]
            else:
                parameters.append(parameter.replace(annotation=own[parameter.name]))

        @functools.wraps(command)
        def run(**given: Any) -> Any:
            subject = Subject(**{n: given.pop(n) for n in names})
            with contextlib.ExitStack() as stack:
                if subject.logits is not None:
                    from ..models import reading

                    stack.enter_context(reading(subject.logits))
                if subject.bands is not None or subject.window is not None:
                    from ..images import photo_values

                    values = photo_values(
                        bands=_numbers("bands", subject.bands, int),
                        window=_numbers("window", subject.window, float),
                    )
                    stack.enter_context(values)
                return command(subject=subject, **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return wrap


def one_target(given: list[str] | None) -> str | None:
    """Return the target that `--target` names, of a command that takes a single one."""
    found = listed(given)
    if len(found) > 1:
        raise typer.BadParameter(
            f"--target names {len(found)} here ({', '.join(found)}) and one is taken: give the "
            "command once for each; a label with a comma is class:LABEL"
        )
    return found[0] if found else None


def listed(given: list[str] | None) -> list[str]:
    """Return what an option names, by commas or repeated; `kind:...` is one with its commas."""
    words = [[text] if ":" in text else text.split(",") for text in given or ()]
    return [word.strip() for part in words for word in part if word.strip()]


def named_values(given: Sequence[str], example: str) -> dict[str, Any]:
    """Return the words NAME=VALUE of `--set` as options; values are JSON, or else text."""
    from .. import limits
    from ..errors import DataError

    found: dict[str, Any] = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"--set {word!r}: expected NAME=VALUE, such as {example}")
        try:
            found[name] = limits.parse_json(text, f"--set {name}")
        except DataError:
            found[name] = text
    return found
