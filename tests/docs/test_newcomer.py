"""A newcomer's way: a wheel of this tree, a fresh environment, and what comes first on the page on
problems of one's own, typed in an empty folder."""

import os
import shlex
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from zipfile import ZipFile

import pytest
from doc_pages import ROOT, blocks

PAGE = "docs/extending/problems.md"


def call(*words: str | Path, cwd: Path) -> str:
    """What a process says, which must end well. It sees nothing of this tree or environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    typed = [str(word) for word in words]
    done = subprocess.run(typed, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def built_wheel(folder: Path) -> Path:
    """The wheel; by hatchling where it is installed, else by what pip fetches."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, ROOT]
    if find_spec("hatchling"):
        build.append("--no-build-isolation")
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr:
        pytest.skip("what builds the wheel is neither installed nor to be had")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def package_files() -> set[str]:
    """What the wheel holds: all of the package, and the recipes that ship."""
    places = {"butwait": ROOT / "src" / "butwait", "butwait/recipes": ROOT / "recipes"}
    return {
        f"{place}/{file.relative_to(folder).as_posix()}"
        for place, folder in places.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that holds the wheel, and this one's packages behind it."""
    folder = tmp_path_factory.mktemp("fresh")
    wheel = built_wheel(folder)
    with ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert names == package_files()
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    call(sys.executable, *install, cwd=folder)
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(call(python, "-c", asked, cwd=folder).strip())
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python.parent


@pytest.mark.slow
def test_own_questions_from_a_wheel(fresh: Path, tmp_path: Path) -> None:
    where = call(fresh / "python", "-c", "import butwait; print(butwait.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(fresh.parent)
    first = [*takewhile(lambda block: block.file != "german.csv", blocks(PAGE))]
    said = []
    for block in first:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.body, encoding="utf-8")
        elif block.kind == "sh":
            for line in block.body.splitlines():
                program, *words = shlex.split(line)
                said.append(call(fresh / program, *words, cwd=tmp_path))
        elif block.kind == "python":
            said.append(call(fresh / "python", "-c", block.body, cwd=tmp_path))
    csv, recipe = (block for block in first if block.file is not None)
    assert csv.body.count("\n") == 1 + 12
    assert recipe.body.count("\n") <= 6
    checked, ran, trees, read = said
    assert "no mistakes" in checked
    assert "of 12, " in ran
    assert "graded correct" in trees
    assert read.startswith("12 questions\n")
    assert 0 < float(read.splitlines()[-1]) <= 1
