"""A model that the user's own code makes: `package.module:factory`."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import AttnvizError, ModelError, did_you_mean
from ..loaded import LoadedModel


def build(name: str, *, pretrained: bool, num_classes: int | None) -> LoadedModel:
    """Import `package.module` and take `factory` from it: a function, a class or a model.

    The working directory is searched as well, as with `python -m`. A factory that has a
    parameter `num_classes` or `pretrained` is given it.

    Raises:
        ModelError: it cannot be imported, fails, or makes no `nn.Module`.
    """
    path, _, attribute = name.partition(":")
    module = import_module(path)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(
                f"{path!r} has no {attribute!r}"
                f"{did_you_mean(part, [n for n in dir(found) if not n.startswith('_')])}"
            )
        found = getattr(found, part)
    if not isinstance(found, nn.Module | LoadedModel):
        found = _call(found, name, pretrained=pretrained, num_classes=num_classes)
    if isinstance(found, LoadedModel):
        found.module.eval()
        return found
    if not isinstance(found, nn.Module):
        raise ModelError(
            f"{name!r} gave a {type(found).__name__}, expected a torch.nn.Module; point to a "
            "function without arguments that returns the model"
        )
    return LoadedModel(found.eval(), name)


def import_module(path: str) -> Any:
    """Import a module that is installed or lies in the working directory."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        if path == missing or path.startswith(missing + "."):
            raise ModelError(
                f"no Python module {path!r} (searched the installed packages and the working "
                "directory); what is meant is named package.module:name"
            ) from error
        raise ModelError(f"importing {path!r} failed: {error}") from error
    except AttnvizError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise ModelError(f"importing {path!r} failed: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)


def _call(factory: Any, name: str, *, pretrained: bool, num_classes: int | None) -> Any:
    if not callable(factory):
        raise ModelError(
            f"{name!r} is a {type(factory).__name__}, expected a torch.nn.Module or a function "
            "that returns one"
        )
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        known = {}
    options: dict[str, Any] = {}
    if num_classes is not None:
        if "num_classes" not in known:
            raise ModelError(
                f"{name!r} takes no num_classes, so num_classes={num_classes} cannot be given; "
                "let the factory make the right number"
            )
        options["num_classes"] = num_classes
    if "pretrained" in known and not pretrained:
        options["pretrained"] = False
    try:
        return factory(**options)
    except AttnvizError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise ModelError(f"{name!r} failed: {type(error).__name__}: {error}") from error
