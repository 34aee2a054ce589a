"""Every data stage in one recipe, on a policy that is written down."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.records import Grade, Problem, UserError
from butwait.search.storage import read_trees
from butwait.stages.kinds import STAGES
from butwait.synthesis.branches import Confirmation, read_confirmations
from butwait.synthesis.dataset import load_examples
from butwait.synthesis.stored import JudgedTrees, SearchedTrees
from butwait.synthesis.verdicts import judged_again, read_verdicts

PLUGIN = '''
"""A policy that is right or wrong by its first step, may go on for ever, and thinks again."""
from butwait.engines.scripted import ScriptedEngine

PHRASE = " But wait,"
TABLE = {
    "": {"a\\n": 0.6, "b\\n": 0.4},
    "a\\n": {"c\\n": 1.0},
    "a\\nc\\n": {"\\\\boxed{3}": 1.0},
    "b\\n": {"d\\n": 0.5, "e\\n": 0.5},
    "b\\nd\\n": {"\\\\boxed{5}": 1.0},
}

def next_piece(question, text):
    thought = text.split(PHRASE)[-1]
    return {"e\\n": 1.0} if "e" in thought else TABLE[thought]

def policy():
    pieces = {piece for row in TABLE.values() for piece in row} | {PHRASE}
    return ScriptedEngine(next_piece, pieces)

def at_once(question, answer, metadata):
    assert (answer, metadata["gold"]) == ("3", "3"), "it judges correct paths alone"
    return 0.5 if "b\\n" in metadata["response"] else 1
'''

LONG = (
    "A farmer has three fields with seven cows in each of them and sells two cows of every field "
    "to a neighbour who pays forty coins for a cow. How many coins does the farmer get?"
)

RECIPE = """# Every kind of data.
model: {name: none}
engine: {kind: scripted, script: "data_toys:policy"}
problems:
  train: {source: questions.jsonl, columns: {solution: solution}, licence: CC0-1.0}
  test: {source: test.jsonl}
