"""The problem sets that a run keeps."""

from pathlib import Path

import pytest

from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.report.samples import read_questions
from butwait.running.json_lines import dump_rows
from butwait.stages.kinds import STAGES
from butwait.stages.problem_sets import load_problem_sets, stored_problem_sets


def test_questions_may_hold_any_character(tmp_path: Path) -> None:
    question = "a\u2028b\u2029c\x85d\x1ce\x0bf\x0cg\nh"  # where ``str.splitlines`` breaks a text
    row = {"question": question, "answer": ["1", "2", question]}
    source = tmp_path / "set.jsonl"
    source.write_text(dump_rows([row]), encoding="utf-8")
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "tiny"},
            "problems": {"set": {"source": str(source), "accept_any": True}},
            "stages": {
                "base": {
                    "kind": "evaluate",
                    "problems": ["set"],
                    "methods": {"sample": {"sampler": {"kind": "independent"}}},
                }
            },
        },
        context=STAGES,
    )
    kept = load_problem_sets(recipe, tmp_path / "problems", print)["set"]
    loaded = kept.problems
    assert [problem.question for problem in loaded] == [question]
    assert loaded[0].golds == ("1", "2", question)
    stored = stored_problem_sets(tmp_path / "problems")["set"]
    assert (stored.problems, stored.fingerprint) == (loaded, kept.fingerprint)
    assert read_questions(tmp_path, "set")[loaded[0].id]["question"] == question


TEMPLATE = (
    "{who} has a basket with {n} apples in it, gives half of them away to a friend on the way "
    "home, and then buys {n} more at the market. How many apples does {who} have now?"
)


def made(who: str, count: int, start: int = 1) -> list[dict[str, str]]:
    return [
        {"question": TEMPLATE.format(who=who, n=2 * n), "answer": str(3 * n)}
        for n in range(start, start + count)
    ]


def sets_of(folder: Path, train: list[dict[str, str]], **settings: str) -> list[str]:
    """What is said where sets of templated questions are loaded."""
    sources = {
        "test": made("Ann", 3),
        "other": [{"question": "What is one and one?", "answer": "2"}],
        "train": train,
    }
    for name, rows in sources.items():
        (folder / f"{name}.jsonl").write_text(dump_rows(rows), encoding="utf-8")
    problems = {name: {"source": str(folder / f"{name}.jsonl")} for name in sources}
    problems["train"] |= settings
    sampler = {"kind": "independent"}
    stages = {
        "base": {"kind": "evaluate", "problems": ["test", "other"], "methods": {"a": {}}},
        "search": {"kind": "search", "problems": "train", "sampler": sampler},
    }
    content = {"name": "r", "model": {"name": "tiny"}, "problems": problems, "stages": stages}
    said: list[str] = []
    recipe = Recipe.model_validate(content, context=STAGES)
    load_problem_sets(recipe, folder / "problems", said.append)
    return said


def test_questions_left_out_are_told_by_why_and_by_which_set(tmp_path: Path) -> None:
    plain = {"question": "What is two and two?", "answer": "4"}
    train = [plain, *made("Ann", 1), *made("Bob", 4)]
    assert sets_of(tmp_path, train) == [
        "  train: 5 of 6 questions are left out, 1 because it stands in test too and 4 because "
        "they share long stretches of words with questions of test (`problems.train.overlap: "
        "whole` keeps those)"
    ]
    assert sets_of(tmp_path, train, overlap="whole") == [
        "  train: 1 of 6 questions are left out, 1 because it stands in test too"
    ]


def test_a_set_that_lost_all_to_its_template_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        sets_of(tmp_path, made("Bob", 3))
    assert str(raised.value) == (
        "the problem set 'train' is empty: 3 of 3 questions are left out, 3 because they share "
        "long stretches of words with questions of test (`problems.train.overlap: whole` keeps "
        "those); give it another source, split or limit"
    )
    assert sets_of(tmp_path, made("Bob", 3), overlap="whole") == []
    with pytest.raises(UserError, match="2 because they stand in test too; give it another source"):
        sets_of(tmp_path, made("Ann", 2))
