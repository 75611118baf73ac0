"""What the parts of the campaign share."""

from __future__ import annotations

import pytest

from .forking import Forks


@pytest.fixture(scope="module")
def forks(top):
    """Where commands run, below the module's folder `top`."""
    server = Forks(top / "log")
    yield server
    server.close()
