"""Where the signal behind an evaluation came from, by the stages it stands on."""

from typing import Any

import pytest
from report_fake_kinds import KINDS

from butwait.report.collect import Evaluation
from butwait.report.lineage import supervision_of, supervision_of_evaluation

PUBLIC = {"reward_model": {"kind": "qwen_math_prm"}}
OWN = {"reward_model": {"kind": "confidence"}}
BOTH = {"reward_model": {"kind": "ensemble", "members": [OWN["reward_model"], *PUBLIC.values()]}}


def stage(name: str, kind: str, *inputs: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "from": list(inputs), "settings": settings}


STAGES = [
    stage("prm", "prm"),
    stage("limo", "external"),
    stage("search", "search", "prm"),
    stage("public_search", "search", **PUBLIC),
    stage("data", "verified", "search"),
    stage("public_data", "backtrack", "public_search"),
    stage("limo_solved", "external", "public_search"),
    stage("sft", "sft", "data"),
    stage("public_sft", "sft", "public_data"),
    stage("limo_sft", "sft", "limo"),
    stage("solved_sft", "sft", "limo_solved"),
    stage("rl", "grpo"),
    stage("rl_on_limo", "grpo", "limo_sft"),
    stage("direct", "grpo_direct", "prm"),
    stage("direct_public", "grpo_direct", **PUBLIC),
    stage("direct_own", "grpo_direct", "sft", **OWN),
    stage("direct_both", "grpo_direct", **BOTH),
    stage("direct_null", "grpo_direct", reward_model=None),
    stage("limo_prm", "prm", "limo_sft"),
]


@pytest.mark.parametrize(
    ("inputs", "settings", "reward_tokens", "said"),
    [
        ([], {}, 0, "none"),
        (["prm"], {}, 0, "none"),  # its reward model takes no part in plain sampling
        (["prm"], {}, 90, "self"),
        (["limo_prm"], {}, 90, "external traces"),
        ([], PUBLIC, 90, "external reward"),
        ([], OWN, 90, "self"),
        (["sft"], {}, 0, "self"),
        (["sft"], PUBLIC, 0, "self"),
        (["sft"], PUBLIC, 90, "external reward"),
        (["public_sft"], {}, 0, "external reward"),
        (["limo_sft"], {}, 0, "external traces"),
        (["limo_sft"], PUBLIC, 90, "external reward, external traces"),
        (["solved_sft"], {}, 0, "external reward, external traces"),
        (["rl"], {}, 0, "self"),
        (["rl_on_limo"], {}, 0, "external traces"),
        (["direct"], {}, 0, "self"),
        (["direct_public"], {}, 0, "external reward"),
        (["direct_own"], {}, 0, "self"),
        (["direct_both"], {}, 0, "external reward"),
        (["direct_null"], {}, 0, "self"),
    ],
)
def test_supervision(
    inputs: list[str], settings: dict[str, Any], reward_tokens: int, said: str
) -> None:
    records = {s["name"]: s for s in [*STAGES, stage("after", "evaluate", *inputs, **settings)]}
    metrics = {"k": 1, "reward_tokens_per_problem": reward_tokens}
    row = Evaluation("after", "test", "m", metrics)
    assert supervision_of_evaluation(row, records, KINDS) == said


def test_a_cycle_ends() -> None:
    records = {
        "after": stage("after", "evaluate", "a"),
        "a": stage("a", "sft", "b"),
        "b": stage("b", "external", "a"),
    }
    row = Evaluation("after", "test", "m", {})
    assert supervision_of_evaluation(row, records, KINDS) == "external traces"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("limo", "external traces"),
        ("data", "self"),
        ("search", "self"),
        ("public_data", "external reward"),
        ("limo_solved", "external reward, external traces"),
        ("own_search", "self"),
        ("data_of_limo", "external traces"),
        ("direct_both", "external reward"),
    ],
)
def test_supervision_of_a_stage_is_that_of_all_it_stands_on(name: str, said: str) -> None:
    more = [
        stage("own_search", "search", "sft", **OWN),
        stage("search_of_limo", "search", "limo_sft"),
        stage("data_of_limo", "verified", "search_of_limo"),
    ]
    assert supervision_of(name, {s["name"]: s for s in [*STAGES, *more]}, KINDS) == said


def test_a_kind_that_is_not_known_learns_from_itself() -> None:
    records = {"a": stage("a", "own_kind", "limo"), "limo": stage("limo", "external")}
    assert supervision_of("a", records, {}) == "self"
    assert supervision_of("a", records, KINDS) == "external traces"
