"""`-q`, `-v`, completion, and what a fault of butwait itself looks like."""

import logging
import os
import re
import warnings
from pathlib import Path

import pytest

from butwait.running import progress
from butwait.running.terminal import loud_from, loudness

RECIPE = """model: {name: tiny}
problems:
  mine: {source: mine.jsonl}
stages:
  report: {kind: report}
"""


@pytest.fixture
def mine(own_folder: Path) -> Path:
    (own_folder / "mine.jsonl").write_text('{"id": 1, "question": "1 + 1?", "answer": "2"}\n')
    (own_folder / "mine.yaml").write_text(RECIPE)
    return own_folder


SAID = "  This run has no evaluation yet: nothing can be said about what its models solve.\n"
END = f"{SAID}The report: runs/mine/report.html\n"


def test_quiet_is_what_comes_out(mine: Path, command) -> None:
    code, out, err = command("run", "mine.yaml")
    assert (code, err) == (0, "")
    assert out == f"mine in runs/mine\n[1/1] report (report)\n{END}"
    for words in (("-q", "run", "mine.yaml"), ("run", "mine.yaml", "--quiet")):
        assert command(*words) == (0, END, "")
    assert command("-q", "check", "mine.yaml")[1] == "mine: 1 stages, no mistakes\n"
    assert loudness() == logging.INFO
    log = (mine / "runs/mine/log.txt").read_text()
    assert log.count(" info: [1/1] report (report)") == 3
    assert log.count(" result: The report: runs/mine/report.html\n") == 3


def test_verbose_adds_figures_on_stderr(mine: Path, command) -> None:
    code, out, err = command("run", "-v", "mine.yaml")
    assert (code, out) == (0, f"mine in runs/mine\n[1/1] report (report)\n{END}")
    assert err.endswith(" s, {}\n")
    assert logging.getLogger().level == logging.WARNING


def test_mistakes_are_never_quiet(mine: Path, command) -> None:
    code, out, err = command("-q", "run", "nothing.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("butwait: there is no recipe 'nothing.yaml'")
    code, out, err = command("run", "mine.yaml", "-v", "-q")
    assert (code, out) == (2, "")
    assert err == "butwait: --verbose and --quiet are opposites; give one of them\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_quiet_too(monkeypatch: pytest.MonkeyPatch, capsys, terminal: bool) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    with loud_from(logging.WARNING), progress.task("work", 2) as work:
        work.advance(2)
        progress.tell("a line")
    assert capsys.readouterr().out == ""


def test_libraries_are_heard_by_loudness(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    other, own = logging.getLogger("some.library"), logging.getLogger("butwait.some")
    with loud_from(logging.DEBUG):
        other.info("loading")
    with loud_from(logging.WARNING):
        assert not other.isEnabledFor(logging.WARNING)
        assert own.isEnabledFor(logging.WARNING)
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
        warnings.warn("old", FutureWarning, stacklevel=1)
    assert "TRANSFORMERS_VERBOSITY" not in os.environ
    assert capsys.readouterr().err == "  some.library: loading\n"
    assert other.isEnabledFor(logging.WARNING)


def test_a_fault_of_butwaits_own_names_the_log(
    mine: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("lost\x1b[31m")

    monkeypatch.setattr("butwait.pipeline.run.publish", fail)
    code, _, err = command("run", "mine.yaml")
    assert code == 1
    assert re.sub(r":\d+\)", ")", err) == (
        "butwait: a fault of butwait itself (KeyError: 'lost\\x1b[31m' at test_loudness.py); "
        "please report it with runs/mine/log.txt, which holds the traceback, at "
        "https://github.com/butwait/butwait/issues (finished work is kept)\n"
    )
    assert "Traceback (most recent call last)" in (mine / "runs/mine/log.txt").read_text()


def test_a_fault_without_a_log_shows_its_traceback(
    own_folder: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("butwait.recipe.shipped.shipped_recipes", fail)
    code, _, err = command("recipes")
    assert code == 1
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].startswith(
        "butwait: a fault of butwait itself (ZeroDivisionError at test_loudness.py:"
    )


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("butwait run qu", ["quickstart"]),
        ("butwait check limo_sft/p", ["limo_sft/phi4"]),
        ("butwait solve --method be", ["beam_search", "best_of_n"]),
        ("butwait solve --model t", ["tiny"]),
        ("butwait run my_own.y", []),
    ],
)  # fmt: skip
def test_the_shell_is_offered(
    words: str, offered: list[str], command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_BUTWAIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert command()[1].split() == offered
