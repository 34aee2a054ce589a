"""How a command ends: exit codes and sentences."""

import asyncio
import errno
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from butwait.cli import ending
from butwait.cli.ending import run_to_end
from butwait.records import UserError
from butwait.running import stops

STOPPED = "\nbutwait: stopped\n"
GOES_ON = "\nbutwait: stopped; the same command goes on where it was\n"


def raises(error: BaseException) -> Callable[[], Any]:
    def command() -> None:
        raise error

    return command


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


async def send_awaiting(number: int) -> None:
    os.kill(os.getpid(), number)
    await asyncio.sleep(5)


def stop_in_a_run() -> None:
    stops.keep()
    send(signal.SIGINT)


def close_badly() -> None:
    try:
        send(signal.SIGINT)
    finally:
        raise RuntimeError("closing failed")


def stop_in_a_task() -> None:
    """As in a training whose engine works in a task: nobody asks how that ended."""
    loop = asyncio.new_event_loop()

    async def work() -> None:
        send(signal.SIGINT)

    under_way: list[Any] = []
    under_way.append(loop.create_task(work()))
    try:
        loop.run_forever()
    finally:
        loop.close()


@pytest.fixture(autouse=True)
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's log is as it was after each test."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", False)


def test_a_stop_inside_a_task_is_one_sentence(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        run_to_end(stop_in_a_task)
    gc.collect()
    assert capsys.readouterr().err == STOPPED
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (raises(UserError("mend it")), 2, "butwait: mend it\n"),
        (raises(UserError("one\ntwo")), 2, "butwait: one\nbutwait: two\n"),
        (raises(SystemExit(0)), 0, ""),
        (raises(SystemExit(5)), 5, ""),
        (stop_in_a_run, 130, GOES_ON),
        (raises(KeyboardInterrupt()), 130, STOPPED),  # whatever the command before it was
        (lambda: send(signal.SIGINT), 130, STOPPED),
        (lambda: asyncio.run(send_awaiting(signal.SIGINT)), 130, STOPPED),
        (lambda: send(signal.SIGTERM), 143, STOPPED),
        (lambda: asyncio.run(send_awaiting(signal.SIGTERM)), 143, STOPPED),
        (close_badly, 130, STOPPED),
        (
            raises(PermissionError(errno.EACCES, "", "a/b")),
            2,
            "butwait: permission is denied (a/b): the command could not go on; mend the "
            "permissions and run the same command again (finished work is kept)\n",
        ),
    ],
)
def test_every_end_has_its_code_and_sentence(
    capsys: pytest.CaptureFixture[str], command: Callable[[], Any], code: int, said: str
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as end:
        run_to_end(command)
    assert end.value.code == code
    assert capsys.readouterr().err == said
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("words", "place", "said"),
    [
        ("run quickstart", "butwait.pipeline.run._run_stages", GOES_ON),
        ("plan quickstart --pilot 2", "butwait.pipeline.pilot.load_problem_sets", GOES_ON),
        ("compare a b", "butwait.cli.evaluations.compare.compare_stored", STOPPED),
        ("plan-eval --detect 3 --problems 30", "butwait.evaluation.planned.Design.found", STOPPED),
        ("import a --out run/b", "butwait.evaluation.logs.detect._start", STOPPED),
        ("export a --inspect b.jsonl", "butwait.api.sides.Reader.sides", STOPPED),
    ],
)
def test_only_what_works_in_a_run_is_promised_to_go_on(
    words: str,
    place: str,
    said: str,
    own_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, stop)
    code, _, err = command(*words.split())
    assert (code, err) == (130, said)


def test_a_fault_of_butwaits_own_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_to_end(raises(ZeroDivisionError("by zero\nand more")))
    assert end.value.code == 1
    traceback, _, said = capsys.readouterr().err.rpartition("butwait: ")
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert said.startswith(
        "a fault of butwait itself (ZeroDivisionError: by zero at test_ending.py:"
    )
    assert "; please report it with the traceback above, at https://" in said


def test_a_command_that_does_not_end_in_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "GRACE", 0.1)

    def deaf() -> None:
        for _ in range(50):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)
            except KeyboardInterrupt:
                continue

    child = os.fork()
    if child == 0:
        os.close(2)
        os.open(os.devnull, os.O_WRONLY)
        run_to_end(deaf)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "butwait", "recipes"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("butwait: the disk is full: ")
    assert len(ended.stderr.strip().splitlines()) == 1
