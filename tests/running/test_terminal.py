"""What users, models and servers write is shown, and nothing in it is obeyed."""

import ast
import io
from pathlib import Path

import pytest
from rich.table import Table

from butwait.running import progress
from butwait.running.terminal import console, plain, visible

HOSTILE = ["[bold]", "[/]", "[/bold]", "a[link=x]b", ":warning:", "\\[b]", "a\\b"]
CONTROL = {"\x1b[31m": r"\x1b[31m", "\x00\x07\x9b": r"\x00\x07\x9b", "a\r\n\tb": r"a\r\n\tb"}
CONTROL |= {"\u202ex\u2069": r"\u202ex\u2069", "\ud83d": r"\ud83d", "ü😀\u200d": "ü😀\u200d"}


def shown(block: object, **options: object) -> str:
    stream = io.StringIO()
    console(file=stream, width=200).print(block, **options)
    return stream.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_is_text(text: str) -> None:
    assert shown(f"<{plain(text)}>").rstrip("\n") == f"<{text}>"
    table = Table(title=plain(text))
    table.add_column(plain(text))
    table.add_row(plain(text))
    assert shown(table).count(text) == 3


def test_a_backslash_at_the_end_ends_no_markup() -> None:
    drive = plain("C:" + chr(92))
    assert shown(f"[bold]{drive}[/bold] [dim]x[/dim]") == "C:\\ x\n"


@pytest.mark.parametrize(("text", "seen"), CONTROL.items())
def test_control_characters_are_seen(text: str, seen: str) -> None:
    assert visible(text) == seen
    assert shown(plain(text)).rstrip("\n") == seen


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_may_be_called_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    for name in [*HOSTILE, *CONTROL]:
        with progress.task(name, 1) as task:
            task.advance(figure="[/]")
        out = capsys.readouterr().out
        assert visible(name) in out
        assert "\x1b[31m" not in out


def test_nothing_else_prints() -> None:
    """Rich's console is made in one place, so that no name is read as an emoji or as markup."""
    source = Path(progress.__file__).parents[1]
    for file in source.rglob("*.py"):
        if file.name == "terminal.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        called = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not named & {"rich.markup.escape", "rich.print"}, file
        assert "Console" not in called, file
