"""The docs agree with the code."""

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from butwait.recipe.load import find_recipe, load_recipe
from butwait.stages.kinds import STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_reference_is_what_the_code_says() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_and_command_is_told() -> None:
    from butwait.cli.main import app

    development = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z0-9-]+):.*##", makefile, re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets)
    for target in targets:
        assert f"make {target}`" in development
    pages = "".join(
        page.read_text(encoding="utf-8") for page in PAGES if page.name != "reference.md"
    )
    for command in app.registered_commands:
        name = (command.name or command.callback.__name__).replace("_", "-")
        assert f"butwait {name}" in pages


def test_commands_of_the_readme_are_there() -> None:
    from butwait.cli.main import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert set(re.findall(r"(?:^|`|/)butwait ([a-z-]+)", readme, re.MULTILINE)) <= commands
    named = re.findall(r"(?:^|`)make ([a-z0-9-]+)", readme, re.MULTILINE)
    assert {"quickstart", "test"} <= set(named)
    for target in named:
        assert f"\n{target}:" in makefile
    for name in re.findall(r"butwait run ([\w/.]+)", readme):
        assert name == "mine.yaml" or find_recipe(name)


def test_the_recipe_of_the_readme_has_no_mistakes(own_folder: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (own_folder / "mine.yaml").write_text(block, encoding="utf-8")
    recipe = load_recipe("mine.yaml", STAGES)
    assert list(recipe.stages) == ["base", "hunt", "verified", "sft", "after", "report"]


@pytest.mark.parametrize(
    ("package", "file", "strings"),
    [
        (
            "its_hub",
            "core/algorithms/particle_gibbs.py",
            ["Stopped particles use their final weight", "p.deepcopy()", "ParticleFilteringResult"],
        ),
        ("its_hub", "core/lms/step_generation.py", ['ChatMessage(role="user", content=prompt)']),
        ("trl", "trainer/grpo_trainer.py", ["rollout_func: RolloutFunc", "experimental feature"]),
        ("trl", "rewards/accuracy_rewards.py", ["from math_verify import"]),
    ],
)
def test_what_the_readme_cites_stands_there(package: str, file: str, strings: list[str]) -> None:
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed")
    text = (Path(found.origin).parent / file).read_text(encoding="utf-8")
    assert all(string in text for string in strings)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    name = {"its_hub": "its_hub", "trl": "TRL"}[package]
    assert f"{name} {version(package)}" in readme
    assert file in readme


def test_the_annotated_tree_is_the_tree() -> None:
    page = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    block = page.partition("src/butwait/\n")[2].partition("\nrecipes/")[0]
    named = set(re.findall(r"^  (\w+)/", block, re.MULTILINE))
    folders = {p.name for p in (ROOT / "src" / "butwait").iterdir() if p.is_dir()}
    assert named == folders - {"__pycache__"}


def test_every_documentation_page_is_reachable_from_the_door() -> None:
    """By links, from the site's first page or the README."""
    reached: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md", ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                waiting.append((page.parent / target).resolve())
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_headings_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            found = anchors(page.parent / target if target else page)
            assert anchor in found, f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """What can be linked to on a page: its headings, as GitHub names them, and its anchors."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    named = {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}
    return named | set(re.findall(r'<a id="([^"]+)"', text))
