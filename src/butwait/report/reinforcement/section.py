"""The section "Reinforcement learning" of the page, and its part of ``summary.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from butwait.report.collect import Evaluation, Record, evaluations
from butwait.report.lineage import policy_stage
from butwait.report.reinforcement.curves import legend, step_curves
from butwait.report.reinforcement.guards import SIGNS, ends, guards
from butwait.report.reinforcement.held_out import held_out
from butwait.report.reinforcement.runs import Look, Training, arms_of
from butwait.report.reinforcement.table import guard_row, search_row, training_row, warnings
from butwait.report.reinforcement.texts import HABIT, strips


def section(
    trainings: Sequence[Training], stages: Sequence[Record], colours: Mapping[str, int]
) -> dict[str, Any] | None:
    """Data for the template; None where nothing was trained by reinforcement.

    Args:
        trainings: see ``read_trainings``.
        stages: all records of the run.
        colours: evaluate stage or arm -> its series.
    """
    if not trainings:
        return None
    arms = arms_of(trainings, _colours(trainings, stages, colours))
    colour_of = {seed.name: arm.colour for arm in arms for seed in arm.seeds}
    evaluated = _evaluations(stages)
    return {
        "rows": [training_row(t, colour_of[t.name], evaluated.get(t.name)) for t in trainings],
        "looks": max((len(t.looks) for t in trainings), default=0),
        "warnings": warnings(arms),
        "searches": [row for row in map(search_row, trainings) if row is not None],
        "signs": list(SIGNS.values()),
        "guards": [row for row in map(guard_row, trainings) if row is not None],
        "held_out": held_out(arms),
        "curves": step_curves(arms),
        "legend": legend(arms),
        "habit": HABIT,
        "texts": [text for arm in arms if (text := _texts(arm.seeds[0])) is not None],
    }


def _texts(training: Training) -> dict[str, Any] | None:
    """Of an arm the first seed is shown."""
    written = strips(training)
    if not written:
        return None
    same = "the same held-out questions at several looks"
    own = f"completions drawn in training, each of its own question: {training.drawn_from}"
    return {
        "name": training.name,
        "what": same if any(strip.question for strip in written) else own,
        "strips": written,
    }


def _colours(
    trainings: Sequence[Training], stages: Sequence[Record], colours: Mapping[str, int]
) -> dict[str, int]:
    """Arm -> the colour that the page gives to the evaluation of its model, where there is one."""
    records = {stage["name"]: stage for stage in stages}
    arm_of_training = {training.name: training.arm for training in trainings}
    found: dict[str, int] = {}
    for stage in stages:
        evaluated = colours.get((stage.get("settings") or {}).get("arm") or stage["name"])
        trained = policy_stage(stage["name"], records)
        if evaluated is not None and trained is not None and trained["name"] in arm_of_training:
            found.setdefault(arm_of_training[trained["name"]], evaluated)
    return found


def _evaluations(stages: Sequence[Record]) -> dict[str, Evaluation]:
    """Training stage -> the evaluation of its model: plain sampling before a search, on the first
    set."""
    records = {stage["name"]: stage for stage in stages}
    found: dict[str, Evaluation] = {}
    for row in evaluations(stages):
        trained = policy_stage(row.stage, records)
        if trained is None:
            continue
        before = found.get(trained["name"])
        if before is None or (row.set == before.set and row.plain and not before.plain):
            found[trained["name"]] = row
    return found


def facts(trainings: Sequence[Training]) -> dict[str, dict[str, Any]]:
    """Stage -> what ``summary.json`` says of it beside its metrics (``docs/report.md``)."""
    return {training.name: _facts(training) for training in trainings}


def _facts(training: Training) -> dict[str, Any]:
    reward, kept = ends(training, "reward"), training.kept
    return {
        "mode": training.mode or None,
        "stopped": training.stopped or None,
        "kept_step": None if kept is None else kept.step,
        "reward_of": training.drawn_from,
        "reward": None if reward is None else asdict(reward),
        "signs": {name: asdict(seen) for name, seen in guards(training).items()},
        "looks": [_look(look) for look in training.looks],
    }


def _look(look: Look) -> dict[str, Any]:
    return {
        "step": look.step,
        "accuracy": look.accuracy,
        "interval": look.interval,
        "n": look.n,
        "k": look.k,
        "length": look.length,
        "policy_tokens": look.policy_tokens,
        "reward_tokens": look.reward_tokens,
    }
