"""Tables of reinforcement learning, a row a stage: what it cost, what came of it, how it searched,
and signs that its reward is gamed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from butwait.report import formats
from butwait.report.collect import Evaluation
from butwait.report.formats import finite
from butwait.report.reinforcement.guards import SIGNS, ends, guards
from butwait.report.reinforcement.runs import PARTICLES, RESCUED, Arm, Look, Training
from butwait.report.svg import series_variable


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its interval; ``note`` says where it stands."""

    rate: str
    interval: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One stage, every cell as text; ``reward_of`` is "" for a reward of samples of the policy."""

    name: str
    colour: str
    kind: str
    steps: str
    stopped: str
    policy: str
    search: str
    reward_model: str
    reward: str
    reward_of: str
    before: Rate
    best: Rate
    last: Rate
    evaluated: Rate


_REWARD_OF = {PARTICLES: "of particles", RESCUED: "with solutions"}


def training_row(training: Training, colour: int, evaluation: Evaluation | None) -> TrainingRow:
    """``evaluation`` is one of the stage's model on questions that chose nothing."""
    reward = ends(training, "reward")
    looks, kept = training.looks, training.kept
    policy, search, reward_model = (
        formats.compact(training.count(metric, figure) or None)
        for metric, figure in (
            ("policy_tokens", "tokens/policy"),
            ("search_tokens", "tokens/search"),
            ("reward_tokens", "tokens/reward_model"),
        )
    )
    return TrainingRow(
        name=training.name,
        colour=series_variable(colour),
        kind=training.mode.replace("_", " ") or "GRPO",
        steps=formats.count(training.steps),
        stopped=training.stopped or formats.MISSING,
        policy=policy,
        search="" if search == formats.MISSING else f"{search} search",
        reward_model=reward_model,
        reward=f"{reward.first:.3f} to {reward.last:.3f}" if reward else formats.MISSING,
        reward_of=_REWARD_OF.get(training.drawn_from, ""),
        before=_look(looks[0] if looks else None),
        best=_look(kept, "" if kept is None else f"step {kept.step}, kept"),
        last=_look(looks[-1] if looks else None, f"step {looks[-1].step}" if looks else ""),
        evaluated=_evaluated(evaluation),
    )


def _look(look: Look | None, note: str = "") -> Rate:
    if look is None:
        return Rate(formats.MISSING, "", note)
    return Rate(formats.percent(look.accuracy), formats.interval(look.interval), note)


def _evaluated(row: Evaluation | None) -> Rate:
    if row is None:
        return Rate(formats.MISSING, "")
    bounds = formats.interval(row.metrics.get("interval"))
    return Rate(formats.percent(row.figure("pass_at_1")), bounds, f"{row.set} ({row.stage})")


@dataclass(frozen=True, slots=True)
class SearchRow:
    """The searches of one stage."""

    name: str
    searched: str
    solved: str
    reused: str
    poor: str
    tokens: str


def search_row(training: Training) -> SearchRow | None:
    """None where nothing was searched, or the stage has not recorded it yet."""
    metrics = training.metrics
    searched = finite(metrics.get("searched"))
    if not searched:
        return None
    policy, own = finite(metrics.get("policy_tokens")), finite(metrics.get("search_tokens"))
    return SearchRow(
        name=training.name,
        searched=formats.count(searched),
        solved=_of(finite(metrics.get("solved")), searched),
        reused=formats.count(finite(metrics.get("reused"))),
        poor=_of(finite(metrics.get("poor")), searched),
        tokens=formats.percent(own / policy if own is not None and policy else None),
    )


def _of(count: float | None, whole: float) -> str:
    if count is None:
        return formats.MISSING
    return f"{formats.count(count)} ({formats.percent(count / whole)})"


@dataclass(frozen=True, slots=True)
class GuardRow:
    """One stage: for each of ``SIGNS`` its course, and whether it rises."""

    name: str
    cells: list[tuple[str, bool]]


def guard_row(training: Training) -> GuardRow | None:
    """None where the log counts no sign."""
    seen = guards(training)
    if not seen:
        return None
    cells = []
    for name in SIGNS:
        found = seen.get(name)
        course = formats.MISSING
        if found is not None:
            course = f"{formats.percent(found.first)} to {formats.percent(found.last)}"
        cells.append((course, found is not None and found.rises))
    return GuardRow(training.name, cells)


POOR = 0.1
"""A larger share of poor searches is said."""


def warnings(arms: Sequence[Arm]) -> list[str]:
    """What a careful reader must know, in sentences."""
    found = []
    for arm in arms:
        found += [*_gamed(arm), *_poor_searches(arm)]
    return found


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
