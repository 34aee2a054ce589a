"""The section "Reinforcement learning" of the page, and its part of ``summary.json``."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from butwait.report import formats
from butwait.report.collect import Evaluation, arm_of, evaluations
from butwait.report.formats import finite
from butwait.report.kinds import PageMaterial, Record, Records, kind_of
from butwait.report.lineage import policy_stage
from butwait.report.reinforcement.curves import held_out, legend, step_curves
from butwait.report.reinforcement.runs import (
    PARTICLES,
    RESCUED,
    SIGNS,
    Arm,
    Training,
    arms_of,
    ends,
    guards,
    read_trainings,
)
from butwait.report.reinforcement.texts import HABIT, strips

_REWARD_OF = {PARTICLES: "of particles", RESCUED: "with solutions"}


def reinforcement(material: PageMaterial, stages: Sequence[Record]) -> dict[str, Any] | None:
    """Data for the template, with ``summary``, each stage's ``facts``; None where nothing was
    trained."""
    trainings = read_trainings(material.run, stages)
    if not trainings:
        return None
    records = {stage["name"]: stage for stage in material.stages}
    evaluated = _evaluations(material, records)
    arms = arms_of(trainings, _colours(trainings, material, records))
    colour_of = {seed.name: arm.colour for arm in arms for seed in arm.seeds}
    return {
        "summary": {training.name: facts(training) for training in trainings},
        "rows": [
            {
                "training": training,
                "colour": colour_of[training.name],
                "label": kind_of(training.record, material.kinds).label,
                "reward": ends(training, "reward"),
                "reward_of": _REWARD_OF.get(training.drawn_from, ""),
                "evaluation": evaluated.get(training.name),
            }
            for training in trainings
        ],
        "looks": max(len(training.looks) for training in trainings),
        "warnings": warnings(arms),
        "searches": [t for t in trainings if finite(t.metrics.get("searched"))],
        "signs": SIGNS,
        "guards": {t.name: seen for t in trainings if (seen := guards(t))},
        "held_out": held_out(arms),
        "curves": step_curves(arms),
        "legend": legend(arms),
        "habit": HABIT,
        "texts": [(arm.seeds[0], shown) for arm in arms if (shown := strips(arm.seeds[0]))],
    }


def _colours(
    trainings: Sequence[Training], material: PageMaterial, records: Records
) -> dict[str, int]:
    """Arm -> the colour that the page gives to the evaluation of its model, where there is one."""
    arm_of_training = {training.name: training.arm for training in trainings}
    found: dict[str, int] = {}
    for stage in material.stages:
        shown = material.colours.get(arm_of(stage) or stage["name"])
        trained = policy_stage(stage["name"], records, material.kinds)
        if shown is not None and trained is not None and trained["name"] in arm_of_training:
            found.setdefault(arm_of_training[trained["name"]], shown)
    return found


def _evaluations(material: PageMaterial, records: Records) -> dict[str, Evaluation]:
    """Training stage -> the evaluation of its model: plain sampling before a search, on the first
    set."""
    found: dict[str, Evaluation] = {}
    for row in evaluations(material.stages, material.kinds):
        trained = policy_stage(row.stage, records, material.kinds)
        if trained is None:
            continue
        before = found.get(trained["name"])
        if before is None or (row.set == before.set and row.plain and not before.plain):
            found[trained["name"]] = row
    return found


_OF_LOOK = ["step", "accuracy", "interval", "n", "k", "length", "policy_tokens", "reward_tokens"]


def facts(training: Training) -> dict[str, Any]:
    """What ``summary.json`` says of a stage beside its metrics (``docs/report.md``)."""
    reward, kept = ends(training, "reward"), training.kept
    return {
        "mode": training.mode or None,
        "stopped": training.stopped or None,
        "kept_step": None if kept is None else kept.step,
        "reward_of": training.drawn_from,
        "reward": None if reward is None else asdict(reward),
        "signs": {name: asdict(seen) for name, seen in guards(training).items()},
        "looks": [{name: getattr(look, name) for name in _OF_LOOK} for look in training.looks],
    }


POOR = 0.1
"""A larger share of poor searches is said."""


def warnings(arms: Sequence[Arm]) -> list[str]:
    """What a careful reader must know, in sentences."""
    return [said for arm in arms for said in (*_gamed(arm), *_poor_searches(arm))]


def _gamed(arm: Arm) -> Iterator[str]:
    """Of each sign that rises, the seed with the highest share at the end."""
    for name, sign in SIGNS.items():
        rising = [seen for seed in arm.seeds if (seen := guards(seed).get(name)) and seen.rises]
        if rising:
            worst = max(rising, key=lambda seen: seen.last)
            seeds = f" (the worst of {len(rising)} of {len(arm.seeds)} seeds)"
            yield (
                f"{arm.name}: completions with the sign “{sign}” rose from "
                f"{formats.percent(worst.first)} to {formats.percent(worst.last)}"
                f"{seeds if len(arm.seeds) > 1 else ''}; the reward may be gamed, read the texts."
            )


def _poor_searches(arm: Arm) -> Iterator[str]:
    searched, poor, mixed = (
        sum(finite(seed.metrics.get(name)) or 0.0 for seed in arm.seeds)
        for name in ("searched", "poor", "mixed_policies")
    )
    if searched and poor / searched > POOR:
        yield (
            f"{arm.name}: {formats.percent(poor / searched)} of {formats.count(searched)} searches "
            "were poor (few effective particles, or most of one ancestor); they tell little."
        )
    if mixed:
        yield (
            f"{arm.name}: {formats.count(mixed)} steps hold searches of two policies, as the "
            "training went on after it was killed and did not repeat itself bit for bit."
        )
