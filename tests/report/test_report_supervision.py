"""Where the signal behind an evaluation came from, by the stages it stands on."""

from typing import Any

import pytest

from butwait.report.collect import Evaluation
from butwait.report.lineage import supervision

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
    assert supervision(Evaluation("after", "test", "m", metrics), records) == said


def test_a_cycle_ends() -> None:
    records = {
        "after": stage("after", "evaluate", "a"),
        "a": stage("a", "sft", "b"),
        "b": stage("b", "external", "a"),
    }
    row = Evaluation("after", "test", "m", {})
    assert supervision(row, records) == "external traces"
