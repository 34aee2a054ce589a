"""One generation of ``grpo``: fresh completions of some questions, and what they are worth."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from butwait.engines.engine import Engine
from butwait.problems.grading import Grader
from butwait.records import Key, Problem
from butwait.synthesis.builder import Prompting
from butwait.training.grpo.completions import Completion, sample_group
from butwait.training.grpo.likelihood import LikelihoodRow
from butwait.training.grpo.rewards import reward
from butwait.training.grpo.settings import GrpoSettings
from butwait.training.grpo.solve_rates import SolveRates
from butwait.training.grpo.watch import Habits, figures

MEMORY = 4
"""Generations of a question that its solve rate is taken over, for accuracy by difficulty."""


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """What this device got for its questions.

    Attributes:
        completions: ``group`` of each question, one question after another.
        rewards: of each completion; None where it must move nothing.
        figures: for the log, means over this device.
        logprobs: of each completion's tokens under vLLM, in nats; None where our engine drew them,
            whose probabilities are the trainer's.
        rows: solutions to be learned by their likelihood.
        row_weights: float64 (rows,), see ``likelihood.row_weights``.
        mu: weight of the likelihood term, for this generation.
        learns: whether any device has a likelihood term: then all of them run one.
    """

    completions: list[Completion]
    rewards: list[float | None]
    figures: dict[str, float]
    logprobs: list[list[float]] | None = None
    rows: list[LikelihoodRow] = field(default_factory=list)
    row_weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mu: float = 0.0
    learns: bool = False


@dataclass
class Tally:
    """Counts of the whole training, over all devices. It goes into checkpoints.

    Attributes:
        policy_tokens: sampled from the policy, those of searches included.
        search_tokens: of those, by searches.
        prefilled_tokens: run by the policy without sampling them.
        reward_tokens: run by the reward model.
        searched: questions searched; ``solved``: of those, with a verified path; ``reused``: times
            that a search of an earlier step was used again; ``poor``: searches below the floors;
            ``mixed_policies``: steps whose trees are of two policies after a resume.
    """

    policy_tokens: int = 0
    search_tokens: int = 0
    prefilled_tokens: int = 0
    reward_tokens: int = 0
    searched: int = 0
    solved: int = 0
    reused: int = 0
    poor: int = 0
    mixed_policies: int = 0

    def add(self, other: "Tally") -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Devices(Protocol):
    """How the devices of a training talk to each other."""

    def gathered(self, value: Any) -> list[Any]:
        """The value of every device, in order. All devices must call it."""
        ...


class GroupSampler:
    """Draws the completions of the ``grpo`` stage.

    Args:
        settings: of the stage.
        prompting: of the policy.
        grader: judges completions.
        habits: phrases to look for.
        key: of the completions; they are a function of it, the step, the question and the weights.
        devices: of the training.
    """

    def __init__(
        self,
        settings: GrpoSettings,
        prompting: Prompting,
        grader: Grader,
        habits: Habits,
        key: Key,
        devices: Devices,
    ) -> None:
        self.settings = settings
        self.prompting = prompting
        self.tally = Tally()
        self._grader = grader
        self._habits = habits
        self._key = key
        self._devices = devices
        self._rates = SolveRates(getattr(settings, "memory", MEMORY))

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep, as plain values."""
        return {"tally": vars(self.tally).copy(), "solve_rates": self._rates.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """What ``state`` gave."""
        self.tally = Tally(**state["tally"])
        self._rates.restore(state["solve_rates"])

    def progress(self, step: int) -> float:
        """Share of the training that is done, in [0, 1]."""
        budget = self.settings.token_budget
        spent = 0.0 if budget is None else self.tally.policy_tokens / budget
        return min(max(step / self.settings.steps, spent), 1.0)

    async def draw(self, problems: Sequence[Problem], step: int, engine: Engine) -> Generation:
        """Samples ``group`` completions of each question."""
        groups, tally = await self.fresh(problems, step, engine)
        return self.judged(groups, tally)

    def judged(
        self,
        groups: Sequence[Sequence[Completion]],
        tally: Tally,
        fresh: Sequence[Sequence[Completion]] | None = None,
    ) -> Generation:
        """Groups with their rewards and figures; all devices learn of them.

        Args:
            groups: what is trained on.
            tally: what they cost.
            fresh: the policy's own samples, where the groups hold others: figures and solve rates
                are of these. None: all are.
        """
        own = groups if fresh is None else fresh
        before = {group[0].problem.id: self._rates.rate(group[0].problem.id) for group in own}
        counts = [_counts(group) for group in own]
        for theirs, tallied in self._devices.gathered((counts, tally)):
            self._rates.add(theirs)
            self.tally.add(tallied)
        rows = [completion for group in groups for completion in group]
        limit = self.settings.step.max_tokens
        rewards = [reward(row, self.settings.reward, limit) for row in rows]
        tokens = {
            "tokens/policy": float(self.tally.policy_tokens),
            "tokens/reward_model": float(self.tally.reward_tokens),
        }
        seen = figures(own, before, self._habits) if own else {}
        return Generation(rows, rewards, seen | tokens)

    async def fresh(
        self, problems: Sequence[Problem], step: int, engine: Engine
    ) -> tuple[list[list[Completion]], Tally]:
        """The group of each question, and what they cost."""
        key, eos = self._key.derive("group", step), self.prompting.eos_token_id
        drawn = await asyncio.gather(
            *(
                sample_group(p, engine, self.settings, self._grader, key.derive(p.id), eos)
                for p in problems
            )
        )
        counts = [tree.counts for tree, _ in drawn]
        tally = Tally(
            policy_tokens=sum(c.policy_tokens for c in counts),
            prefilled_tokens=sum(c.prefilled_tokens for c in counts),
        )
        return [group for _, group in drawn], tally


def _counts(group: Sequence[Completion]) -> tuple[str, int, int]:
    """(problem id, correct, graded)."""
    graded = [row.grade for row in group if row.grade.status != "ungradable"]
    return group[0].problem.id, sum(grade.correct for grade in graded), len(graded)
