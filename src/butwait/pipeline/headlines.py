"""What a finished stage says on the terminal: its result in a line or two."""

from collections.abc import Callable, Iterator
from typing import Any

Metrics = dict[str, Any]


def headlines(kind: str, metrics: Metrics) -> list[str]:
    """The lines for a stage of this kind."""
    return list(_LINES[kind](metrics))


def _evaluate(metrics: Metrics) -> Iterator[str]:
    for name, row in metrics.items():
        yield f"{name}: {row['pass_at_1']:.1%} {_interval(row)} of {row['n']} questions"


def _prm(metrics: Metrics) -> Iterator[str]:
    yield f"reward model: {metrics['verdict']}"


def _search(metrics: Metrics) -> Iterator[str]:
    yield (
        f"solved by some particle: {metrics['solved']} of {metrics['problems']}, "
        f"{metrics['solved_share']:.1%} {_interval(metrics)}"
    )


def _data(metrics: Metrics) -> Iterator[str]:
    yield (
        f"{metrics['examples']} examples from {metrics['questions']} questions, "
        f"{metrics['loss_tokens']} tokens with loss"
        f" ({metrics['duplicates_dropped']} duplicates dropped)"
    )


def _sft(metrics: Metrics) -> Iterator[str]:
    first, last = metrics["loss_first"], metrics["loss_last"]
    loss = "" if first is None else f", loss {first:.3f} to {last:.3f} nats a token"
    yield f"{metrics['steps']} steps on {metrics['examples']} examples{loss}"


def _rl(metrics: Metrics) -> Iterator[str]:
    first, last = metrics["reward_first"], metrics["reward_last"]
    reward = "" if first is None else f", reward {first:.3f} to {last:.3f}"
    yield f"{metrics['steps']} steps, {metrics['policy_tokens']} tokens sampled{reward}"
    if metrics["stopped"]:
        yield f"stopped: {metrics['stopped']}"
    if metrics["searched"]:
        yield (
            f"{metrics['searched']} searches, {metrics['solved']} solved, "
            f"{metrics['search_tokens']} of the tokens"
        )
    if metrics["poor"]:
        yield (
            f"{metrics['poor']} of {metrics['searched']} searches were poor: few particles carried "
            "the weight, or few first steps were left (floors)"
        )
    if metrics["best_step"] is not None:
        yield (
            f"held out: {metrics['first_accuracy']:.1%} before, {metrics['best_accuracy']:.1%} at "
            f"step {metrics['best_step']}, which is kept"
        )


def _profile(metrics: Metrics) -> Iterator[str]:
    yield from metrics["sentences"]


def _report(metrics: Metrics) -> Iterator[str]:
    yield metrics["verdict"]
    for ranking in metrics["rankings"]:
        yield f"Arms on {ranking['set']} by {ranking['method']}:"
        for place, arm in enumerate(ranking["arms"], start=1):
            yield f"{place}. {_ranked(arm)}"


def _ranked(arm: Metrics) -> str:
    low, high = arm["interval"]
    seeds = f" ({arm['seeds']} seeds)" if arm["seeds"] > 1 else ""
    unsure = ", ".join(arm["not_told_apart_from"])
    return f"{arm['arm']}{seeds}: {arm['pass_at_1']:.1%} [{100 * low:.1f}, {100 * high:.1f}]" + (
        f"; not told apart from {unsure}" if unsure else ""
    )


def _interval(row: Metrics) -> str:
    low, high = row["interval"]
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


_LINES: dict[str, Callable[[Metrics], Iterator[str]]] = {
    "evaluate": _evaluate,
    "prm": _prm,
    "search": _search,
    **dict.fromkeys(("verified", "stitch", "backtrack", "but_wait", "external"), _data),
    "sft": _sft,
    **dict.fromkeys(("grpo", "grpo_direct"), _rl),
    "profile": _profile,
    "report": _report,
}
