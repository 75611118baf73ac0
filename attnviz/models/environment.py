"""The installed libraries that models come from: imported in one place."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

import torch

from ..errors import EnvironmentFault


def version_of(distribution: str) -> str:
    """Return an installed distribution's version, or "unknown version"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _broken_pair(error: BaseException) -> EnvironmentFault:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    return EnvironmentFault(
        f"torchvision {version_of('torchvision')} does not work with torch {torch.__version__} "
        f"({cuda}): {first}. The two must come from one index: reinstall both with "
        "`uv pip install --reinstall torch torchvision --torch-backend=auto` (no GPU: "
        "`--torch-backend=cpu`) or `pip install --force-reinstall torch torchvision`"
    )


def import_torchvision() -> ModuleType:
    """Import torchvision with its compiled operators, or say in one line what is wrong.

    A CPU-only torch beside a torchvision built for CUDA otherwise ends in `operator
    torchvision::nms does not exist`, deep in an import.

    Raises:
        EnvironmentFault: torchvision is missing, or does not fit the installed torch.
    """
    try:
        torchvision = importlib.import_module("torchvision")
        importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "torchvision":
            raise _broken_pair(error) from error
        raise EnvironmentFault(
            "torchvision is not installed; install it beside torch with "
            "`uv pip install torchvision --torch-backend=auto` or `pip install torchvision`"
        ) from error
    except (ImportError, OSError, RuntimeError, AttributeError, AssertionError) as error:
        raise _broken_pair(error) from error
    # some releases import without their compiled operators and fail at the first call instead
    if not torchvision.extension._has_ops():
        raise _broken_pair(RuntimeError("operator torchvision::nms does not exist"))
    return torchvision


def import_timm() -> ModuleType:
    """Import timm (which imports torchvision).

    Raises:
        EnvironmentFault: timm is missing or broken, or torchvision does not fit torch.
    """
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise EnvironmentFault(
            f"timm cannot be imported ({error}); install it with `pip install --upgrade timm`"
        ) from error


def import_transformers() -> ModuleType:
    """Import transformers, which is optional.

    Raises:
        EnvironmentFault: transformers is missing or broken.
    """
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise EnvironmentFault(f"transformers cannot be imported: {error}") from error
        raise EnvironmentFault(
            "models named 'hf:...' need transformers, which is not installed; "
            "`pip install 'attnviz[hf]'` brings it"
        ) from error
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFault(f"transformers cannot be imported: {error}") from error
