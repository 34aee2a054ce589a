"""The notebook runs as it stands, and holds no outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "first_steps.ipynb"


def cells(kind: str) -> list[dict[str, object]]:
    held = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in held if cell["cell_type"] == kind]


def test_it_is_a_notebook_without_outputs() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
    assert {cell["cell_type"] for cell in content["cells"]} == {"code", "markdown"}
    for cell in cells("code"):
        assert (cell["outputs"], cell["execution_count"], cell["metadata"]) == ([], None, {})
    assert NOTEBOOK.read_bytes().endswith(b"}\n")


@pytest.mark.slow
def test_its_cells_run_in_order(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "notebook"}
    said = []
    for cell in cells("code"):
        source = "".join(cell["source"])  # type: ignore[arg-type]
        exec(compile(source, str(cell["id"]), "exec"), names)
        said.append(capsys.readouterr().out)
    assert names["found"].correct is False  # type: ignore[attr-defined]
    assert names["judged"].correct is True  # type: ignore[attr-defined]
    assert names["solved"] > 16  # type: ignore[operator]
    assert "correct\nwrong\n" in said
    assert "is better" in said[-1]
    assert len(names["steps"]) == len(names["tree"].nodes)  # type: ignore
