"""``butwait.evaluate`` and its like: a chain of functions is a recipe."""

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import butwait
from butwait.evaluation.compare import compare as compare_attempts
from butwait.problems.grading import Grader
from butwait.records import Problem, UserError
from butwait.search.samplers.samples import IndependentSettings
from butwait.search.settings import SAMPLERS

QUESTION = "Calculate 7 + 8 - 6."
TEST = {"source": "arithmetic", "split": "test", "limit": 3}
TRAIN = {"source": "arithmetic", "split": "search", "limit": 4}
TWO = [
    Problem("1", "Calculate 2 + 3 - 4.", "1", "integer"),
    Problem("2", "Calculate 2 + 9 + 11 - 8 + 7.", "21", "integer", metadata={"level": 3}),
]
OTHER_IDS = [replace(TWO[1], id="1"), replace(TWO[0], id="2")]
"""The same questions; each has the other's id."""


class OwnSettings(IndependentSettings):
    kind: str


OWN = replace(SAMPLERS["independent"], settings=OwnSettings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(runs) -> butwait.Evaluation:
    return butwait.evaluate(TWO, model="tiny", k=2, run_dir=runs / "one")


@pytest.fixture(scope="module")
def other(runs) -> butwait.Evaluation:
    hot = {"temperature": 1.5}
    return butwait.evaluate(OTHER_IDS, k=3, sampling=hot, run_dir=runs / "two", name="hot")


def test_an_evaluation(base):
    attempts = base.attempts()
    assert [row.problem_id for row in attempts] == ["1", "1", "2", "2"]
    assert base.rows == ["questions/plain"]
    assert base.rate == base.metrics["questions/plain"]["pass_at_1"]
    assert base.rate == np.mean([row.status == "correct" for row in attempts])
    assert base.interval[0] <= base.rate <= base.interval[1]
    assert base.cost["policy_tokens"] == sum(row.tokens for row in attempts)
    assert str(base).startswith(f"{base.path}: questions/plain: ")


def test_the_same_call_finds_the_same_stage(base, runs):
    again = butwait.evaluate(TWO, k=2, concurrency=2, run_dir=runs / "one")
    assert again.record == base.record
    assert again.path == base.path


@pytest.mark.slow
def test_other_settings_get_a_number(base, runs):
    more = butwait.evaluate(TWO, k=1, run_dir=base)
    assert (base.name, more.name) == ("evaluate", "evaluate-2")
    assert set(yaml.safe_load(more.recipe)["stages"]) == {"evaluate", "evaluate-2"}
    assert set(yaml.safe_load(more.recipe)["problems"]) == {"questions"}


def test_questions_are_paired_by_their_text(base, other):
    found = butwait.compare(base, other)
    own = {row.problem_id: row for row in other.attempts()}
    swapped = [
        replace(row, problem_id={"1": "2", "2": "1"}[row.problem_id]) for row in other.attempts()
    ]
    wanted = compare_attempts(found.a, base.attempts(), found.b, swapped)
    assert len(own) == 2
    assert found.figures == wanted
    assert (found.a, found.b) == ("evaluate/questions/plain", "hot/questions/plain")
    assert (found.n, found.k) == (2, 2)
    assert found.difference == found.rate_b - found.rate_a
    assert str(found) == wanted["sentence"]


def test_stored_evaluations_are_compared_by_their_folders(base, other):
    row = other.path / "attempts" / "questions" / "plain"
    assert butwait.compare(str(base.path), row) == butwait.compare(base, other)


def test_seeds_are_compared_as_an_arm(base, other):
    found = butwait.compare([base], [other, other])
    assert found.figures["seeds_b"] == 2
    assert found.wins + found.losses <= 2


@pytest.mark.slow
def test_what_cannot_be_compared(base, runs, other):
    fewer = butwait.evaluate(TWO[:1], run_dir=runs / "one")
    with pytest.raises(UserError, match=r"have different questions .1 stand in one of them only"):
        butwait.compare(base, fewer)
    golds = butwait.evaluate([replace(TWO[0], answer="2"), TWO[1]], run_dir=runs / "one")
    with pytest.raises(UserError, match="by different gold answers"):
        butwait.compare(base, golds)
    (other.run / "problems" / "questions.jsonl").unlink()
    with pytest.raises(UserError, match="run that evaluation again"):
        butwait.compare(base, other)
    for wrong in (runs / "nowhere", runs / "one" / "problems"):
        with pytest.raises(UserError, match=r"is no folder of an evaluation|holds no log of an"):
            butwait.compare(base, wrong)


@pytest.mark.slow
def test_a_stage_that_another_has_replaced_says_so(runs):
    first = butwait.evaluate(TWO[:1], k=1, run_dir=runs / "three", name="mine")
    butwait.evaluate(TWO[:1], k=2, run_dir=runs / "three", name="mine")
    with pytest.raises(UserError, match=r"'mine' of .* was computed anew with other settings"):
        first.attempts()


@pytest.mark.slow
def test_methods(runs):
    methods = {"vote": "self_consistency", "filter": {"sampler": "particle_filter", "k": 2}}
    found = butwait.evaluate(TWO[:1], methods=methods, run_dir=runs / "four")
    assert found.rows == ["questions/vote", "questions/filter"]
    assert [len(found.attempts(row)) for row in found.rows] == [1, 2]
    with pytest.raises(UserError, match=r"name a row .there are: questions/vote, questions/filter"):
        found.attempts()
    stage = yaml.safe_load(found.recipe)["stages"]["evaluate"]
    assert stage["reward_model"] == {"kind": "confidence"}
    assert stage["methods"]["filter"]["sampler"]["step"]["delimiters"] == ["\n"]


@pytest.mark.slow
def test_sets_by_name_and_a_loop_that_runs(runs):
    async def both() -> list[butwait.Evaluation]:
        sets = {"easy": TWO[:1], "hard": TWO[1:]}
        asked = butwait.aevaluate(sets, run_dir=runs / "five")
        return await asyncio.gather(asked, butwait.aevaluate(TWO, run_dir=runs / "five"))

    named, pooled = asyncio.run(both())
    assert named.rows == ["easy/plain", "hard/plain"]
    assert pooled.rows == ["questions/plain"]


def evaluate(**options):
    return lambda run: butwait.evaluate(options.pop("problems", TWO), run_dir=run, **options)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (evaluate(modle="tiny"), "evaluate has no argument 'modle'; did you mean model?"),
        (evaluate(clutsers={}), "evaluate has no argument 'clutsers'; did you mean clusters?"),
        (evaluate(k=0), "evaluate: `k` must be greater than 0"),
        (evaluate(method="votes"), "there is no method 'votes'"),
        (evaluate(method="particle_filter", particles=0), "evaluate: `particles` must be"),
        (evaluate(step={"delimeters": []}), "unknown key `step.delimeters`; did you mean"),
        (evaluate(sampling={"top_p": 2}), "evaluate: `sampling.top_p` must be at most 1"),
        (evaluate(methods={"a": {"kk": 1}}), "unknown key `methods.a.kk`"),
        (evaluate(methods=["a"]), "evaluate: methods are a mapping"),
        (evaluate(methods={"a": "independent"}, particles=2), "particles has no meaning beside"),
        (evaluate(prompt="x"), "prompt: settings are a mapping"),
        (evaluate(engine={"kind": "vlm"}), "`engine`: 'vlm' is no kind of engine; did you mean"),
        (evaluate(model="/no/such"), "evaluate: `model.name`: there is no model '/no/such'"),
        (evaluate(model=7), "model: settings are a mapping"),
        (evaluate(problems="no.csv"), "the problem file no.csv does not exist"),
        (evaluate(problems={"sorce": "a.csv"}), "`problems.sorce`; did you mean source?"),
        (evaluate(problems=["What?"]), "'What?' has no gold answer"),
        (evaluate(problems=7), "questions are a list of texts or Problems"),
        (evaluate(verifier=lambda q, a, m: 1.0), "stands in no module that a recipe could name"),
        (evaluate(verifier=3), "verifier: it is module:function or a function, not 3"),
        (evaluate(name="a/b"), "stage name 'a/b' may hold"),
        (evaluate(name=3), "evaluate: name is a text, and this is 3"),
        (evaluate(seed="x"), "evaluate: `seed` must be a whole number"),
        (lambda run: butwait.evaluate(TWO, run_dir=3), "run_dir is a folder or a handle"),
        (lambda run: butwait.build(TWO, "stich"), "builder: there is no 'stich'; did you mean st"),
        (lambda run: butwait.train_sft("data"), "data is what build gave, and this is a str"),
        (
            lambda run: butwait.train_grpo(TWO, stps=2, run_dir=run),
            "train_grpo has no argument 'stps'; did you mean steps?",
        ),
        (lambda run: butwait.train_grpo(TWO, group=1, run_dir=run), "`group` must be at least 2"),
        (lambda run: butwait.train_grpo(TWO, kind="gpo"), "there are: grpo, grpo_direct"),
        (lambda run: butwait.train_prm(TWO, epoch=1, run_dir=run), "did you mean epochs?"),
        (lambda run: butwait.compare(TWO, TWO), "evaluations are what evaluate gave"),
        (lambda run: butwait.compare([], []), "there is no evaluation in an empty list"),
        (lambda run: butwait.search(TWO, name="x"), "give run_dir too"),
        (lambda run: butwait.solve(QUESTION, verifier="no:such"), "verifier: 'no:such' cannot be"),
    ],
)
def test_mistakes_name_the_argument(call, told, tmp_path):
    with pytest.raises(UserError) as mistake:
        call(tmp_path / "run")
    assert told in str(mistake.value)
    assert "\n" not in str(mistake.value)


