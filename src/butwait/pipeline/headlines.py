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


def _verified(metrics: Metrics) -> Iterator[str]:
    yield (
        f"{metrics['examples']} examples from {metrics['questions']} questions "
        f"({metrics['duplicates_dropped']} duplicates dropped)"
    )


def _sft(metrics: Metrics) -> Iterator[str]:
    first, last = metrics["loss_first"], metrics["loss_last"]
    loss = "" if first is None else f", loss {first:.3f} to {last:.3f} nats a token"
    yield f"{metrics['steps']} steps on {metrics['examples']} examples{loss}"


def _report(metrics: Metrics) -> Iterator[str]:
    yield metrics["verdict"]


def _interval(row: Metrics) -> str:
    low, high = row["interval"]
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


_LINES: dict[str, Callable[[Metrics], Iterator[str]]] = {
    "evaluate": _evaluate,
    "prm": _prm,
    "search": _search,
    "verified": _verified,
    "sft": _sft,
    "report": _report,
}
