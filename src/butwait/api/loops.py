"""Coroutines for programs that have no event loop, and work for those that have one."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_ONE_RUN = threading.Lock()
"""Stages of one process run one after another: each shows its progress, and has the memory."""


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine; in a notebook, whose loop is running, by a thread of its own."""
    return apart(lambda: asyncio.run(work))


def one_run(work: Callable[[], T]) -> T:
    """The result of a run, which has loops of its own; of several threads' one at a time."""
    with _ONE_RUN:
        return apart(work)


def apart(work: Callable[[], T]) -> T:
    """The result of what must have no running loop around it."""
    if not _in_a_loop():
        with first_alone():
            return work()
    results: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="butwait")
    thread.start()
    thread.join()
    if failed:
        with first_alone():
            raise failed[0]
    return results[0]


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def first_alone() -> Iterator[None]:
    """Of errors that several tasks raised together, the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
