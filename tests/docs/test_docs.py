"""The docs agree with the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_readme_names_every_make_target_and_command() -> None:
    from butwait.cli.main import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in ("quickstart", "test", "check", "bench"):
        assert f"make {target}" in readme
    for command in app.registered_commands:
        name = (command.name or command.callback.__name__).replace("_", "-")
        assert f"butwait {name}" in readme


def test_the_annotated_tree_in_the_readme_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("src/butwait/\n")[2].partition("\nrecipes/")[0]
    named = set(re.findall(r"^  (\w+)/", block, re.MULTILINE))
    folders = {p.name for p in (ROOT / "src" / "butwait").iterdir() if p.is_dir()}
    assert named == folders - {"__pycache__"}


def test_every_documentation_page_is_reachable_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
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
