"""What is installed, and whether it works: the rows of `attnviz doctor`."""

from __future__ import annotations

import importlib
import importlib.util
import platform

import torch

from ..errors import EnvironmentFault
from .environment import import_torchvision, version_of
from .sources.embedded import weights_path

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
    return True, str(getattr(loaded, "__version__", version_of(distribution)))


def _check_weights() -> tuple[bool, str]:
    try:
        path = weights_path()
    except EnvironmentFault as fault:
        return False, str(fault)
    return True, f"EfficientNet-Lite0, ImageNet weights, {path.stat().st_size / 1e6:.1f} MB"
