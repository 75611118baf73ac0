"""The photo that comes with an installed package."""

from __future__ import annotations

from pathlib import Path

from ..errors import EnvironmentFault


def sample_photo() -> Path:
    """Return the path of matplotlib's photo of Grace Hopper (US Navy, public domain).

    Raises:
        EnvironmentFault: matplotlib was installed without its sample data.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not path.is_file():
        raise EnvironmentFault(
            f"matplotlib {matplotlib.__version__} is installed without its sample photo "
            f"({str(path)!r}); `pip install --force-reinstall matplotlib` brings it"
        )
    return path