# Objects.


def raises(question, answer, metadata):
    raise ZeroDivisionError("nothing to divide")


def hangs(question, answer, metadata):
    time.sleep(60)


def dies(question, answer, metadata):
    os._exit(0)


def nonsense(question, answer, metadata):
    return "well done"


@pytest.mark.parametrize(
    ("verifier", "why"),
    [
        (raises, "ZeroDivisionError (nothing to divide)"),
        (hangs, "took longer than 0.3 s"),
        (dies, "ended its process"),
        (nonsense, "a score in [0, 1]"),
    ],
)
def test_a_function_that_gives_no_verdict(verifier, why, monkeypatch):
    monkeypatch.setattr("butwait.problems.judging.LIMIT_S", 0.3)
    with Grader(verifiers={"own": verifier}, workers=1) as grader:
        grade = grader.grade("\\boxed{9}", Problem("", "", "9", verifier="own"))
        (told,) = grader.untold()
        again = grader.grade("\\boxed{9}", Problem("", "", "9"))
    assert (grade.status, grade.answer) == ("ungradable", "9")
    assert why in told
    assert again.correct


def test_a_function_of_a_notebook_judges():
    wanted = "9"  # of a closure, which no other process could import

    def half(question, answer, metadata):
        return 1.0 if answer == wanted else (0.5, "wrong")

    assert butwait.grade("\\boxed{9}", None, verifier=half).correct
    assert butwait.grade("\\boxed{8}", "8", verifier=half).score == 0.5
    found = butwait.solve(QUESTION, particles=4, verifier=half)
    scores = {grade.answer: grade.score for grade in found.tree.grades.values()}
    assert scores == {answer: 1.0 if answer == "9" else 0.5 for answer in scores}
    assert found.correct == (found.answer == "9")
    assert "verifier" not in found.recipe


