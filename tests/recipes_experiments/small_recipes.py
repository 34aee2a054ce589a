"""Overrides that make the recipes small: tiny weights, two questions a set, short answers."""

from pathlib import Path

from butwait.recipe.load import load_recipe
from butwait.stages.kinds import STAGES

# One answer for all questions, so that the smallest model can learn to give it.
QUESTIONS = {
    "limo": ["1 + 2", "2 + 1"],
    "aime24": ["0 + 3", "3 + 0"],
    "math500": ["9 - 6", "8 - 5"],
    "math_train": ["7 - 4", "6 - 3"],
    "aime25": ["5 - 2", "4 - 1"],
}
SYSTEM = "Think."
"""In place of a system message of 700 tokens, to save time."""
RIGHT, WRONG = "Add.\n\n\\boxed{3}", "Sub.\n\n\\boxed{4}"
AGAIN = "\n\nBut wait, add.\n\n\\boxed{3}"
SFT = {
    "epochs": 1,
    "max_steps": 2,
    "batch_size": 2,
    "accumulation_steps": 1,
    "precision": "float32",
}
RL = {
    "steps": 2,
    "questions": 2,
    "group": 4,
    "batch_size": 4,
    "precision": "float32",
    "step.max_tokens": 20,
    "generation.slots": 16,
    "selection.every": 1,
    "selection.samples": 2,
}

# A gain of 5 in 4 steps is out of reach for a reward between 0 and 1, so the rule stops soon.
PLATEAU = {"steps": 30, "plateau.horizon": 4, "plateau.delta": 5, "selection.every": 10}


def solution(question: str) -> str:
    """As others would have written it."""
    return f"{question} = 3.\n\\boxed{{3}}"


def small(recipe: str, model: Path, questions: Path) -> list[str]:
    """Overrides for a recipe without searches; ``questions`` holds a file for each set."""
    loaded = load_recipe(recipe, STAGES)
    words = [
        f"model={{name: {model}, device: cpu}}",
        "engine={kind: transformers, slots: 32}",
        "threads=1",
    ]
    for name in loaded.problems:
        columns = ", columns: {solution: solution}" if name == "limo" else ""
        words.append(f"problems.{name}={{source: {questions / name}.jsonl{columns}}}")
    for name, stage in loaded.stages.items():
        if stage.kind == "evaluate":
            words.append(f"stages.{name}.methods.sample.k=2")
            words.append(f"stages.{name}.methods.sample.sampler.step.max_tokens=20")
        if stage.kind == "sft":
            words += [f"stages.{name}.{key}={value}" for key, value in SFT.items()]
            words.append(f"stages.{name}.lora.four_bit=false")
        if stage.kind in ("grpo", "grpo_direct"):
            words += [f"stages.{name}.{key}={value}" for key, value in RL.items()]
            if stage.plateau is not None:
                words += [f"stages.{name}.{key}={value}" for key, value in PLATEAU.items()]
    return words


def small_phi(recipe: str, phi: Path, questions: Path) -> list[str]:
    """Overrides for the recipes phi4_* and seed_table; ``phi`` is the fixture of that name."""
    words = [*small(recipe, phi / "model", questions), f"prompt.system={SYSTEM}"]
    for name, stage in load_recipe(recipe, STAGES).stages.items():
        sampler = getattr(getattr(stage, "sampler", None), "kind", "")
        if getattr(stage, "reward_model", None) is not None:
            words.append(f"stages.{name}.reward_model.name={phi / 'prm'}")
            words.append(f"stages.{name}.reward_model.dtype=float32")
            words.append(f"stages.{name}.reward_model.device=cpu")
        if sampler == "particle_filter":
            words.append(f"stages.{name}.sampler.particles=8")
            words.append(f"stages.{name}.sampler.max_steps=4")
            words.append(f"stages.{name}.sampler.step.max_step_tokens=24")
            words.append(f"stages.{name}.sampler.step.max_tokens=40")
        if sampler == "but_wait":
            words.append(f"stages.{name}.sampler.samples=8")
            words.append(f"stages.{name}.sampler.step.max_tokens=60")
        if stage.kind == "grpo_direct":
            words.append(f"stages.{name}.search_below=1")
    return words
