"""What the folders of stages of reinforcement learning hold, as far as they were trained, and signs
in them that a reward is gamed: completions of a kind that earns one without solving."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from butwait.report.collect import arm_of
from butwait.report.formats import finite
from butwait.report.kinds import Record
from butwait.running.json_lines import read_log

POLICY = "samples of the policy"
PARTICLES = "particles of searches, not samples of the policy"
RESCUED = "samples of the policy, with solutions of searches in groups that were all wrong"
_DRAWN_FROM = {"expert_iteration": PARTICLES, "pf_group": PARTICLES, "replace": RESCUED}
"""By mode: the completions that its reward and its other figures speak of."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look at held-out questions.

    Attributes:
        step: optimiser steps before it.
        accuracy: pass@1, a fraction.
        interval: its 95 % interval; None where none was recorded.
        n, k: questions, samples of each.
        length: mean tokens of a sample.
        policy_tokens, reward_tokens: of the training until then: sampled from the policy, those of
            searches included, and run by the reward model.
        texts: of the first questions, each with ``problem_id``, ``question``, ``text``, ``status``.
    """

    step: int
    accuracy: float
    interval: tuple[float, float] | None
    n: int
    k: int
    length: float | None
    policy_tokens: float
    reward_tokens: float
    texts: Sequence[Mapping[str, Any]]

    @property
    def all_tokens(self) -> float:
        return self.policy_tokens + self.reward_tokens


@dataclass(frozen=True)
class Training:
    """One stage.

    Attributes:
        record: its ``stage.json``.
        log: a row for every logged optimiser step.
        rows: of ``looks.jsonl``.
        samples: completions over time.
    """

    record: Record
    log: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def arm(self) -> str:
        """The arm whose seed it is; its own name where it stands alone."""
        return arm_of(self.record) or self.name

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.record.get("settings") or {}

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.record.get("metrics") or {}

    @property
    def mode(self) -> str:
        """How searches take part; "" where they do not, as in plain GRPO."""
        return str(self.settings.get("mode") or "")

    @property
    def drawn_from(self) -> str:
        """The completions that its reward is the mean of: ``POLICY``, ``PARTICLES`` or
        ``RESCUED``."""
        return _DRAWN_FROM.get(self.mode, POLICY)

    @property
    def selection_set(self) -> str:
        """The problem set of its looks; "" where it has none."""
        return str((self.settings.get("selection") or {}).get("problems") or "")

    def curve(self, figure: str) -> np.ndarray:
        """A figure of the log: float64 (points, 2), optimiser step and value."""
        points = [(finite(row.get("step")), finite(row.get(figure))) for row in self.log]
        return np.array([p for p in points if None not in p], np.float64).reshape(-1, 2)

    def tokens(self, figure: str, step: int) -> float:
        """A running count of the log after so many optimiser steps; 0 before the first."""
        known = self.curve(figure)
        before = known[known[:, 0] <= step, 1]
        return float(before[-1]) if before.size else 0.0

    @cached_property
    def looks(self) -> list[Look]:
        """In the order of their steps, without rows that lack a step or an accuracy."""
        found = [look for row in self.rows if (look := self._look(row)) is not None]
        return sorted(found, key=lambda look: look.step)

    def _look(self, row: Mapping[str, Any]) -> Look | None:
        step, accuracy = finite(row.get("step")), finite(row.get("accuracy"))
        if step is None or accuracy is None:
            return None
        bounds = [finite(bound) for bound in row.get("interval") or ()]
        whole = len(bounds) == 2 and None not in bounds
        return Look(
            step=int(step),
            accuracy=accuracy,
            interval=(bounds[0], bounds[1]) if whole else None,  # type: ignore[arg-type]
            n=int(finite(row.get("n")) or 0),
            k=int(finite(row.get("k")) or 0),
            length=finite(row.get("length")),
            policy_tokens=self.tokens("tokens/policy", int(step)),
            reward_tokens=self.tokens("tokens/reward_model", int(step)),
            texts=row.get("texts") or (),
        )

    @property
    def kept(self) -> Look | None:
        """The look whose weights are kept: the recorded one, else the first with the highest
        accuracy so far."""
        step = finite(self.metrics.get("best_step"))
        recorded = next((look for look in self.looks if look.step == step), None)
        return recorded or max(self.looks, key=lambda look: look.accuracy, default=None)

    @property
    def steps(self) -> int:
        """Optimiser steps made, as far as they are known."""
        recorded = finite(self.metrics.get("steps"))
        if recorded is not None:
            return int(recorded)
        return int(max((finite(row.get("step")) or 0.0 for row in self.log), default=0.0))

    def count(self, metric: str, figure: str) -> float:
        """Tokens of the whole training: as the stage recorded them, else as the log has them."""
        recorded = finite(self.metrics.get(metric))
        return self.tokens(figure, self.steps) if recorded is None else recorded

    @property
    def policy_tokens(self) -> float:
        """Sampled from the policy, those of searches included."""
        return self.count("policy_tokens", "tokens/policy")

    @property
    def stopped(self) -> str:
        """Why it ended; "" where that is not known."""
        if self.record.get("status") != "complete":
            return "not finished"
        if recorded := self.metrics.get("stopped"):
            return str(recorded)
        most, budget = finite(self.settings.get("steps")), self.settings.get("token_budget")
        if budget and self.policy_tokens >= budget:
            return "token budget spent"
        return "all its steps" if most is not None and self.steps >= most else ""


@dataclass(frozen=True, eq=False, slots=True)
class Arm:
    """Trainings that differ in their seed alone, or a single one.

    Attributes:
        name: of the arm, or of the stage.
        colour: index of its series.
        seeds: the trainings.
    """

    name: str
    colour: int
    seeds: Sequence[Training]

    @property
    def of_policy(self) -> bool:
        """Whether its completions are samples of the policy and nothing else."""
        return self.seeds[0].drawn_from == POLICY


def read_trainings(run: Path, stages: Iterable[Record]) -> list[Training]:
    """Those of the stages that have something to show, in recipe order."""
    found = []
    for record in stages:
        files = (run / record["name"] / f"{name}.jsonl" for name in ("log", "looks", "samples"))
        training = Training(record, *map(read_log, files))
        if training.log or training.rows or training.metrics:
            found.append(training)
    return found


def arms_of(trainings: Iterable[Training], colours: Mapping[str, int]) -> list[Arm]:
    """The arms in order. ``colours`` maps an arm to its series; new ones come after them."""
    members: dict[str, list[Training]] = {}
    for training in trainings:
        members.setdefault(training.arm, []).append(training)
    free = max(colours.values(), default=-1) + 1
    fresh = {name: free + i for i, name in enumerate(n for n in members if n not in colours)}
    return [Arm(name, (fresh | dict(colours))[name], seeds) for name, seeds in members.items()]


SIGNS = {
    "several_boxes": "several boxes",
    "no_reasoning": "answer without reasoning",
    "other_language": "other language",
}
"""``hacks/<name>`` of the log -> in words."""

RISE = 0.01
"""A share that rose by less is not named."""
STANDARD_ERRORS = 2.0
"""Nor one that rose by less than so many standard errors."""

_FEWEST_STEPS = 5
_SHARE = 10


@dataclass(frozen=True, slots=True)
class Ends:
    """A figure at the beginning and at the end of a training.

    Attributes:
        first, last: means over the first and the last ``steps`` logged values.
        steps: a tenth of them, at least five, at most half.
        rises: whether it is higher by ``RISE`` and by ``STANDARD_ERRORS``, the values of the steps
            taken as independent.
    """

    first: float
    last: float
    steps: int
    rises: bool


def ends(training: Training, figure: str) -> Ends | None:
    """None where the log has no such figure."""
    values = training.curve(figure)[:, 1]
    if not values.size:
        return None
    steps = max(1, min(max(_FEWEST_STEPS, values.size // _SHARE), values.size // 2))
    first, last = values[:steps], values[-steps:]
    rise = float(last.mean() - first.mean())
    error = float(np.sqrt(_variance(first) + _variance(last)))
    rises = values.size > 1 and rise >= RISE and rise > STANDARD_ERRORS * error
    return Ends(float(first.mean()), float(last.mean()), steps, rises)


def _variance(values: np.ndarray) -> float:
    """Of the mean; 0 where a single value tells nothing of it."""
    return float(values.var(ddof=1) / values.size) if values.size > 1 else 0.0


def guards(training: Training) -> Mapping[str, Ends]:
    """Of every sign that the log counts."""
    found = {name: ends(training, f"hacks/{name}") for name in SIGNS}
    return {name: seen for name, seen in found.items() if seen is not None}
