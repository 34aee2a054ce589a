"""Builders as records: those that ship, one's own, what they check and prepare."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from synthesis_cases import BOX, KEY, PROMPTING, TreeBuilder, chain, check_example, make_problem

from butwait.records import UserError
from butwait.search.settings import SAMPLERS
from butwait.synthesis.builder import BUILDERS, Material
from butwait.synthesis.builders.backtrack import BacktrackSettings, confirm_branches
from butwait.synthesis.builders.second_thoughts import SecondThoughtsSettings
from butwait.synthesis.builders.verified import VerifiedSettings, build_verified
from butwait.synthesis.pieces import is_rebuilt
from butwait.synthesis.settings import SubsetSettings

OWN = '''
from butwait.synthesis.builder import Builder, Material
from butwait.synthesis.pieces import path_pieces
from butwait.synthesis.questions import by_question
from butwait.synthesis.settings import SolutionsSettings
from butwait.synthesis.solutions import choose, correct_solutions, solved_example


class Settings(SolutionsSettings):
    """Correct solutions that have few steps."""

    kind: str
    steps: int = 1


def build(material):
    return by_question(material, examples)


def examples(material, question):
    pool = correct_solutions(question.trees, material.prompting, question.counts)
    short = [solution for solution in pool if len(solution.nodes) <= material.settings.steps]
    return [
        solved_example(
            material,
            question.problem,
            solution,
            path_pieces("solution", solution.source, solution.nodes, train_phrases=False),
            question.key,
        )
        for solution in choose(short, material.settings, question.key.derive("choose"))
    ]


MINE = Builder(Settings, build, label="short solutions")
'''


def test_those_that_ship() -> None:
    labels = {kind: BUILDERS[kind].label for kind in BUILDERS}
    assert labels == {
        "backtrack": "backtracking traces of its own search",
        "external": "solutions that others wrote",
        "but_wait": "second thoughts forced into its own search",
        "stitch": "stitched attempts of its own search",
        "verified": "its own verified search",
    }
    assert {kind for kind in BUILDERS if BUILDERS[kind].supervision != "self"} == {"external"}
    assert {kind for kind in BUILDERS if not BUILDERS[kind].needs_trees} == {"external"}


def test_a_builder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_builder.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = BUILDERS.parse({"kind": "own_builder:MINE", "steps": 1})
    tree = TreeBuilder("q")
    tree.end(tree.add(0, "Long.\n\n"), BOX[4])
    tree.end(0, "So " + BOX[4])
    stored = tree.stored()
    material = Material([stored], [make_problem("q")], PROMPTING, settings, KEY)
    (example,) = BUILDERS.of(settings).build(material).examples
    sys.modules.pop("own_builder", None)
    assert example.text == "So " + BOX[4]
    assert example.provenance["builder"] == "own_builder:MINE"
    check_example(example, stored)
    with pytest.raises(UserError, match="is a ModelMetaclass and no Builder"):
        BUILDERS["own_builder:Settings"]


def test_what_is_asked_of_the_policy_depends_on_the_settings() -> None:
    record = BUILDERS["backtrack"]
    assert record.prepare(BacktrackSettings()) is None
    assert record.prepare(BacktrackSettings(confirm={})) is confirm_branches
    assert all(
        BUILDERS[kind].prepare(VerifiedSettings()) is None for kind in ("verified", "stitch")
    )


def recipe(sampler: str) -> SimpleNamespace:
    stages = {"hunt": SimpleNamespace(sampler=SAMPLERS.parse({"kind": sampler}))}
    given = {"trees": ["hunt"], "data": []}
    return SimpleNamespace(stages=stages, inputs=lambda name, provides: given[provides])


def test_what_must_hold_between_the_stages() -> None:
    check = BUILDERS["but_wait"].check
    assert list(check(recipe("but_wait"), "thoughts", SecondThoughtsSettings()) or ()) == []
    (found,) = check(recipe("independent"), "thoughts", SecondThoughtsSettings()) or ()
    assert found == (
        ("from",),
        "stage 'thoughts' (but_wait) takes from 'hunt', whose sampler is independent; it needs a "
        "search with sampler.kind: but_wait",
    )
    assert list(SubsetSettings(solved_by="hunt").check(recipe("independent"), "own")) == []
    ((keys, told),) = SubsetSettings(same_questions_as="hunt").check(recipe("independent"), "own")
    assert keys == ("subset", "same_questions_as")
    assert told.endswith("names 'hunt', which is no data stage in its `from`")
    alone = SimpleNamespace(stages={}, inputs=lambda name, provides: [])
    all_of_them = SubsetSettings(solve_rate=(0, 1), solved_by="a", same_questions_as="b")
    assert [keys[1] for keys, _ in all_of_them.check(alone, "own")] == [
        "solved_by", "same_questions_as", "solve_rate",
    ]  # fmt: skip


def test_a_provenance_that_gives_something_else_is_seen() -> None:
    stored = chain("q", ["a" + BOX[4]])
    material = Material([stored], [make_problem("q")], PROMPTING, VerifiedSettings(), KEY)
    (example,) = build_verified(material).examples
    how = make_problem("q"), lambda *place: stored, PROMPTING
    assert is_rebuilt(example, *how)
    example.provenance["pieces"][0]["loss"] = False
    assert not is_rebuilt(example, *how)
    example.provenance.pop("pieces")
    assert is_rebuilt(example, *how)
