"""What the folders of ``grpo`` and ``grpo_direct`` stages hold, as far as they were trained."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from butwait.report.collect import Record, arm_of, training_log
from butwait.report.formats import finite
from butwait.running.json_lines import read_log

RL_KINDS = frozenset({"grpo", "grpo_direct"})

POLICY = "samples of the policy"
PARTICLES = "particles of searches, not samples of the policy"
RESCUED = "samples of the policy, with solutions of searches in groups that were all wrong"
_DRAWN_FROM = {"expert_iteration": PARTICLES, "pf_group": PARTICLES, "replace": RESCUED}
"""By mode: the completions that its reward and its other figures speak of."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look at held-out questions.

    Attributes:
        step: optimizer steps before it.
        accuracy: pass@1, a fraction.
        interval: its 95 % interval; None where none was recorded.
        n, k: questions, samples of each.
        length: mean tokens of a sample.
        own_tokens: sampled from the policy for the look itself.
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
    own_tokens: float
    policy_tokens: float
    reward_tokens: float
    texts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Training:
    """One stage.

    Attributes:
        record: its ``stage.json``.
        log: a row for every logged optimizer step.
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
        """Of ``grpo_direct``; "" for plain GRPO."""
        return str(self.settings.get("mode") or "") if self.record["kind"] == "grpo_direct" else ""

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
        """A figure of the log: float64 (points, 2), optimizer step and value."""
        points = [(finite(row.get("step")), finite(row.get(figure))) for row in self.log]
        return np.array([p for p in points if None not in p], np.float64).reshape(-1, 2)

    def tokens(self, figure: str, step: int) -> float:
        """A running count of the log after so many optimizer steps; 0 before the first."""
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
            own_tokens=finite(row.get("policy_tokens")) or 0.0,
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
        """Optimizer steps made, as far as they are known."""
        recorded = finite(self.metrics.get("steps"))
        if recorded is not None:
            return int(recorded)
        return int(max((finite(row.get("step")) or 0.0 for row in self.log), default=0.0))

    def count(self, metric: str, figure: str) -> float:
        """Tokens of the whole training: as the stage recorded them, else as the log has them."""
        recorded = finite(self.metrics.get(metric))
        return self.tokens(figure, self.steps) if recorded is None else recorded

    @property
    def stopped(self) -> str:
        """Why it ended; "" where that is not known."""
        if self.record.get("status") != "complete":
            return "not finished"
        if recorded := self.metrics.get("stopped"):
            return str(recorded)
        most, budget = finite(self.settings.get("steps")), self.settings.get("token_budget")
        if budget and self.count("policy_tokens", "tokens/policy") >= budget:
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
    """The stages of reinforcement learning that have something to show, in recipe order."""
    found = []
    for record in stages:
        if record.get("kind") not in RL_KINDS:
            continue
        folder = run / record["name"]
        looks, samples = (read_log(folder / f"{name}.jsonl") for name in ("looks", "samples"))
        training = Training(record, training_log(run, record["name"]), looks, samples)
        if training.log or training.rows or training.metrics:
            found.append(training)
    return found


def arms_of(trainings: Iterable[Training], colours: Mapping[str, int]) -> list[Arm]:
    """The arms in order. ``colours`` maps an arm to its series; new ones come behind them."""
    members: dict[str, list[Training]] = {}
    for training in trainings:
        members.setdefault(training.arm, []).append(training)
    free = max(colours.values(), default=-1) + 1
    fresh = {name: free + i for i, name in enumerate(n for n in members if n not in colours)}
    return [Arm(name, (fresh | dict(colours))[name], seeds) for name, seeds in members.items()]
