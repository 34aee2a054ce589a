"""Runs to be looked at, made once."""

from pathlib import Path

import pytest
from viewed_run import write_run


@pytest.fixture(scope="session")
def seen_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run. Tests that change one make a copy."""
    return write_run(tmp_path_factory.mktemp("seen") / "small run")
