"""The pages whose text is a program, as they stand."""

from collections.abc import Callable
from pathlib import Path

import pytest
from doc_pages import ROOT, blocks, do

EXTENDING = sorted((ROOT / "docs" / "extending").glob("*.md"))
SLOW = ("model", "problems", "reward_model", "verifier")
Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
        for page in EXTENDING
    ],
)
def test_a_page_on_extending_works(
    page: Path, own_folder: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert any(block.kind == "sh" for block in blocks(page))
    do(page, own_folder, command, capsys)


def test_every_page_on_extending_is_in_its_index() -> None:
    index = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert [page.stem for page in EXTENDING if f"](extending/{page.name})" not in index] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/api.md", "docs/from_its_hub.md"])
def test_the_python_of_a_page_runs(
    page: str, own_folder: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    said = do(page, own_folder, command, capsys, kinds=("python",))
    assert said.count("\n") >= 4
