"""``docs/extending.md``, as it stands: its files are written and its commands are run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from butwait.running.stages import read_stage

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
FILE = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0])
def test_what_the_page_says_works(section: str, tmp_path: Path) -> None:
    for name, content in FILE.findall(section):
        (tmp_path / name).write_text(content, encoding="utf-8")
    commands = [line for block in COMMANDS.findall(section) for line in block.splitlines()]
    assert commands
    for command in commands:
        assert command.startswith("butwait ")
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for record in tmp_path.glob("runs/*/*/stage.json"):
        stage = read_stage(record.parent)
        assert stage is not None
        assert stage.complete
