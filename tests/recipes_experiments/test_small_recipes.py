"""The recipes on sums: what they hold equal, and whole runs with the tiny model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.recipe.shipped import shipped_recipes
from butwait.stages.kinds import STAGES
from butwait.synthesis.dataset import load_examples

SMALL = sorted(name for name in shipped_recipes() if name.startswith("small/"))
ARMS = (
    "limo",
    "correct",
    "backtrack",
    "own_380",
    "limo_380",
    "but_wait",
    "stitch",
    "alone",
    "mixed_stitch",
    "mixed_backtrack",
    "right_steps",
)

RL = {"steps": 2, "questions": 2, "batch_size": 8, "precision": "float32", "generation.slots": 32}
"""A training of the tiny model in a second or two."""
RL_ARMS = {
    "grpo": "grpo_math",
    "grpo_but_wait": "but_wait_grpo_test",
    "grpo_limo": "grpo_limo_test",
    "direct_mixed": "direct_mixed_test",
    "direct_replace": "direct_replace_test",
    "direct_expert": "direct_expert_test",
    "direct_expert_alone": "direct_expert_alone_test",
    "grpo_direct": "grpo_direct_test",
    "grpo_own_380": "grpo_own_380_test",
}
"""Each training, and what it is measured by."""


def tiny(recipe: str, size: int) -> list[str]:
    """Overrides with which the tiny model runs a recipe in seconds; it solves sums by itself."""
    loaded = load_recipe(recipe, STAGES)
    words = [
        "model={name: tiny}",
        "prompt={template: 'Calculate {question}.'}",
        "engine={kind: transformers, slots: 64, prefill_chunk: 16}",
    ]
    for name, asked in loaded.problems.items():
        words.append(f"problems.{name}.params.size={min(size, asked.params['size'])}")
    for name, stage in load_recipe(recipe, STAGES).stages.items():
        plain = name.rpartition("-")[0] or name
        if stage.kind == "sft":
            words += [f"stages.{plain}.max_steps=2", f"stages.{plain}.precision=float32"]
            words.append(f"stages.{plain}.seeds=1")
        if stage.kind == "prm":
            words += [f"stages.{name}.max_steps=4", f"stages.{name}.precision=float32"]
        if getattr(stage, "loss_tokens", None):
            words.append(f"stages.{name}.loss_tokens=40")
        if stage.kind == "evaluate" and "sample" in stage.methods:
            words.append(f"stages.{plain}.methods.sample.k=1")
        if stage.kind in ("grpo", "grpo_direct"):
            words += [f"stages.{plain}.{key}={value}" for key, value in RL.items()]
            if stage.kind == "grpo_direct":
                words.append(f"stages.{plain}.search_below=1")
            if (loaded.stages[name].arm or name) != name:
                words.append(f"stages.{plain}.seeds=1")
    return list(dict.fromkeys(words))


def test_every_recipe_has_its_questions_and_its_prompt_from_one_rung() -> None:
    assert set(SMALL) >= {
        f"small/{name}"
        for name in ("limo_sft", "pf_limo", "backtrack", "correct_only", "limo_380", "table")
    }
    loop = load_recipe("smollm2_sums", STAGES)
    assert {s.params["max_terms"] for s in loop.problems.values()} == {4}
    assert loop.problems["test"].params["size"] == 256
    rung = {"min_terms": 4, "max_terms": 5}
    for name in SMALL:
        recipe = load_recipe(name, STAGES)
        assert (recipe.name, recipe.prompt, recipe.model) == ("small", loop.prompt, loop.model)
        sets = recipe.problems
        for used, split, size in (("limo", "search", 128), ("test", "test", 256)):
            assert sets[used].split == split
            assert sets[used].params == rung | {"digits": 1, "operations": "+", "size": size}
    assert loop.prompt.template.endswith("Question: {question}\n")


def test_the_arms_of_the_table_differ_in_their_data_alone() -> None:
    stages = load_recipe("small/table", STAGES).stages
    trainings = {name: stage for name, stage in stages.items() if stage.kind == "sft"}
    assert set(trainings) == {f"sft_{arm}-{seed}" for arm in ARMS for seed in (1, 2, 3)}
    settings = {
        stage.model_copy(update={"from_": (), "arm": "", "epochs": 0}).model_dump_json()
        for stage in trainings.values()
    }
    assert len(settings) == 1
    # But-wait finds a third of the tokens, and sees them as many times more often.
    epochs = {arm: trainings[f"sft_{arm}-1"].epochs for arm in ARMS}
    assert epochs == dict.fromkeys(ARMS, 4) | {"but_wait": 11}
    tokens = {}
    for arm in ARMS:
        data = trainings[f"sft_{arm}-1"].from_
        tokens[arm] = sum(stages[name].loss_tokens or 0 for name in data)
    all_there_are = ("own_380", "limo_380", "but_wait", "right_steps")
    assert tokens == dict.fromkeys(ARMS, 2400) | dict.fromkeys(all_there_are, 0)
    assert stages["limo_380"].subset.same_questions_as == "own_380"
    evaluated = {
        (
            stage.methods["sample"].k,
            stage.methods["sample"].sampler.step.max_tokens,
            stage.methods["sample"].sampler.sampling.temperature,
        )
        for stage in stages.values()
        if stage.kind == "evaluate"
    }
    assert evaluated == {(2, 144, 0.8)}


def test_right_steps_come_from_the_search_of_the_correct_ones() -> None:
    recipe = load_recipe("small/table", STAGES)
    every, right = (recipe.stages[name] for name in ("correct", "right_steps"))
    assert right.verifier == "butwait.problems.kinds.sums:every_line"
    assert every == right.model_copy(update={"verifier": None, "loss_tokens": 2400})


def test_arms_of_grpo_differ_in_what_they_learn_alone() -> None:
    recipe = load_recipe("small_table", STAGES)
    arms = {n: s for n, s in recipe.stages.items() if s.kind in ("grpo", "grpo_direct")}
    assert {stage.arm or name for name, stage in arms.items()} == set(RL_ARMS)
    assert sorted(n for n in arms if n[-2] == "-") == [
        f"{arm}-{seed}" for arm in ("direct_mixed", "grpo_limo") for seed in (1, 2, 3)
    ]
    assert {stage.questions * stage.group for stage in arms.values()} == {64}
    budgets = {name: stage.token_budget for name, stage in arms.items()}
    assert budgets == dict.fromkeys(arms, 100000) | {"grpo": None}
    assert {name for name, stage in arms.items() if stage.plateau is not None} == {"grpo"}
    same = ("learning_rate", "temperature", "loss", "precision", "lora", "generation", "reward")
    assert len({tuple(str(getattr(stage, n)) for n in same) for stage in arms.values()}) == 1
    lengths = {name: stage.step.max_tokens for name, stage in arms.items()}
    assert lengths == dict.fromkeys(arms, 72) | {"grpo_but_wait": 144}
    rungs = {recipe.problems[stage.problems].params["max_terms"] for stage in arms.values()}
    assert rungs == {4, 5}
    modes = {s.arm or n: s.mode for n, s in arms.items() if s.kind == "grpo_direct"}
    assert modes == {
        "direct_mixed": "mixed",
        "direct_replace": "replace",
        "direct_expert": "expert_iteration",
        "direct_expert_alone": "expert_iteration",
        "grpo_direct": "mixed",
    }
    searched, alone = arms["direct_expert"].sampler, arms["direct_expert_alone"].sampler
    assert (searched.kind, alone.kind) == ("particle_filter", "independent")
    assert searched.particles == alone.samples == 16


@pytest.mark.parametrize("name", ["grpo_plateau", "butwait_grpo_limo", "grpo_direct_limo"])
def test_recipes_of_grpo_have_the_stages_of_the_large_ones(name: str) -> None:
    small, large = (
        {n for n, stage in load_recipe(recipe, STAGES).stages.items() if stage.kind != "evaluate"}
        for recipe in (f"small/{name}", f"phi4_{name}")
    )
    seeded = {n.rpartition("-")[0] for n in small}
    assert large <= small | seeded


def test_the_control_of_the_loop_samples_as_many_paths() -> None:
    stages = load_recipe("smollm2_sums", STAGES).stages
    hunt, alone = stages["hunt"], stages["alone"]
    assert hunt.sampler.particles == alone.sampler.samples == 16
    assert (hunt.problems, hunt.sampler.step, hunt.sampler.sampling) == (
        alone.problems,
        alone.sampler.step,
        alone.sampler.sampling,
    )
    for ours, control in (("verified", "alone_verified"), ("sft-1", "alone_sft")):
        same = {"from_": (), "arm": ""}
        assert stages[ours].model_copy(update=same) == stages[control].model_copy(update=same)


@pytest.mark.slow
def test_the_loop_with_the_tiny_model(tmp_path: Path) -> None:
    # One of several seeds is searched with.
    words = [word.replace("seeds=1", "seeds=2") for word in tiny("smollm2_sums", 16)]
    records = run_recipe(load_recipe("smollm2_sums", STAGES, words), tmp_path)
    assert records["after-2"]["metrics"]["test/sample"]["n"] == 16
    assert records["after_filter"]["metrics"]["test/filter"]["n"] == 16
    assert records["after_alone-1"]["metrics"]["test/sample"]["n"] == 16
    for data in ("verified", "alone_verified"):
        for example in load_examples(tmp_path / data / "dataset"):
            assert example.text.count("\\boxed{") == 1


@pytest.mark.slow
def test_the_table_with_the_tiny_model(tmp_path: Path) -> None:
    # One token is a doubt for the tiny model, which knows no words.
    words = [*tiny("small/table", 24), 'stages.but_wait_search.sampler.phrase="?\\n"']
    records = run_recipe(load_recipe("small/table", STAGES, words), tmp_path)
    for arm in ARMS:
        assert records[f"{arm}_test"]["metrics"]["test/sample"]["n"] == 24
    roles = {
        data: {span.role for e in load_examples(tmp_path / data / "dataset") for span in e.spans}
        for data in ("correct", "stitch", "backtrack")
    }
    assert roles["correct"] == {"solution"}
    assert roles["stitch"] == roles["backtrack"] == {"mistake", "doubt", "recovery"}
    own, theirs = (load_examples(tmp_path / f"{who}_380/dataset") for who in ("own", "limo"))
    assert {e.problem_id for e in own} == {e.problem_id for e in theirs}


def with_what_they_take_from(stages: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """These of a recipe's stages that it has, and what they need."""
    kept = set(wanted) & set(stages)
    while more := {source for name in kept for source in stages[name].from_} - kept:
        kept |= more
    return {name: stage for name, stage in stages.items() if name in kept}


