"""Commands in processes of their own that need not import anything: a server forks each."""

import importlib
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

_HEAVY = (
    "butwait.cli.main", "butwait.pipeline.run", "butwait.report.page", "butwait.synthesis.stored",
    "butwait.training.grpo.direct", "butwait.training.grpo.train", "butwait.training.prm",
    "butwait.training.sft", "butwait.engines.transformers", "butwait.problems.equality.worker",
    "matplotlib.figure",
)  # fmt: skip
_KINDS = (
    "butwait.stages.kinds", "butwait.search.samplers", "butwait.engines.kinds",
    "butwait.reward_models.kinds", "butwait.synthesis.builders", "butwait.problems.kinds",
)  # fmt: skip


def _modules(package: str) -> list[str]:
    path = importlib.import_module(package).__path__
    return [f"{package}.{module.name}" for module in pkgutil.iter_modules(path)]


STREAMS = ("stdout.txt", "stderr.txt")
_server = multiprocessing.get_context("forkserver")
# The kinds first: their settings read their own source, slowly once many modules are there.
_server.set_forkserver_preload([*(name for kinds in _KINDS for name in _modules(kinds)), *_HEAVY])


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str


class Started(NamedTuple):
    """A command that runs; ``err`` is where its stderr goes."""

    process: BaseProcess
    err: Path

    def end(self) -> Ended:
        """Waits for it."""
        self.process.join()
        assert self.process.exitcode is not None
        return Ended(self.process.exitcode, self.err.read_text())


def start(
    *words: str | Path, cwd: Path, said: Path, prepare: Callable[[], None] | None = None
) -> Started:
    """Starts ``butwait WORDS`` in a folder.

    Args:
        said: a folder outside of the run for what it prints.
        prepare: called in the new process first.
    """
    for name in STREAMS:
        (said / name).write_text("")
    process = _server.Process(target=_run, args=([*map(str, words)], cwd, said, prepare))
    process.start()
    return Started(process, said / STREAMS[1])


def _run(words: list[str], cwd: Path, said: Path, prepare: Callable[[], None] | None) -> None:
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    for number, name in enumerate(STREAMS, 1):
        os.dup2(os.open(said / name, os.O_WRONLY), number)
    sys.argv = ["butwait", *words]
    if prepare is not None:
        prepare()
    from butwait.cli.main import main

    main()
