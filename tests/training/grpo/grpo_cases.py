"""Generations of ``grpo`` and ``grpo_direct`` without a trainer: real searches by a script."""

import asyncio
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from butwait.engines.scripted import ScriptedEngine
from butwait.problems.grading import Grader
from butwait.records import Grade, Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.synthesis.builder import Prompting
from butwait.training.devices import Devices
from butwait.training.grpo.completions import Completion
from butwait.training.grpo.direct import DirectSampler
from butwait.training.grpo.generation import Generation
from butwait.training.grpo.searches import LoopSearch, SearchFolder
from butwait.training.grpo.settings import GrpoDirectSettings

HABITS = {"doubt": re.compile("wait", re.IGNORECASE)}


class NoFolder(SearchFolder):
    """Keeps nothing: every question is searched whenever it is asked for."""

    def __init__(self) -> None:
        pass

    def find(self, problem_id: str, step: int) -> SearchTree | None:
        return None

    def solved_lately(self, problem_id: str, step: int, max_age: int) -> SearchTree | None:
        return None

    def keep(self, tree: SearchTree, step: int) -> None:
        pass

    def note_policy(self, step: int, policy: str) -> bool:
        return False


def prompting(engine: ScriptedEngine) -> Prompting:
    """Of a scripted engine."""
    return Prompting(
        messages=lambda problem: [{"role": "user", "content": problem.question}],
        eos_token_id=engine.tokenizer.eos_token_id,
        tokenizer_fingerprint="scripted",
        prompt_ids=lambda problem: engine.start(problem).token_ids,
        encode=engine.encode,
        decode=engine.tokenizer.decode,
    )


def direct_sampler(
    settings: GrpoDirectSettings,
    engine: ScriptedEngine,
    reward_model: RewardModel | None,
    grader: Grader,
    folder: SearchFolder | None = None,
) -> DirectSampler:
    """The whole of what ``grpo_direct`` does but for the training."""
    shared: dict[str, Any] = {"prompting": prompting(engine), "grader": grader}
    search = LoopSearch(settings, folder=folder or NoFolder(), key=Key.of(0, "search"), **shared)
    guide = SimpleNamespace(at=lambda step, wanted: reward_model, auc=None)
    return DirectSampler(
        settings,
        search=search,
        guide=guide,
        policy=lambda: "the policy",
        habits=HABITS,
        key=Key.of(0, "draw"),
        devices=Devices(1),
        **shared,
    )


def draw(
    sampler: DirectSampler, engine: ScriptedEngine, problems: Sequence[Problem], step: int = 0
) -> Generation:
    """One generation."""
    return asyncio.run(sampler.draw(problems, step, engine))


def completion(
    text: str = "so \\boxed{1}",
    status: str = "correct",
    *,
    length: int = 5,
    finish: str = "box",
    question: str = "?",
    problem_id: str = "q",
    answer: str | None = "1",
    repeated: bool = False,
) -> Completion:
    """A completion of so many sampled tokens; equal texts have equal tokens."""
    ids = np.frombuffer(text.encode().ljust(length), np.uint8)[:length].astype(np.int32)
    return Completion(
        problem=Problem(problem_id, question, "1", "integer"),
        prompt_ids=np.array([1, 2], np.int32),
        token_ids=ids,
        sampled=np.ones(length, bool),
        text=text,
        finish=finish,
        grade=Grade(answer, status),
        repeated=repeated,
    )