@pytest.mark.slow
def test_the_recipes_of_grpo_with_the_tiny_model(tmp_path: Path) -> None:
    doubt = 'stages.but_wait_search.sampler.phrase="?\\n"'
    wanted = (*RL_ARMS, "grpo_math", "grpo_direct_test")
    records: dict[str, Any] = {}
    for name in ("grpo_plateau", "butwait_grpo_limo", "grpo_direct_limo"):
        words = tiny(f"small/{name}", 8)
        if name == "butwait_grpo_limo":
            words += [doubt, "stages.but_wait.loss_tokens=16"]
        if name != "grpo_plateau":  # of the others, one of several seeds goes on
            words = [w.replace("seeds=1", "seeds=2") if "sft" in w else w for w in words]
        recipe = load_recipe(f"small/{name}", STAGES, words)
        few = with_what_they_take_from(recipe.stages, wanted)
        records |= run_recipe(recipe.model_copy(update={"stages": few}), tmp_path)
    for arm in RL_ARMS:
        trained = records[arm]["metrics"]
        assert trained["steps"] == 2
        assert trained["policy_tokens"] > 0
        if arm != "direct_replace":  # which searches all-wrong groups alone
            assert (trained.get("searched", 0) > 0) == ("direct" in arm)
    assert records["grpo_math"]["metrics"]["math_test/sample"]["n"] == 8
    assert records["grpo_direct_test"]["metrics"]["test/sample"]["n"] == 8
    assert records["grpo_direct"]["from"] == ["sft_own_380-1", "prm"]
    assert records["grpo_but_wait"]["from"] == ["sft_but_wait-1"]
