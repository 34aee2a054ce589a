"""The recipes with reinforcement learning, from end to end, with tiny weights of Phi-4's and
Qwen2.5-Math-PRM's architectures."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_recipes import PLATEAU, QUESTIONS, small_phi

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.running.stages import read_stage
from butwait.search.storage import read_shard
from butwait.stages.kinds import STAGES
from butwait.synthesis.dataset import load_examples

RL_RECIPES = ["phi4_grpo_plateau", "phi4_butwait_grpo_limo", "phi4_grpo_direct_limo", "seed_table"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the recipes share."""
    return tmp_path_factory.mktemp("runs") / "phi4"


def run_small(recipe: str, phi: Path, question_files: Path, run: Path) -> dict[str, Any]:
    return run_recipe(load_recipe(recipe, STAGES, small_phi(recipe, phi, question_files)), run)


@pytest.mark.slow
def test_grpo_with_a_plateau(phi: Path, question_files: Path, run: Path) -> None:
    records = run_small("phi4_grpo_plateau", phi, question_files, run)
    trained = records["grpo"]["metrics"]
    assert trained["questions"] == 2
    assert 4 <= trained["steps"] < PLATEAU["steps"]
    assert trained["stopped"].startswith("the next 4 steps bring")
    looks = [json.loads(line) for line in (run / "grpo/looks.jsonl").read_text().splitlines()]
    assert {(look["n"], look["k"]) for look in looks} == {(2, 2)}
    assert (looks[0]["step"], looks[-1]["step"]) == (0, trained["steps"])
    for name, problems in (("grpo_aime", "aime24"), ("grpo_math", "math500")):
        assert records[name]["metrics"][f"{problems}/sample"]["n"] == 2
    summary = json.loads((run / "summary.json").read_text())
    beside = summary["evaluations"]["base_aime/aime24/sample"]["published"]
    assert (beside["pass_at_1"], beside["pass_at_k"]) == (0.1917, {"8": 0.4333})
    assert "19.17\u202f%, @8 43.33\u202f%" in (run / "report.html").read_text()


@pytest.mark.slow
def test_but_wait_then_grpo(phi: Path, question_files: Path, run: Path) -> None:
    records = run_small("phi4_butwait_grpo_limo", phi, question_files, run)
    taught = load_examples(run / "but_wait/dataset")
    assert {e.problem_id for e in taught} <= set(QUESTIONS["math_train"])
    assert all("But wait," in e.text and e.text.endswith("\\boxed{3}") for e in taught)
    assert records["sft_but_wait"]["metrics"]["examples"] == len(taught) > 0
    assert records["grpo_but_wait"]["from"] == ["sft_but_wait"]
    assert records["grpo_but_wait"]["metrics"]["steps"] < PLATEAU["steps"]
    assert records["but_wait_grpo_aime"]["metrics"]["aime24/sample"]["n"] == 2


@pytest.mark.slow
def test_grpo_direct_and_its_control(phi: Path, question_files: Path, run: Path) -> None:
    records = run_small("phi4_grpo_direct_limo", phi, question_files, run)
    direct, plain = records["grpo_direct"]["metrics"], records["grpo_own_380"]["metrics"]
    assert direct["steps"] == plain["steps"] == 2
    # mu is 0 in the second half, and searching ends with it.
    assert (direct["searched"], plain["searched"]) == (2, 0)
    files = (run / "grpo_direct/searches/00000000").glob("*.parquet")
    searched = {tree.problem_id for file in files for tree in read_shard(file)}
    assert searched == set(QUESTIONS["limo"])
    assert direct["reward_tokens"] > plain["reward_tokens"] == 0
    assert direct["policy_tokens"] > plain["policy_tokens"] > 0


@pytest.mark.slow
def test_the_seed_table_computes_nothing_twice(phi: Path, question_files: Path, run: Path) -> None:
    for recipe in (*RL_RECIPES[:3], "phi4_branches"):
        run_small(recipe, phi, question_files, run)
    names = [folder.name for folder in run.iterdir() if (folder / "stage.json").is_file()]
    alone = {name: read_stage(run / name).record for name in names if name != "report"}
    records = run_small("seed_table", phi, question_files, run)
    assert {name: records[name] for name in alone} == alone
    new = {"sft_limo", "limo_aime", "limo_math"}
    new |= {"grpo_backtrack", "backtrack_grpo_aime", "backtrack_grpo_math"}
    assert set(records) - set(alone) == new | {"report"}
    evaluations = json.loads((run / "summary.json").read_text())["evaluations"]
    arms = [key.removesuffix("_aime/aime24/sample") for key in evaluations if "/aime24/" in key]
    assert set(arms) == {
        "base", "limo", "correct", "backtrack", "own_380", "limo_380", "grpo", "backtrack_grpo",
        "but_wait", "but_wait_grpo", "grpo_direct", "grpo_own_380",
    }  # fmt: skip


def test_the_seed_table_has_the_published_figures() -> None:
    published = load_recipe("seed_table", STAGES).stages["report"].published
    aime = {
        key.removesuffix("_aime/aime24/sample"): (figure.pass_at_1, figure.pass_at_k.get(8))
        for key, figure in published.items()
        if "/aime24/" in key
    }
    assert aime == {
        "base": (0.1917, 0.4333),
        "backtrack": (0.1667, 0.3667),
        "backtrack_grpo": (0.1625, 0.4333),
        "but_wait": (0.1708, 0.3667),
        "but_wait_grpo": (0.2, 0.4667),
        "grpo": (0.1708, 0.2667),
        "limo": (0.32, 0.48),
    }
    # 32 and 48 percent are no shares of 30 questions.
    limo = published["limo_aime/aime24/sample"]
    assert limo.n is None
    assert "25 questions" in limo.note


@pytest.mark.parametrize("recipe", RL_RECIPES)
def test_all_arms_of_rl_share_their_settings(recipe: str) -> None:
    stages = load_recipe(recipe, STAGES).stages
    arms = {name: stage for name, stage in stages.items() if stage.kind in ("grpo", "grpo_direct")}
    assert arms
    for stage in arms.values():
        assert (stage.questions, stage.group, stage.temperature) == (32, 8, 1.0)
        assert stage.learning_rate == pytest.approx(10 * 1e-6)
        assert (stage.loss.preset, stage.loss.beta) == ("dr_grpo", 0.01)
        assert stage.selection.problems == "aime25"
        # A plateau ends the arms that were killed at one; the others end with the same tokens.
        assert (stage.plateau is None) == (stage.token_budget is not None)
    budgets = {stage.token_budget for stage in arms.values()} - {None}
    assert len(budgets) <= 1


@pytest.mark.parametrize("recipe", RL_RECIPES)
def test_limo_keeps_its_questions_whichever_recipe_runs(recipe: str) -> None:
    loaded = load_recipe(recipe, STAGES)
    assert next(loaded.sets_for("training")) == "limo"
    assert set(loaded.sets_for("test")) == {"aime24", "math500"}
