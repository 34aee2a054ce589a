"""The shape of the house: rooms, sizes, no circles, and one home for each kind."""

import ast
from functools import cache
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


OTHER_THINGS = {
    "butwait.cli.main": {"confidence"},  # an option of `plateau`
    "butwait.cli.evaluations.plan_eval": {"power"},  # of a test
    "butwait.evaluation.planned": {"power"},
    "butwait.cli.plateau": {"confidence"},
    "butwait.pipeline.identity": {"transformers", "vllm"},  # packages
    "butwait.pipeline.run": {"report"},  # what a stage gives
    "butwait.problems.equality.units": {"power"},  # a quantity
    "butwait.profile.findings": {"profile"},  # a page
    "butwait.report.page": {"profile", "report"},
    "butwait.report.collect": {"report"},
    "butwait.report.verdict": {"report"},
    "butwait.reward_models.score_head": {"classifier"},  # a layer of weights
    "butwait.synthesis.branches": {"verified"},  # a count
    "butwait.training.rollouts": {"verified"},
    "butwait.running.log": {"transformers", "vllm"},  # loggers of packages
    "butwait.training.sft": {"sft"},  # a bar's title
    "butwait.training.grpo.settings": {"grpo", "vllm"},  # the loss of a paper, a package
    "butwait.training.grpo.train": {"grpo", "prm", "vllm"},  # a bar's title, a folder, a package
    "butwait.training.grpo.trainer": {"grpo", "prm"},  # a loss, a field
    "butwait.view.training": {"confidence"},  # of the plateau rule
    "butwait": {"evaluate", "search"},  # functions
    # What is taken where a question comes alone.
    "butwait.api.question": {"search", "particle_filter", "confidence", "openai"},
    # The stages that functions stand for.
    "butwait.api.evaluating": {"evaluate", "search"},
    "butwait.api.searching": {"search"},
    "butwait.api.training": {"verified", "sft", "grpo", "prm"},
    "butwait.stages.kinds.grpo": {"backtrack"},  # a setting of GRPO-Direct
}
"""Words that are the name of a kind and stand for something else."""


@cache
def words(file: Path) -> set[str]:
    """The string constants of a file, without the purposes of random numbers (``Key.of``,
    ``key.derive``), which say what is drawn."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    purposes = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("derive", "of")
        for argument in node.args
    }
    held = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in purposes)
    found = {node.value for node in held if isinstance(node.value, str)}
    return found - OTHER_THINGS.get(module(file), set())


@pytest.mark.parametrize(
    "kinds", [STAGES, SAMPLERS, ENGINES, REWARD_MODELS, BUILDERS], ids=lambda kinds: kinds.what
)
def test_the_name_of_a_kind_stands_in_one_file(kinds: Kinds) -> None:
    """Everything else asks the kind's record."""
    homes = {name: [module(file) for file in FILES if name in words(file)] for name in kinds}
    # Forced second thoughts are a sampler and a builder.
    assert {name: f for name, f in homes.items() if len(f) != 1 + (name == "but_wait")} == {}
