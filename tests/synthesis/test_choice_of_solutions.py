"""Subsets, equal tokens, diversity, external solutions, phrases."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from synthesis_cases import BOX, EOS, KEY, PROMPTING, TreeBuilder, chain, make_problem, roles

from butwait.problems.grading import Grader
from butwait.records import Problem, UserError
from butwait.search.storage import write_shard
from butwait.synthesis.builder import Built, Material
from butwait.synthesis.builders.external import ExternalSettings, build_external
from butwait.synthesis.builders.stitch import StitchSettings
from butwait.synthesis.builders.verified import VerifiedSettings, build_verified
from butwait.synthesis.dataset import save_examples
from butwait.synthesis.phrases import KINDS, load_phrases
from butwait.synthesis.pieces import rebuild
from butwait.synthesis.settings import FixedNumber, GeometricNumber, SubsetSettings, UniformNumber
from butwait.synthesis.stored import SearchedTrees, allowed_questions

LENGTHS = ["a" * n + BOX[4] for n in (1, 2, 3, 4, 5)]


def verified(names: str = "pqr", allowed=None, **settings) -> Built:
    trees = [chain(name, LENGTHS) for name in names]
    problems = [make_problem(name) for name in names]
    chosen = VerifiedSettings(per_question=5, **settings)
    return build_verified(Material(trees, problems, PROMPTING, chosen, KEY, allowed))


def loss_tokens(built: Built) -> int:
    return sum(int(example.loss_mask.sum()) for example in built.examples)


@pytest.mark.parametrize("wanted", [11, 40, 77, 100, 183])
def test_loss_tokens_come_as_near_as_whole_examples_do(wanted: int) -> None:
    every, few = verified(), verified(loss_tokens=wanted)
    taken = len(few.examples)
    assert [e.text for e in few.examples] == [e.text for e in every.examples[:taken]]
    sums = np.cumsum([int(example.loss_mask.sum()) for example in every.examples])
    assert abs(loss_tokens(few) - wanted) == min(abs(s - wanted) for s in [0, *sums.tolist()])


def test_too_few_loss_tokens_are_an_error() -> None:
    assert loss_tokens(verified()) == 3 * (11 + 12 + 13 + 14 + 15)
    assert loss_tokens(verified(loss_tokens=195)) == 195
    with pytest.raises(UserError, match="loss_tokens: 196 are asked for and the data has 195"):
        verified(loss_tokens=196)


def test_length_quantiles_keep_the_middle() -> None:
    built = verified(subset=SubsetSettings(length=(0.25, 0.75)))
    assert {len(example.completion_ids) for example in built.examples} == {12, 13, 14}
    assert len(built.examples) == 9


def test_questions_outside_of_the_subset_are_counted() -> None:
    built = verified(allowed={"q"})
    assert {example.problem_id for example in built.examples} == {"q"}
    assert built.counts.outside_subset == 2
    everything = {e.text for e in verified().examples if e.problem_id == "q"}
    assert {e.text for e in built.examples} == everything


def test_the_rules_of_a_subset(tmp_path: Path) -> None:
    trees = []
    for name, statuses in {"p": "cc", "q": "cw", "r": "ww", "s": "cu"}.items():
        builder = TreeBuilder(name)
        for i, status in enumerate(statuses):
            full = {"c": "correct", "w": "wrong", "u": "ungradable"}[status]
            builder.end(0, f"{i}{BOX[4]}", full)
        trees.append(builder.stored().tree)
    write_shard(tmp_path / "trees" / "shard-00000.parquet", trees[:3])
    write_shard(tmp_path / "trees" / "shard-00001.parquet", trees[3:])
    stored = SearchedTrees({"hunt": tmp_path / "trees"})
    places = [(s.tree.problem_id, s.stage, s.shard, s.row) for s in stored]
    assert places == [
        ("p", "hunt", "shard-00000.parquet", 0),
        ("q", "hunt", "shard-00000.parquet", 1),
        ("r", "hunt", "shard-00000.parquet", 2),
        ("s", "hunt", "shard-00001.parquet", 0),
    ]
    assert stored.rates() == {"p": 1.0, "q": 0.5, "r": 0.0, "s": 1.0}
    save_examples(tmp_path / "own" / "dataset", verified("ps").examples)
    data = {"own": tmp_path / "own"}

    def allowed(**rules: object) -> set[str] | None:
        return allowed_questions(SubsetSettings(**rules), stored, data)

    assert allowed() is None
    assert allowed(solved_by="hunt") == {"p", "q", "s"}
    assert allowed(solve_rate=(0.0, 0.5)) == {"q", "r"}
    assert allowed(same_questions_as="own") == {"p", "s"}
    assert allowed(same_questions_as="own", solved_by="hunt", solve_rate=(0.5, 1)) == {"p", "s"}
    with pytest.raises(ValidationError, match="first bound must not be above"):
        SubsetSettings(length=(0.9, 0.1))


def test_diverse_takes_the_farthest_from_those_it_has() -> None:
    texts = [f"one two three four {word}\n{BOX[4]}" for word in "abc"]
    other = f"six seven eight nine ten\n{BOX[4]}"
    built = build_verified(
        Material(
            [chain("q", [*texts, other])],
            [make_problem("q")],
            PROMPTING,
            VerifiedSettings(per_question=2, choose="diverse"),
            KEY,
        )
    )
    assert other in [example.text for example in built.examples]


def problem(name: str, solution: str | None) -> Problem:
    return Problem(name, f"What is {name}?", "4", "integer", solution, source="limo")


def external(problems: list[Problem], **settings) -> Built:
    with Grader() as grader:
        return build_external(
            Material([], problems, PROMPTING, ExternalSettings(**settings), KEY, grader=grader)
        )


def test_external_solutions_are_examples_if_their_answer_is_right() -> None:
    right = "2 + 2 = 4.\n" + BOX[4]
    problems = [problem("a", right), problem("b", BOX[5]), problem("c", None), problem("d", "Hm.")]
    built = external(problems)
    (example,) = built.examples
    assert roles(example) == [("solution", right)]
    assert example.completion_ids.tolist() == [*map(ord, right), EOS]
    assert example.prompt_ids.tolist() == [*map(ord, "What is a?")]
    assert example.loss_mask.all()
    assert built.counts.facts == {
        "problems without a solution": 1,
        "solutions whose answer is no answer": 1,
        "solutions whose answer is wrong": 1,
    }
    again = rebuild(example, problems[0], lambda *place: pytest.fail("no tree"), PROMPTING)
    assert again.completion_ids.tolist() == example.completion_ids.tolist()
    assert again.provenance == example.provenance
    assert len(external(problems, verify=False).examples) == 3
    (thought,) = external(problems, format="think").examples
    assert thought.text == f"<think>\n{right}\n</think>\n\n{BOX[4]}"
    several = replace(problem("e", BOX[5]), also=("5",))
    (thought,) = external([several], format="think").examples
    assert thought.text.endswith(f"</think>\n\n{BOX[5]}")
    with pytest.raises(UserError, match="no problem has a solution"):
        external([problem("c", None)])


def test_limo_as_it_is(shared_data: Path) -> None:
    from butwait.problems.settings import Columns, ProblemSetSettings
    from butwait.problems.sources import load_problems

    limo = load_problems(
        ProblemSetSettings(
            source=str(shared_data / "limo.jsonl"), columns=Columns(solution="solution")
        )
    )
    built = external(limo)
    # 40 of the 244 rows have LIMO's own solution; limo-050 ends without an answer in a box.
    assert built.counts.facts["problems without a solution"] == 204
    assert {len(e.spans) for e in built.examples} == {1}
    assert "limo-050" not in {e.problem_id for e in built.examples if "\\boxed" in e.text}
    assert len(built.examples) >= 39


def test_distributions_of_whole_numbers() -> None:
    generator = np.random.default_rng(0)
    assert FixedNumber(value=3).draw(generator) == 3
    uniform = [UniformNumber(kind="uniform", low=2, high=4).draw(generator) for _ in range(300)]
    assert set(uniform) == {2, 3, 4}
    numbers = [GeometricNumber(kind="geometric", mean=2).draw(generator) for _ in range(4000)]
    # The variance is 2: the mean's standard deviation is 0.022.
    assert min(numbers) == 1
    assert abs(np.mean(numbers) - 2) < 0.11
    with pytest.raises(ValidationError, match="must not be below low"):
        UniformNumber(kind="uniform", low=3, high=2)


def test_phrases_ship_and_can_be_replaced(tmp_path: Path) -> None:
    shipped = load_phrases(None)
    assert set(shipped.by_kind) == set(KINDS)
    assert all(len(phrases) >= 4 for phrases in shipped.by_kind.values())
    drawn = {shipped.draw("doubt", KEY.derive(i)) for i in range(200)}
    assert drawn == set(shipped.by_kind["doubt"])
    mine = tmp_path / "mine.yaml"
    mine.write_text('doubt: ["Mais non."]\n')
    assert load_phrases(str(mine)).by_kind == shipped.by_kind | {"doubt": ("Mais non.",)}
    assert load_phrases({"doubt": ["Mais non."]}) == load_phrases(str(mine))
    for content, message in (
        ("- a\n", "must map doubt, return, check"),
        ("joy: [a]\n", "has the kind 'joy'"),
        ("doubt: a\n", "must be a list of texts"),
        ('doubt: [" "]\n', "must be a list of texts"),
        ("doubt: ['\\boxed{1}']\n", "has a box"),
        ("doubt: [\n", "is not YAML"),
        ("doubt: " + "9" * 5_000, "is not YAML"),
        ("doubt: 2024-13-45", "is not YAML"),
        ("[" * 5_000, "is not YAML"),
    ):
        mine.write_text(content)
        with pytest.raises(UserError, match=message):
            load_phrases(str(mine))
    with pytest.raises(UserError, match="cannot be read"):
        load_phrases(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="phrases: doubt in the recipe has a box"):
        StitchSettings(phrases={"doubt": ["\\boxed{1}"]})