def test_a_sampler_of_ones_own_is_a_record():
    found = butwait.solve(QUESTION, method=OWN, seed=5)
    plain = butwait.solve(QUESTION, method="independent", seed=5)
    assert found.text == plain.text
    assert ":OWN" in found.recipe
    given = butwait.search([QUESTION], method={"kind": OWN, "samples": 3}, seed=5)
    assert len(given[0].leaves) == 3


@pytest.mark.slow
def test_a_closure_as_a_sampler():
    class Hidden(OwnSettings):
        pass

    assert butwait.solve(QUESTION, method=replace(OWN, settings=Hidden)).tree is not None


# Chains.


@pytest.mark.slow
def test_a_chain_is_a_recipe(tmp_path):
    run = tmp_path / "chain"
    base = butwait.evaluate(TEST, model="tiny", k=2, run_dir=run)
    hunt = butwait.search(TRAIN, particles=8, run_dir=base)
    assert [tree.problem_id for tree in hunt] == hunt.trees.problem_ids
    assert hunt[0].problem_id == hunt.trees.problem_ids[0]
    data = butwait.build(hunt, "verified", per_question=2, subset={"solved_by": hunt})
    assert data.to_arrow().num_rows == len(data) == len(list(data))
    sft = butwait.train_sft(data, epochs=2, warmup_ratio=0)
    after = butwait.evaluate(TEST, model=sft, k=2)
    grpo = butwait.train_grpo(
        TRAIN, model=sft, steps=1, questions=2, group=2, batch_size=4, run_dir=after
    )
    names = ["evaluate", "search", "verified", "sft", "evaluate-2", "grpo"]
    assert list(yaml.safe_load(grpo.recipe)["stages"]) == names
    assert butwait.compare(base, after).n == 3

    (tmp_path / "recipe.yaml").write_text(grpo.recipe)
    records = butwait.run(tmp_path / "recipe.yaml", tmp_path / "fresh")
    for handle in (base, hunt, data, sft, after, grpo):
        assert records[handle.name]["fingerprint"] == handle.record["fingerprint"]
        assert records[handle.name]["metrics"] == handle.metrics
    for file in ("sft/model/model.safetensors", "grpo/model/model.safetensors"):
        assert (tmp_path / "fresh" / file).read_bytes() == (run / file).read_bytes()

    assert butwait.solve(QUESTION, model=grpo, particles=2).tree is not None
    elsewhere = butwait.evaluate(TEST, model=sft, k=2, run_dir=tmp_path / "elsewhere")
    assert yaml.safe_load(elsewhere.recipe)["model"]["name"] == str(sft.folder)
    with pytest.raises(UserError, match="'search' is a stage of the run"):
        butwait.build([hunt, butwait.search(TRAIN, particles=2, run_dir=tmp_path / "other")])
    with pytest.raises(UserError, match="seed is another one than that of 'sft'"):
        butwait.evaluate(TEST, model=sft, seed=4)


