"""What a search cannot give by its settings is said when the recipe is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from butwait.recipe.load import load_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.search.settings import SAMPLERS
from butwait.stages.kinds import STAGES

STEPS = {"delimiters": ["\n"]}
VOTE = {"kind": "self_consistency", "step": STEPS}
JUDGE = {"kind": "confidence"}


def read(folder: Path, stages: dict[str, Any]) -> Recipe:
    recipe = {
        "model": {"name": "tiny"},
        "problems": {"sums": {"source": "arithmetic", "limit": 4}},
        "stages": stages,
    }
    (folder / "mine.yaml").write_text(json.dumps(recipe))
    return load_recipe(str(folder / "mine.yaml"), STAGES)


def searched(sampler: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "search", "problems": "sums", "sampler": sampler, "reward_model": JUDGE}


ONE_STEP = "'data' (backtrack) takes from 'hunt', whose paths are one step"
ONE_PATH = "takes from 'hunt', whose sampler {} draws one path of a question"
NO_REWARD = "takes from 'hunt', whose sampler {} asks for no rewards"


@pytest.mark.parametrize(
    ("data", "sampler", "told"),
    [
        ({"kind": "backtrack"}, {"kind": "self_consistency"}, ONE_STEP),
        ({"kind": "backtrack"}, {"kind": "independent", "samples": 8}, ONE_STEP),
        ({"kind": "backtrack"}, {"kind": "particle_filter", "step": {"delimiters": []}}, ONE_STEP),
        ({"kind": "backtrack"}, {"kind": "independent", "step": STEPS}, ONE_PATH),
        ({"kind": "backtrack"}, {"kind": "power", "particles": 1}, ONE_PATH),
        ({"kind": "stitch"}, {"kind": "independent"}, ONE_PATH),
        ({"kind": "stitch"}, {"kind": "particle_filter", "particles": 1}, ONE_PATH),
        ({"kind": "stitch"}, {"kind": "beam_search", "beams": 1, "expansions": 1}, ONE_PATH),
        ({"kind": "but_wait"}, {"kind": "power"}, "whose sampler is power; it needs a search"),
        (
            {"kind": "but_wait"},
            {"kind": "but_wait", "rounds": 1, "stable": None},
            "whose paths end with their first thought",
        ),
        *(
            ({"kind": kind, "choose": "reward"}, VOTE, NO_REWARD)
            for kind in ("verified", "stitch", "backtrack")
        ),
        ({"kind": "verified", "choose": "reward"}, {"kind": "power"}, NO_REWARD),
        ({"kind": "but_wait", "choose": "reward"}, {"kind": "but_wait"}, NO_REWARD),
    ],
)  # fmt: skip
def test_data_that_no_tree_could_give(
    tmp_path: Path, data: dict[str, Any], sampler: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, {"hunt": searched(sampler), "data": {"from": ["hunt"], **data}})
    assert told.format(sampler["kind"]) in str(refused.value)


@pytest.mark.parametrize("kind", list(SAMPLERS))
def test_data_that_a_tree_may_give(tmp_path: Path, kind: str) -> None:
    many = {"samples": 4} if "samples" in SAMPLERS[kind].settings.model_fields else {}
    stages = {"hunt": searched({"kind": kind, "step": STEPS, **many})}
    for data in ("verified", "stitch", "backtrack"):
        choose = "reward" if SAMPLERS[kind].needs_reward_model else "random"
        stages[data] = {"kind": data, "from": ["hunt"], "choose": choose}
    assert len(read(tmp_path, stages).stages) == 4


def test_wrong_attempts_may_be_those_of_another_search(tmp_path: Path) -> None:
    once = searched({"kind": "independent"})
    stitch = {"kind": "stitch", "from": ["hunt", "again"]}
    assert read(tmp_path, {"hunt": once, "again": once, "data": stitch})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sampler": {"kind": "self_consistency"}}, "backtrack learns from its own searches"),
        ({"sampler": {"kind": "particle_filter", "particles": 1}}, "draws one path of a question"),
        ({"sampler": VOTE, "backtrack": {"choose": "reward"}}, "self_consistency asks for no rew"),
        ({"backtrack": {"verifier": "mine:right"}}, "backtrack.verifier is for data stages"),
        ({"backtrack": {"loss_tokens": 100}}, "backtrack.loss_tokens is for data stages"),
        ({"backtrack": {"subset": {"length": [0, 0.5]}}}, "backtrack.subset is for data stages"),
        ({}, None),
    ],
)  # fmt: skip
def test_detours_of_a_loop(tmp_path: Path, changed: dict[str, Any], told: str | None) -> None:
    loop = {
        "kind": "grpo_direct",
        "problems": "sums",
        "questions": 2,
        "batch_size": 8,
        "backtrack": {"per_question": 2},
        "reward_model": JUDGE,
    }
    if told is None:
        assert read(tmp_path, {"loop": loop | changed})
        return
    with pytest.raises(UserError) as refused:
        read(tmp_path, {"loop": loop | changed})
    assert told in str(refused.value)
