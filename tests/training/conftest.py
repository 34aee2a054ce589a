"""How tests end trainings: at a step that is logged, or from outside after lines of a log."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from butwait.training.fit import Log


@pytest.fixture
def interrupted_at(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int], AbstractContextManager[None]]:
    """A block whose training must be interrupted when it has logged this step."""

    @contextmanager
    def interrupted(step: int) -> Iterator[None]:
        on_log = Log.on_log

        def interrupt(self: Log, args: Any, state: Any, control: Any, **others: Any) -> None:
            on_log(self, args, state, control, **others)
            if state.global_step == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Log, "on_log", interrupt)
            with pytest.raises(KeyboardInterrupt):
                yield

    return interrupted


@pytest.fixture
def wait_for_lines() -> Callable[[Path, int, subprocess.Popen[bytes]], None]:
    """Returns when a running training has written so many lines."""

    def wait(log: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 300
        while not log.exists() or len(log.read_bytes().splitlines()) < lines:
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait
