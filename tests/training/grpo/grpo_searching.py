"""Questions that are written down: a policy, its searches, and settings for them."""

import asyncio
from typing import Any

from butwait.engines.scripted import ScriptedEngine
from butwait.problems.grading import Grader
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.synthesis.solutions import grade_paths
from butwait.training.grpo.settings import GrpoDirectSettings

EOS = "<eos>"
EASY = Problem("easy", "easy", "1", "integer")
HARD = Problem("hard", "hard", "1", "integer")
NEVER = Problem("never", "never", "1", "integer")
KEY = Key.of(0, "test")


def policy(question: str, text: str) -> dict[str, float]:
    """Two steps: a letter, then an answer. ``easy`` is nearly always right, ``hard`` seldom,
    ``never`` never; one path in ten ends at EOS."""
    right = {"easy": 0.95, "hard": 0.05, "never": 0.0}[question]
    if not text:
        return {"a\n": 0.5, "b\n": 0.3, "c\n": 0.2}
    if text.endswith("}."):
        return {EOS: 1.0}
    shares = {"\\boxed{1}": 0.9 * right, "\\boxed{2}": 0.9 * (1 - right), "\\boxed{1}.": 0.0}
    return {piece: p for piece, p in (shares | {EOS: 0.1}).items() if p}


PIECES = ["a\n", "b\n", "c\n", "\\boxed{1}", "\\boxed{2}"]


def scripted(logits: dict[str, float] | None = None) -> ScriptedRewardModel:
    """A reward by the last step's text; 0 where nothing is said."""
    return ScriptedRewardModel(lambda problem, steps: (logits or {}).get(steps[-1].text, 0.0))


def settings(**changes: Any) -> GrpoDirectSettings:
    values: dict[str, Any] = {
        "questions": 2,
        "group": 4,
        "batch_size": 4,
        "steps": 10,
        "step": {"delimiters": (), "max_tokens": 8},
        "sampler": {
            "kind": "particle_filter",
            "particles": 16,
            "step": {"delimiters": ("\n",), "max_tokens": 8},
        },
    }
    return GrpoDirectSettings.model_validate(values | changes)


def searched(
    engine: ScriptedEngine,
    problem: Problem,
    grader: Grader,
    n: int = 16,
    guide: ScriptedRewardModel | None = None,
) -> SearchTree:
    """A graded search."""

    async def search() -> SearchTree:
        sampler = ParticleFilterSettings.model_validate(
            settings().sampler.model_dump() | {"particles": n}
        )
        tree = await run_sampler(problem, engine, guide or scripted(), sampler, KEY)
        tree.grades.update(await grade_paths(tree, problem, grader))
        return tree

    return asyncio.run(search())
