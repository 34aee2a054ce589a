from typing import Any

import pytest
from report_fake_kinds import KINDS

from butwait.evaluation.compare import compare
from butwait.records import Attempt
from butwait.report.collect import Evaluation, evaluations
from butwait.report.lineage import ancestry, describe_model, tell_apart
from butwait.report.verdict import Verdict
from butwait.report.verdict import judge as judge_kinds


def judge(stages: list, rows: list, comparisons: list) -> Verdict:
    return judge_kinds(stages, rows, comparisons, KINDS)


def stage(name: str, kind: str, *inputs: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "from": list(inputs), "status": "complete"} | rest


CHAIN = [
    stage("base", "evaluate"),
    stage("prm", "prm"),
    stage("search", "search", "prm"),
    stage("data", "verified", "search"),
    stage("sft", "sft", "data"),
    stage("after", "evaluate", "sft", "prm"),
]


def row(name: str, method: str = "plain", problem_set: str = "q", **metrics: Any) -> Evaluation:
    basis = {"n": 30, "k": 1, "pass_at_1": 0.3, "interval": [0.2, 0.4], "tokens_per_attempt": 50.0}
    sampler = "particle_filter" if method == "filter" else "independent"
    return Evaluation(name, problem_set, method, basis | metrics, sampler)


def against(a: str, b: str, **fields: Any) -> dict[str, Any]:
    basis = {"delta": 0.4, "interval": [0.3, 0.5], "p": 1e-5, "test": "exact sign-flip"}
    return {"a": a, "b": b} | basis | fields


def test_the_models_are_named_by_what_made_them() -> None:
    records = {s["name"]: s for s in CHAIN}
    assert describe_model("base", records, KINDS) == "the base model"
    assert describe_model("after", records, KINDS) == "SFT on its own verified search"
    assert ancestry("after", records) == "after ← sft + prm ← data ← search"
    records["other"] = stage("other", "evaluate", "grpo")
    records["grpo"] = stage("grpo", "grpo_direct")
    assert describe_model("other", records, KINDS) == "GRPO-Direct (stage grpo)"


def test_a_model_from_external_data_is_named_by_it() -> None:
    stages = [stage("limo", "external"), stage("sft", "sft", "limo"), stage("e", "evaluate", "sft")]
    records = {s["name"]: s for s in stages}
    assert describe_model("e", records, KINDS) == "SFT on solutions that others wrote"


def test_two_stages_with_one_description_are_told_apart() -> None:
    records = {s["name"]: s for s in [*CHAIN, stage("again", "evaluate", "sft")]}
    assert tell_apart("after", "again", records, KINDS) == (
        "SFT on its own verified search (stage after)",
        "SFT on its own verified search (stage again)",
    )


def test_ancestry_ends_in_a_cycle() -> None:
    records = {"a": stage("a", "x", "b"), "b": stage("b", "x", "a")}
    assert ancestry("a", records) == "a ← b"


def test_evidence_reads_as_one_sentence() -> None:
    rows = [row("base"), row("after", pass_at_1=0.7, interval=[0.6, 0.8])]
    verdict = judge(CHAIN, rows, [against("base/q/plain", "after/q/plain")])
    assert verdict.sentence == (
        "SFT on its own verified search solves 70.0 % [60.0, 80.0] of 30 questions at the first "
        "try, the base model 30.0 % [20.0, 40.0]: +40.0 points [30.0, 50.0], exact sign-flip "
        "p < 0.001."
    )
    assert verdict.evidence


def test_a_loss_is_called_worse() -> None:
    rows = [row("base"), row("after", pass_at_1=0.1)]
    verdict = judge(CHAIN, rows, [against("base/q/plain", "after/q/plain", delta=-0.2)])
    assert verdict.sentence.startswith("WORSE: SFT on its own verified search solves 10.0 %")
    assert "-20.0 points" in verdict.sentence


def test_one_more_of_thirty_is_not_evidence() -> None:
    def attempts(correct: int) -> list[Attempt]:
        return [
            Attempt(f"{i}", 0, "", "eos", "1", "correct" if i < correct else "wrong", 5, 0, 5, i)
            for i in range(30)
        ]

    comparison = compare("base/q/plain", attempts(9), "after/q/plain", attempts(10))
    rows = [row("base", pass_at_1=9 / 30), row("after", pass_at_1=10 / 30)]
    verdict = judge(CHAIN, rows, [comparison])
    assert not verdict.evidence
    assert verdict.sentence.startswith("NOT EVIDENCE of a difference: ")
    assert "+3.3 points [-7.4, 13.7], exact sign-flip p = 1.00." in verdict.sentence


def test_a_p_of_exactly_the_level_is_not_evidence() -> None:
    rows = [row("base"), row("after")]
    assert not judge(CHAIN, rows, [against("base/q/plain", "after/q/plain", p=0.05)]).evidence
    assert judge(CHAIN, rows, [against("base/q/plain", "after/q/plain", p=0.049)]).evidence


def test_the_headline_is_fixed_by_design_and_not_by_the_best_p() -> None:
    rows = [
        row("base"),
        row("base", "filter", tokens_per_attempt=800.0, reward_tokens_per_problem=900.0),
        row("after"),
        row("after", "filter", tokens_per_attempt=800.0, reward_tokens_per_problem=900.0),
    ]
    comparisons = [
        against("base/q/plain", "base/q/filter", p=1e-30),
        against("base/q/filter", "after/q/filter", p=1e-20),
        against("base/q/plain", "after/q/plain", p=0.4),
    ]
    for order in (comparisons, comparisons[::-1]):
        verdict = judge(CHAIN, rows, order)
        assert verdict.comparison == comparisons[2]
        assert verdict.sentence.startswith("NOT EVIDENCE")


