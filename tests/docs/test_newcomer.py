"""A newcomer's way: a wheel of this tree, a fresh environment, and the tutorial from top to bottom,
typed in an empty folder."""

import os
import re
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from doc_pages import ROOT, do

PAGE = "docs/tutorial.md"


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
def test_the_tutorial_from_a_wheel(fresh: Path, tmp_path: Path) -> None:
    where = call(fresh / "python", "-c", "import butwait; print(butwait.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(fresh.parent)
    said = do(
        PAGE,
        tmp_path,
        command=lambda *words: (0, call(fresh / "butwait", *words, cwd=tmp_path), ""),
        python=lambda source: call(fresh / "python", "-c", source, cwd=tmp_path),
    )
    first, last = map(float, re.findall(r"test/sample: ([\d.]+)%", said))
    assert first < 40 < 60 < last
