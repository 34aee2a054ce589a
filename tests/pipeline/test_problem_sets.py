"""The problem sets that a run keeps."""

from pathlib import Path

from butwait.recipe.recipe import Recipe
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
