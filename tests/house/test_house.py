"""The shape of the house: rooms, sizes, no circles, and one home for each kind."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from butwait.engines.load import ENGINES
from butwait.reward_models.load import REWARD_MODELS
from butwait.running.kinds import Kinds
from butwait.search.settings import SAMPLERS
from butwait.stages.kinds import STAGES
from butwait.synthesis.builder import BUILDERS

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted((SOURCE / "butwait").rglob("*.py"))
MOST_LINES, MOST_MODULES = 400, 20


def module(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, modules: set[str]) -> set[str]:
    """The modules of butwait that a file names in any import, those in functions and those for
    types alone included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & modules) or {node.module}
    return (found & modules) - {module(file)}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lines = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in FILES}
    assert {module(f): n for f, n in lines.items() if n > MOST_LINES} == {}


def test_no_folder_holds_more_rooms_than_a_reader_can_name() -> None:
    folders = {file.parent for file in FILES}
    sizes = {f: len([m for m in f.glob("*.py") if m.stem != "__init__"]) for f in folders}
    assert {str(f.relative_to(SOURCE)): n for f, n in sizes.items() if n > MOST_MODULES} == {}


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {module(file) for file in FILES}
    graph = {module(file): imported(file, modules) for file in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    "kinds", [STAGES, SAMPLERS, ENGINES, REWARD_MODELS, BUILDERS], ids=lambda kinds: kinds.what
)
def test_the_name_of_a_kind_stands_in_one_file(kinds: Kinds) -> None:
    """Everything else asks the kind's record. Docstrings may name it."""
    homes: dict[str, set[str]] = {name: set() for name in kinds}
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        held = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        for name in homes.keys() & {value for value in held if isinstance(value, str)}:
            homes[name].add(module(file))
    assert {name: found for name, found in homes.items() if len(found) != 1} == {}
