"""A run's log: everything that was said, no secret, and never a hindrance."""

import errno
import logging
import os
import re
from pathlib import Path

import pytest

from butwait.records import UserError
from butwait.running import log
from butwait.running.log import conceal, logged, note, say, told_in, without_secrets
from butwait.running.terminal import loud_from

ENTRY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ (\w+): (.*)")


def entries(folder: Path) -> list[tuple[str, str]]:
    """(level, text) of what a log holds; further lines of an entry as its text has them."""
    found: list[tuple[str, str]] = []
    for line in (folder / "log.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            level, text = found.pop()
            found.append((level, f"{text}\n{line.strip()}"))
            continue
        entry = ENTRY.fullmatch(line)
        assert entry is not None, line
        found.append((entry[1], entry[2]))
    return found


def test_a_log_holds_what_is_said_and_how_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = logging.getLogger("transformers.some.module")
    with logged(tmp_path, "torch 9"):
        say("[1/2] one\x1b[31m")
        say("rows 64", logging.DEBUG)
        note("for the log")
        logging.getLogger("butwait.engines").warning("lost %d", 3)
        library.warning("deprecated")
    with pytest.raises(UserError), logged(tmp_path):
        raise UserError("mend it\nand this")
    with pytest.raises(KeyboardInterrupt), logged(tmp_path):
        raise KeyboardInterrupt
    found = entries(tmp_path)
    assert found[2:9] == [
        ("debug", "torch 9"),
        ("info", r"[1/2] one\x1b[31m"),
        ("debug", "rows 64"),
        ("debug", "for the log"),
        ("warning", "butwait.engines: lost 3"),
        ("warning", "transformers.some.module: deprecated"),
        ("debug", "done"),
    ]
    assert found[11] == ("error", "mend it\nand this")
    assert found[14:] == [("warning", "ended by KeyboardInterrupt")]
    assert capsys.readouterr().out == "[1/2] one\\x1b[31m\n"
    note("behind the end")
    assert entries(tmp_path) == found


def test_a_warning_is_still_on_the_terminal_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with logged(tmp_path):
        logging.getLogger("butwait.x").warning("lost")
        logging.getLogger("accelerate.x").warning("old")
    assert capsys.readouterr().err == "lost\nold\n"
    assert [text for _, text in entries(tmp_path)][2:-1] == ["butwait.x: lost", "accelerate.x: old"]
    assert logging.getLogger().handlers == []


def test_a_fault_is_logged_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as fault, logged(tmp_path):
        say(str(1 / 0))
    level, text = entries(tmp_path)[-1]
    assert level == "error"
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("\nZeroDivisionError: division by zero")
    assert told_in(fault.value) == tmp_path / "log.txt"
    assert told_in(ZeroDivisionError()) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("asked with abc123xyz at 1", "asked with [hidden] at 1"),
        ("asked with a%2Fb%3Dc9 at 1", "asked with [hidden] at 1"),
        ("http://user:pw@host:1/v1 and http://host/v1", "http://[hidden]@host:1/v1 and http://host/v1"),
        ("http://host/v1?api_key=q7&n=2", "http://host/v1?api_key=[hidden]&n=2"),
        ("http://host/v1?token=q7&key=q8", "http://host/v1?token=[hidden]&key=[hidden]"),
        ("--set engine.api-key=q7", "--set engine.api-key=[hidden]"),
        ("MY_TOKEN=q7 HF_TOKEN: q8", "MY_TOKEN=[hidden] HF_TOKEN: [hidden]"),
        ("{'Authorization': 'Bearer abcdefgh'}", "{'Authorization': '[hidden] [hidden]'}"),
        ("sent Bearer abcdefgh", "sent Bearer [hidden]"),
        ('{"password": "q7", "n": 1}', '{"password": "[hidden]", "n": 1}'),
        ("found sk-proj-abcdef0123456789", "found [hidden]"),
        ("its own name is NAMED-7", "its own name is [hidden]"),
        # What is none stays.
        ("policy_tokens: 7, max_tokens=64, eos_token=2", None),
        ("unknown key stages.x; the answer none, keyboard=x", None),
        ("api_key_env='MY_KEY' of a basic kind", None),
        ("--tokens=7 /home/me/socket task-hf-1", None),
    ],
)  # fmt: skip
def test_no_secret_is_written(text: str, left: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_concealed", set())
    conceal("NAMED-7")
    environment = {
        "OPENAI_API_KEY": " abc123xyz",
        "SERVER_SECRET_2": "a/b=c9",
        "DUMMY_KEY": "none",
        "KEYBOARD": "of a basic kind",
        "SSH_AUTH_SOCK": os.devnull,
    }
    assert without_secrets(text, environment) == (text if left is None else left)


def test_a_secret_stands_in_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTHER_API_KEY", "hush-hush-1")
    monkeypatch.setattr("sys.argv", ["butwait", "run", "--set", "engine.x=hush-hush-1"])

    def work() -> None:
        with logged(tmp_path), loud_from(logging.DEBUG):
            say("engine hush-hush-1", logging.DEBUG)
            logging.getLogger("httpx").warning("hush-hush-1")
            raise RuntimeError("hush-hush-1")

    with pytest.raises(RuntimeError):
        work()
    written = (tmp_path / "log.txt").read_text()
    assert "hush" not in written
    assert written.count("[hidden]") >= 4
    assert "hush" not in capsys.readouterr().err.partition("\n")[0]


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_full(path: Path) -> None:
    path.symlink_to("/dev/full")


def make_nowhere(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize("make", [make_folder, make_pipe, make_full, make_nowhere])
def test_a_log_that_cannot_be_written_stops_nothing(make, tmp_path: Path, capsys) -> None:
    make(tmp_path / "log.txt")
    with logged(tmp_path):
        say("on")
    assert capsys.readouterr().out == "on\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fills_up_stops_nothing(
    number: int, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with logged(tmp_path):
        monkeypatch.setattr("os.write", refuse)
        say("on")
        logging.getLogger("butwait").warning("lost")
        monkeypatch.undo()
        say("again")
    assert capsys.readouterr().out == "on\nagain\n"
    assert [text for _, text in entries(tmp_path)][-2:] == ["again", "done"]


def test_a_fault_without_a_log_names_none(tmp_path: Path) -> None:
    make_folder(tmp_path / "log.txt")
    with pytest.raises(ZeroDivisionError) as fault, logged(tmp_path):
        say(str(1 / 0))
    assert told_in(fault.value) is None


def test_processes_tear_no_lines(tmp_path: Path) -> None:
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            with logged(tmp_path, begins=False):
                for i in range(60):
                    note(f"{number} {i} " + "x" * 5000)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    texts = [text for _, text in entries(tmp_path)]
    for number in range(3):
        own = [text for text in texts if text.startswith(f"{number} ")]
        assert own == [f"{number} {i} " + "x" * 5000 for i in range(60)]


def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LONGEST", 4000)

    def work() -> None:
        with logged(tmp_path):
            for _ in range(1000):
                note("x" * 200)
            raise RuntimeError("the last word")

    with pytest.raises(RuntimeError):
        work()
    size = (tmp_path / "log.txt").stat().st_size
    assert 4000 < size < 6000
    assert entries(tmp_path)[-1][1].endswith("the last word")
    with logged(tmp_path, begins=False):
        pass  # a worker leaves it where the run writes
    assert not (tmp_path / "log.old.txt").exists()
    with logged(tmp_path):
        note("anew")
    assert (tmp_path / "log.old.txt").stat().st_size == size
    assert entries(tmp_path)[-2:] == [("debug", "anew"), ("debug", "done")]


def test_both_ends_of_a_long_entry_are_kept(tmp_path: Path) -> None:
    with logged(tmp_path):
        note("begin " + "x" * 100_000 + " end")
    text = entries(tmp_path)[2][1]
    assert text.startswith("begin x")
    assert text.endswith("x end")
    assert "83626 characters left out" in text
    assert len(text) < 17_000