@pytest.mark.slow
def test_trees_in_memory_become_the_stage_that_would_have_grown_them(tmp_path):
    exact = {"kind": "transformers", "slots": 16, "prefill_chunk": 16, "deterministic": True}
    trees = butwait.search(TWO, particles=8, engine=exact)
    data = butwait.build(trees, run_dir=tmp_path / "one")
    hunt = butwait.search(TWO, particles=8, engine=exact, run_dir=tmp_path / "two")
    assert data.record["fingerprint"] == butwait.build(hunt).record["fingerprint"]
    shard = "search/trees/shard-00000.parquet"
    assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()
    assert butwait.build(trees, run_dir=tmp_path / "one").record == data.record
    for wrong, told in (
        (trees[:1], "give the whole list"),
        (trees.__class__(trees[:1], trees.content, TWO, []), "not the trees of the whole search"),
        (trees.__class__(trees, trees.content, TWO, ["engine"]), "engine of this search cannot"),
    ):
        with pytest.raises(UserError, match=told):
            butwait.build(wrong, run_dir=tmp_path / "three")


@pytest.mark.slow
def test_a_trained_model_is_not_evaluated_on_what_it_learned_from(tmp_path):
    hunt = butwait.search(TWO, particles=8, run_dir=tmp_path / "run")
    sft = butwait.train_sft(butwait.build(hunt), epochs=1, warmup_ratio=0)
    with pytest.raises(UserError, match=r"search, verified, sft of .* would be computed anew: que"):
        butwait.evaluate([replace(TWO[0], id="another")], model=sft)
    assert json.loads((hunt.path / "stage.json").read_text()) == hunt.record