stages:
  base: {kind: evaluate, problems: [test], methods: {sample: {k: 1}}}
  hunt:
    kind: search
    problems: train
    shard_size: 4
    sampler: {kind: independent, samples: 6, step: {delimiters: ["\\n"], max_tokens: 8}}
  again:
    kind: search
    problems: train
    sampler: {kind: but_wait, samples: 6, phrase: " But wait,", rounds: 2, stable: null,
      step: {delimiters: ["\\n"], max_tokens: 20}}
  own: {kind: verified, from: [hunt], per_question: 1}
  stitched: {kind: stitch, from: [hunt], separator: "\\n"}
  back: {kind: backtrack, from: [hunt], separator: "\\n", confirm: {completions: 4}}
  thoughts: {kind: but_wait, from: [again], first: wrong}
  all_ways: {kind: verified, from: [again]}
  at_once: {kind: verified, from: [again], verifier: "data_toys:at_once"}
  of_hard_ones: {kind: verified, from: [again], verifier: "data_toys:at_once",
    subset: {solve_rate: [0, 0.75]}}
  strictly_back: {kind: backtrack, from: [hunt], separator: "\\n", confirm: {completions: 4},
    verifier: "data_toys:at_once"}
  limo: {kind: external, problems: train}
  pairs: {kind: external, problems: train, from: [hunt, own],
    subset: {solved_by: hunt, same_questions_as: own}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "data_toys.py").write_text(PLUGIN)
    questions = [*(f"question {i}" for i in range(9)), LONG.replace("farmer", "peasant")]
    rows = [
        {"id": f"q{i}", "question": question, "answer": "3", "solution": "x = 3\n\\boxed{3}"}
        for i, question in enumerate(questions)
    ]
    write(folder / "questions.jsonl", rows)
    write(folder / "test.jsonl", [{"id": "t", "question": LONG, "answer": "3"}])
    (folder / "mine.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        run_recipe(load_recipe("mine.yaml", STAGES), folder / "run")
    sys.modules.pop("data_toys", None)
    return folder / "run"


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(run: Path, stage: str) -> set[str]:
    return {example.text for example in load_examples(run / stage / "dataset")}


def test_every_builder_writes_its_examples(run: Path) -> None:
    assert texts(run, "own") == {"a\nc\n\\boxed{3}"}
    assert texts(run, "limo") == {"x = 3\n\\boxed{3}"}
    assert texts(run, "thoughts") == {"b\nd\n But wait,a\nc\n\\boxed{3}"}
    assert texts(run, "stitched")
    for text in texts(run, "stitched"):
        mistake, _, rest = text.partition("b\nd\n")
        assert mistake == ""
        assert rest.endswith("\na\nc\n\\boxed{3}")
    assert texts(run, "back")
    assert texts(run, "strictly_back")
    for text in texts(run, "back") | texts(run, "strictly_back"):
        assert text.startswith("b\n")
        assert text.endswith("\na\nc\n\\boxed{3}")


def test_a_verifier_of_a_data_stage_judges_correct_paths_once_more(run: Path) -> None:
    assert len(texts(run, "all_ways")) > 1
    assert texts(run, "at_once") == {t for t in texts(run, "all_ways") if "b\n" not in t}
    refused = sum(
        "b\n" in tree.path_text(leaf)
        for tree in read_trees(run / "again" / "trees")
        for leaf, grade in tree.grades.items()
        if grade.correct
    )
    assert refused > 0
    card = (run / "at_once" / "card.md").read_text()
    assert f"| right answers that the verifier refuses | {refused} |" in card


def test_only_questions_of_the_subset_are_judged_once_more(run: Path) -> None:
    trees = {tree.problem_id: tree for tree in read_trees(run / "again" / "trees")}
    rates = SearchedTrees({"again": run / "again" / "trees"}).rates()
    hard = {i for i, rate in rates.items() if rate <= 0.75}
    assert 0 < len(hard) < len(trees)
    for stage in ("at_once", "of_hard_ones"):
        shards = (run / stage / "verdicts").glob("shard-*.jsonl")
        paths = sum(len(question) for shard in shards for question in read_verdicts(shard))
        right = {i: sum(g.correct for g in tree.grades.values()) for i, tree in trees.items()}
        assert paths == sum(n for i, n in right.items() if stage == "at_once" or i in hard)


class Verifier:
    """A grader that notes what it is asked, and is killed at some question."""

    workers = 2

    def __init__(self, answers: float = float("inf")) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers = answers

    async def agrade(self, text: str, problem: Problem, finish: str) -> Grade:
        assert (problem.verifier, finish) == ("data_toys:at_once", "box")
        if len(self.asked) >= self.answers:
            raise RuntimeError("killed")
        self.asked.append((problem.id, text))
        await asyncio.sleep(0)
        return Grade("3", "wrong" if "b\n" in text else "correct")


def test_what_was_judged_before_a_kill_is_not_asked_again(run: Path, tmp_path: Path) -> None:
    folders = {"again": run / "again" / "trees"}
    problems = [Problem(f"q{i}", f"question {i}", "3") for i in range(9)]

    def judge(folder: str, verifier: Any) -> dict:
        trees, name = SearchedTrees(folders), "data_toys:at_once"
        return asyncio.run(judged_again(trees, problems, name, verifier, tmp_path / folder, 4))

    whole, killed, after = Verifier(), Verifier(answers=10), Verifier()
    verdicts = judge("whole", whole)
    assert len(set(whole.asked)) == len(whole.asked) < len(verdicts)  # equal texts once
    with pytest.raises(RuntimeError, match="killed"):
        judge("killed", killed)
    assert judge("killed", after) == verdicts
    again = {problem_id for problem_id, _ in after.asked}
    finished = {problem_id for problem_id, _ in killed.asked} - again
    assert finished
    assert len({problem_id for problem_id, _ in killed.asked} & again) <= Verifier.workers
    assert set(whole.asked) == set(after.asked) | {a for a in killed.asked if a[0] in finished}
    for shard in (tmp_path / "whole").glob("shard-*"):
        assert shard.read_bytes() == (tmp_path / "killed" / shard.name).read_bytes()
    assert judge("killed", Verifier(answers=0)) == verdicts
    refused = sum(status == "wrong" for status in verdicts.values())
    assert (JudgedTrees(folders, verdicts).refused, refused > 0) == (refused, True)


def test_a_verifier_that_can_judge_nothing_is_asked_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    monkeypatch.syspath_prepend(str(run.parent))
    Path("away.py").write_text("def judge(*case):\n    raise OSError('no server')\n")
    more = '  lost: {kind: verified, from: [again], verifier: "away:judge"}\n'
    Path("lost.yaml").write_text(RECIPE + more)
    with pytest.raises(UserError, match=r"away:judge could judge none of the \d+ right.*no server"):
        run_recipe(load_recipe("lost.yaml", STAGES), run)
    sys.modules.pop("data_toys", None)
    assert not (run / "lost" / "verdicts").exists()


def test_matched_pairs_hold_the_same_questions(run: Path) -> None:
    own, pairs = (
        {e.problem_id for e in load_examples(run / stage / "dataset")} for stage in ("own", "pairs")
    )
    solved = {
        tree.problem_id
        for tree in read_trees(run / "hunt" / "trees")
        if any(grade.correct for grade in tree.grades.values())
    }
    assert own == pairs == solved


def test_no_question_of_an_evaluation_gets_through(run: Path) -> None:
    for stage in ("own", "stitched", "back", "thoughts", "limo", "pairs"):
        assert "q9" not in {e.problem_id for e in load_examples(run / stage / "dataset")}
        card = (run / stage / "card.md").read_text()
        assert "| questions left out for overlap | 13 words: 1 |" in card
        assert "| licence of the source | train: CC0-1.0 |" in card


def test_cards_name_their_supervision(run: Path) -> None:
    assert "| supervision | external traces |" in (run / "limo" / "card.md").read_text()
    assert "| supervision | self |" in (run / "back" / "card.md").read_text()


def test_only_branches_without_a_wrong_answer_are_completed(run: Path) -> None:
    record = json.loads((run / "back" / "stage.json").read_text())
    detours = record["metrics"]["detours"]
    assert detours["wrong_answer"] > 0
    assert detours["completions"] > 0
    assert detours["number"] == detours["wrong_answer"] + detours["completions"]
    trees = {tree.problem_id: tree for tree in read_trees(run / "hunt" / "trees")}
    found: dict[tuple[str, str, int], Confirmation] = {}
    for shard in (run / "back" / "confirmations").glob("shard-*.jsonl"):
        for question in read_confirmations(shard):
            found |= question
    # Four completions of each, of two tokens (d, 5) or to the limit of 8; none can verify.
    for (stage, problem_id, node), got in found.items():
        depth = len(trees[problem_id].path_tokens(node))
        assert stage == "hunt"
        assert (got.completions, got.verified) == (4, 0)
        assert 4 * 2 <= got.policy_tokens <= 4 * (8 - depth)
    assert record["cost"]["policy_tokens"] == sum(got.policy_tokens for got in found.values())


def test_a_data_stage_without_trees_is_a_mistake(run: Path) -> None:
    path = run.parent / "bad.yaml"
    path.write_text(RECIPE.replace("from: [hunt], separator", "separator", 1))
    with pytest.raises(UserError, match="needs a stage that gives trees"):
        load_recipe(str(path), STAGES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("solved_by: hunt", "solved_by: own"), "'own', which is no search stage"),
        (("same_questions_as: own", "same_questions_as: limo"), "'limo', which is no data stage"),
        (("from: [again], first", "from: [hunt], first"), "whose sampler is independent"),
        (("external, problems: train}", "external, problems: train, subset: {solve_rate: [0, 1]}}"),
         "solve_rate needs a search stage"),
        (("data_toys:at_once", "data_toys"), "'data_toys' is not of the form module:function"),
        (("confirm:", "phrases: none.yaml, confirm:"), "there is no file 'none.yaml'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_runs(run: Path, change, message) -> None:
    path = run.parent / "bad.yaml"
    path.write_text(RECIPE.replace(*change))
    with pytest.raises(UserError, match=message):
        load_recipe(str(path), STAGES)