def test_the_headline_is_on_the_largest_set_whatever_was_measured() -> None:
    """One token more or some answers that could not be graded choose no other set."""
    small, large = {"n": 30, "tokens_per_attempt": 900.0}, {"tokens_per_attempt": 901.0}
    rows = [
        row(name, problem_set=problem_set, **metrics)
        for name in ("base", "after")
        for problem_set, metrics in (
            ("small", small),
            ("large", large | {"n": 490, "excluded": {"problems": ["p"] * 10}}),
            ("other", large | {"n": 495}),
        )
    ]
    comparisons = [
        against(f"base/{s}/plain", f"after/{s}/plain") for s in ("small", "other", "large")
    ]
    assert judge(CHAIN, rows, comparisons).comparison == comparisons[2]


def test_a_comparison_of_methods_names_both() -> None:
    rows = [row("base"), row("base", "filter", pass_at_1=0.5)]
    sentence = judge(CHAIN, rows, [against("base/q/plain", "base/q/filter")]).sentence
    assert sentence.startswith("The base model with filter solves 50.0 %")
    assert "the base model with plain 30.0 %" in sentence


def test_the_compared_rate_stands_where_it_differs_from_the_table() -> None:
    comparison = against("base/q/plain", "after/q/plain", rate_a=0.3, rate_b=0.75)
    rows = [row("base"), row("after", pass_at_1=0.7, interval=[0.6, 0.8])]
    sentence = judge(CHAIN, rows, [comparison]).sentence
    assert "solves 75.0 % of 30 questions" in sentence
    assert "the base model 30.0 % [20.0, 40.0]" in sentence


def test_without_a_comparison_nothing_is_claimed() -> None:
    assert judge(CHAIN, [row("base")], []).sentence == (
        "Nothing is compared in this run: base/plain solves 30.0 % [20.0, 40.0] of 30 questions "
        "of q."
    )
    assert judge([], [], []).sentence.startswith("This run has no evaluation yet")


@pytest.mark.parametrize(
    ("metrics", "needle"),
    [
        ({"status": {"correct": 90, "truncated": 10}}, "10.0 % of the attempts of base/q/plain"),
        ({"status": {"correct": 99, "ungradable": 1}}, "1.00 % of the attempts of base/q/plain"),
        ({"excluded": {"problems": ["a", "b"]}}, "2 more questions of q could not be scored"),
        (
            {"excluded": {"problems": ["a"]}, "set_aside": ["a (q, plain)"]},
            "1 question of q was set aside for base/q/plain (it ended two workers); n leaves it",
        ),
    ],
)
def test_what_weakens_a_number_is_said_beside_the_verdict(
    metrics: dict[str, Any], needle: str
) -> None:
    (caveat,) = judge(CHAIN[:1], [row("base", **metrics)], []).caveats
    assert needle in caveat


def test_questions_that_ended_workers_are_told_from_those_without_a_gold_answer() -> None:
    metrics = {"excluded": {"problems": ["a", "b", "c"]}, "set_aside": ["a (q, plain)", "c (q, x)"]}
    aside, unread = judge(CHAIN[:1], [row("base", **metrics)], []).caveats
    assert aside.startswith("2 questions of q were set aside for base/q/plain (each ended two")
    assert unread.startswith("1 more question of q could not be scored for base/q/plain (no read")


def test_few_truncated_attempts_need_no_caveat() -> None:
    metrics = {"status": {"correct": 96, "truncated": 4}}
    assert judge(CHAIN[:1], [row("base", **metrics)], []).caveats == []


def test_floor_and_unfinished_stages_are_flagged() -> None:
    comparison = against(
        "base/q/plain", "after/q/plain", p=1.0, extreme="floor", rate_a=1 / 30, rate_b=0.0, n=30
    )
    stages = [
        *CHAIN,
        stage("late", "sft", status="running"),
        stage("r", "report", status="running"),
    ]
    caveats = judge(stages, [row("base"), row("after")], [comparison]).caveats
    assert caveats[0] == "Not finished: late. This page shows the rest."
    assert caveats[1].startswith("Floor effect: base/q/plain solves 3.3 % of 30 questions")


def test_evaluations_keep_the_recipes_order_and_know_their_sampler() -> None:
    methods = {"z": {"sampler": {"kind": "particle_filter"}}}
    record = stage("b", "evaluate", settings={"methods": methods})
    record["metrics"] = {"s/z": {"pass_at_1": 0.5}, "s/a": {"pass_at_1": 0.4}}
    rows = evaluations([record, stage("a", "evaluate", metrics={"s/z": {}})], KINDS)
    assert [r.key for r in rows] == ["b/s/z", "b/s/a", "a/s/z"]
    assert [r.plain for r in rows] == [False, True, True]


def test_tokens_of_an_attempt() -> None:
    metrics = {"k": 4, "tokens_per_problem": 200.0, "reward_tokens_per_problem": 400.0}
    evaluation = Evaluation("a", "s", "m", metrics)
    assert evaluation.attempt_tokens == 50.0
    assert evaluation.attempt_reward_tokens == 100.0
    assert Evaluation("a", "s", "m", {}).attempt_tokens == 0.0
