"""What tests of servers share."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def run() -> Iterator[Callable[[Any], Any]]:
    """Runs coroutines, all in one event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked again without waiting long."""
    monkeypatch.setattr("butwait.engines.servers.remote_server.LONGEST_PAUSE_S", 0.01)
