"""Pages of the documents as programs: what a page tells its reader to type is done as it stands.

On a page

- a fence under a line that holds a file's name in backquotes and a colon is that file;
- ``sh`` is typed at a terminal, a command a line; ``sh exit=2`` ends so;
- ``python`` without a name is run, with the names of the blocks before it;
- ``text`` is what was said before it on the page, each of its lines; numbers may be others.
"""

import re
import shlex
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:^`(?P<file>[\w./-]+)`:\n\n)?^```(?P<kind>\w+)(?: exit=(?P<code>\d))?\n(?P<body>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Block:
    """Attributes:
    file: the name above it, or None.
    kind: of its fence: ``sh``, ``python``, ``text``, ``yaml``, ...
    code: how its commands end.
    body: its text.
    """

    file: str | None
    kind: str
    code: int
    body: str


def blocks(page: str | Path) -> Iterator[Block]:
    """What stands in fences on a page of this project, in order."""
    for found in FENCE.finditer((ROOT / page).read_text(encoding="utf-8")):
        yield Block(found["file"], found["kind"], int(found["code"] or 0), found["body"])


def write_files(page: str | Path, folder: Path) -> None:
    """The files of a page."""
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.body, encoding="utf-8")


def do(
    page: str | Path,
    folder: Path,
    command: Callable[..., tuple[int, str, str]],
    capsys: pytest.CaptureFixture[str] | None = None,
    kinds: Collection[str] = ("sh", "python", "text"),
    python: Callable[[str], str] | None = None,
) -> str:
    """Does what a page says, in a folder that is the current one; the fences of these kinds.
    ``python`` runs a block elsewhere; without it that is here, heard by ``capsys``. Returns what
    was said."""
    said, names = "", {"__name__": "page"}
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.body, encoding="utf-8")
        elif block.kind not in kinds:
            continue
        elif block.kind == "sh":
            for line in block.body.splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "butwait", f"{page}: {line}"
                code, out, err = command(*words)
                assert code == block.code, f"{page}: {line}\n{out}{err}"
                said += out + err
        elif block.kind == "python" and python is not None:
            said += python(block.body)
        elif block.kind == "python":
            exec(compile(block.body, str(page), "exec"), names)
            said += capsys.readouterr().out
        elif block.kind == "text":
            for line in block.body.splitlines():
                assert masked(line) in masked(said), f"{page}: {line!r} is not in\n{said}"
    return said


def masked(text: str) -> str:
    """Without what differs from machine to machine: numbers, and how lines are broken."""
    return " ".join(NUMBER.sub("0", text).split())
