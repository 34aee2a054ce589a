"""One generation of ``grpo``: which questions are asked, and fresh completions of them.

The completions are drawn by butwait's engine, or by TRL: by ``generate()``, or by vLLM.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from butwait.engines.engine import Engine
from butwait.problems.grading import Grader
from butwait.records import Key, Problem, UserError
from butwait.synthesis.builder import Prompting
from butwait.training.devices import Devices
from butwait.training.grpo.completions import Completion, sample_group
from butwait.training.grpo.rewards import Habits, figures, rewards_of
from butwait.training.grpo.settings import GrpoSettings

MEMORY = 4
"""Generations of a question that its solve rate is taken over, for accuracy by difficulty."""

Draws = Callable[[list[list[int]]], tuple[list[list[int]], list[list[float]] | None]]
"""Token ids of a completion for every prompt, and their log-probabilities in nats or None."""


@dataclass(frozen=True, slots=True, eq=False)
class LikelihoodRow:
    """A solution to be learned.

    Attributes:
        problem_id: its question.
        prompt_ids: int32 (p,).
        token_ids: int32 (n,), the completion.
        mask: bool (n,), where the loss is.
    """

    problem_id: str
    prompt_ids: np.ndarray
    token_ids: np.ndarray
    mask: np.ndarray


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
        row_weights: float64 (rows,), see ``direct.row_weights``.
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
            ``too_long``: paths of searches that the reward model's context cut;
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
    too_long: int = 0
    mixed_policies: int = 0

    def add(self, other: "Tally") -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def question_order(questions: int, size: int, generations: int, key: Key) -> np.ndarray:
    """int64 (generations, size): indices of questions.

    They come in passes over all questions, each in a random order of its own. What is left at the
    end of a pass and fills no generation has its chance in the next: no generation asks a question
    twice. The order of the whole training is fixed beforehand, so that a resume goes on in it (the
    order of TRL's sampler begins anew on a resume, whichever pass it is in).

    Args:
        questions: how many there are.
        size: questions of one generation.
        generations: of the whole training.
        key: of the order.

    Raises:
        UserError: there are not enough questions for one generation.
    """
    if questions < size:
        raise UserError(
            f"a generation asks {size} questions and there are {questions} to train on: lower "
            "`questions`, widen `subset`, or give more problems"
        )
    per_pass = questions // size
    passes = [
        key.derive(i).generator().permutation(questions)[: per_pass * size]
        for i in range(-(-generations // per_pass))
    ]
    return np.concatenate(passes).reshape(-1, size)[:generations]


class SolveRates:
    """Correct and graded fresh samples of every question over its latest generations.

    Args:
        memory: generations of a question that count.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._counts: dict[str, deque[Sequence[int]]] = {}

    def add(self, counts: Iterable[tuple[str, int, int]]) -> None:
        """Adds (problem id, correct, graded) of one generation."""
        for problem_id, *row in counts:
            self._counts.setdefault(problem_id, deque(maxlen=self._memory)).append(row)

    def rate(self, problem_id: str, *new: Sequence[int]) -> float | None:
        """Share of correct samples; None where none was graded. ``new``, (correct, graded), counts
        as the latest generation and is not added."""
        rows = [*self._counts.get(problem_id, ()), *new][-self._memory :]
        graded = sum(row[1] for row in rows)
        return sum(row[0] for row in rows) / graded if graded else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain values."""
        return {name: [*rows] for name, rows in self._counts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """What ``state`` gave."""
        self._counts = {name: deque(rows, self._memory) for name, rows in state.items()}


@dataclass(eq=False)
class GroupSampler:
    """Draws the completions of the ``grpo`` stage.

    Attributes:
        settings: of the stage.
        prompting: of the policy.
        grader: judges completions.
        habits: phrases to look for.
        key: of the completions; they are a function of it, the step, the question and the weights.
        devices: of the training.
        tally: of the training so far.
    """

    settings: GrpoSettings
    prompting: Prompting
    grader: Grader
    habits: Habits
    key: Key
    devices: Devices

    def __post_init__(self) -> None:
        self.tally = Tally()
        self._rates = SolveRates(getattr(self.settings, "memory", MEMORY))

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
        counts = [solve_counts(group) for group in own]
        for theirs, tallied in self.devices.gathered((counts, tally)):
            self._rates.add(theirs)
            self.tally.add(tallied)
        rows = [completion for group in groups for completion in group]
        limit = self.settings.step.max_tokens
        rewards, parts = rewards_of(rows, self.settings.reward, limit, self.grader)
        tokens = {
            "tokens/policy": float(self.tally.policy_tokens),
            "tokens/reward_model": float(self.tally.reward_tokens),
        }
        seen = figures(own, before, self.habits) if own else {}
        return Generation(rows, rewards, seen | parts | tokens)

    async def fresh(
        self, problems: Sequence[Problem], step: int, engine: Engine
    ) -> tuple[list[list[Completion]], Tally]:
        """The group of each question, and what they cost."""
        key, eos = self.key.derive("group", step), self.prompting.eos_token_id
        drawn = await asyncio.gather(
            *(
                sample_group(p, engine, self.settings, self.grader, key.derive(p.id), eos)
                for p in problems
            )
        )
        counts = [tree.counts for tree, _ in drawn]
        tally = Tally(
            policy_tokens=sum(c.policy_tokens for c in counts),
            prefilled_tokens=sum(c.prefilled_tokens for c in counts),
        )
        return [group for _, group in drawn], tally


def solve_counts(group: Sequence[Completion]) -> tuple[str, int, int]:
    """(problem id, correct, graded) of a question's completions."""
    graded = [row.grade for row in group if row.grade.status != "ungradable"]
    return group[0].problem.id, sum(grade.correct for grade in graded), len(graded)


@dataclass(eq=False)
class ElsewhereSampler(GroupSampler):
    """Draws groups outside of butwait's engine. Only EOS, or the longest length, ends a completion:
    a closed box does not.

    Attributes:
        draws: the trainer's own way of drawing.
        eos_token_ids: the ids that end a completion.
    """

    draws: Draws
    eos_token_ids: Collection[int]

    async def draw(
        self, problems: Sequence[Problem], step: int, engine: Engine | None
    ) -> Generation:
        size = self.settings.group
        asked = [problem for problem in problems for _ in range(size)]
        prompts = [self.prompting.prompt_ids(problem) for problem in asked]
        ids, logprobs = self.draws([prompt.tolist() for prompt in prompts])
        rows = await asyncio.gather(*map(self._completion, asked, prompts, ids))
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        sampled, prefilled = sum(map(len, ids)), sum(map(len, prompts))
        tally = Tally(policy_tokens=sampled, prefilled_tokens=prefilled)
        return replace(self.judged(groups, tally), logprobs=logprobs)

    async def _completion(
        self, problem: Problem, prompt_ids: np.ndarray, ids: list[int]
    ) -> Completion:
        finish = "eos" if ids[-1] in self.eos_token_ids else "length"
        text = self.prompting.decode(ids)
        grade = await self.grader.agrade(text, problem, finish)
        token_ids, sampled = np.array(ids, np.int32), np.ones(len(ids), bool)
        return Completion(problem, prompt_ids, token_ids, sampled, text, finish, grade)
