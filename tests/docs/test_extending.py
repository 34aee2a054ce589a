"""``docs/extending.md``, as it stands: its files are written and its commands are run."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from butwait.running.stages import read_stage

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
FILE = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0])
def test_what_the_page_says_works(
    section: str, own_folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    for name, content in FILE.findall(section):
        (own_folder / name).write_text(content, encoding="utf-8")
    commands = [line for block in COMMANDS.findall(section) for line in block.splitlines()]
    assert commands
    for line in commands:
        program, *words = shlex.split(line)
        assert program == "butwait"
        code, _, said = command(*words)
        assert code == 0, said
    for record in own_folder.glob("runs/*/*/stage.json"):
        stage = read_stage(record.parent)
        assert stage is not None
        assert stage.complete
