"""What a careful reader must know of an evaluation's rates: the one home of these sentences, for
the terminal and the report."""

from collections.abc import Iterator, Mapping
from typing import Any

MUCH_CUT = 0.05
"""A larger share of attempts without an answer, cut or not, is said."""


def flags(name: str, figures: Mapping[str, Any]) -> Iterator[str]:
    """The sentences that hold of one (set, method).

    Args:
        name: what it is called there: "set/method", or "stage/set/method".
        figures: its metrics (``metrics.attempt_figures``), as far as they are known; beside arms of
            several seeds also whether it is a training of one (``trained_once``).
    """
    counts = figures.get("status") or {}
    made = sum(counts.values())

    def share(status: str) -> float:
        return counts.get(status, 0) / made if made else 0.0

    if (cut := share("truncated")) >= MUCH_CUT:
        yield (
            f"{100 * cut:.1f} % of the attempts of {name} were cut by the token limit before an "
            "answer; they count as not solved."
        )
    if (silent := share("no_answer")) >= MUCH_CUT:
        yield (
            f"{100 * silent:.1f} % of the attempts of {name} ended without an answer; they count "
            "as not solved."
        )
    if figures.get("trained_once"):
        yield (
            f"{name} was trained once: its interval is of this one training and leaves out what "
            "another seed would change, which those of arms with several seeds have in them."
        )
    excluded = (figures.get("excluded") or {}).get("problems") or ()
    aside = figures.get("set_aside") or ()
    if aside:
        was, each = ("was", "it") if len(aside) == 1 else ("were", "each")
        what = f"{was} set aside for {name} ({each} ended two workers)"
        yield _left_out(len(aside), "", name, what)
    if (unread := len(excluded) - len(aside)) > 0:
        what = f"could not be scored for {name} (no readable gold answer)"
        yield _left_out(unread, " more", name, what)
    if (lost := share("ungradable")) > 0:
        yield (
            f"{100 * lost:.2f} % of the attempts of {name} could not be graded; they count neither "
            "as solved nor as failed."
        )


def _left_out(count: int, more: str, name: str, what: str) -> str:
    questions, them = ("question", "it") if count == 1 else ("questions", "them")
    of_set = name.split("/")[-2]
    return f"{count}{more} {questions} of {of_set} {what}; n leaves {them} out."
