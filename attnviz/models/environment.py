"""The installed libraries that models come from: imported in one place, checked in one place."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from types import ModuleType

import torch

from ..errors import EnvironmentFault

#: what `check` looks at: distribution, module, and the extra that brings it ("" = always needed)
_PARTS = (
    ("timm", "timm", ""),
    ("captum", "captum", ""),
    ("numpy", "numpy", ""),
    ("pillow", "PIL", ""),
    ("opencv-python", "cv2", ""),
    ("matplotlib", "matplotlib", ""),
    ("safetensors", "safetensors", ""),
    ("jinja2", "jinja2", ""),
    ("transformers", "transformers", "hf"),
)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _broken_pair(error: BaseException) -> EnvironmentFault:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    return EnvironmentFault(
        f"torchvision {_version('torchvision')} does not work with torch {torch.__version__} "
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


def check() -> list[tuple[str, bool, str]]:
    """Check the installation, for `attnviz doctor`.

    Returns:
        One (name, ok, message) per part. A missing optional part is ok; its message says how to
        add it. Nothing is downloaded.
    """
    device = "no CUDA device"
    if torch.cuda.is_available():
        device = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name(0)}"
    elif torch.backends.mps.is_available():
        device = "Apple MPS"
    rows = [
        ("python", True, platform.python_version()),
        ("torch", True, f"{torch.__version__}, {device}"),
    ]
    try:
        rows.append(("torchvision", True, import_torchvision().__version__))
    except EnvironmentFault as fault:
        rows.append(("torchvision", False, str(fault)))
    for distribution, module, extra in _PARTS:
        rows.append((distribution, *_check_part(distribution, module, extra)))
    rows.append(("embedded model", *_check_weights()))
    return rows


def _check_part(distribution: str, module: str, extra: str) -> tuple[bool, str]:
    if importlib.util.find_spec(module) is None:
        if extra:
            return True, f"not installed (optional): `pip install 'attnviz[{extra}]'` brings it"
        return False, f"not installed: `pip install {distribution}`"
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # a broken binary package can raise anything on import
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return False, f"cannot be imported: {first}; `pip install --force-reinstall {distribution}`"
    return True, str(getattr(loaded, "__version__", _version(distribution)))


def _check_weights() -> tuple[bool, str]:
    from .sources.embedded import weights_path

    try:
        path = weights_path()
    except EnvironmentFault as fault:
        return False, str(fault)
    return True, f"EfficientNet-Lite0, ImageNet weights, {path.stat().st_size / 1e6:.1f} MB"
