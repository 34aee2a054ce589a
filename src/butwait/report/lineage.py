"""Which stages made the model that an evaluation looked at."""

from collections.abc import Mapping, Sequence

from butwait.report.collect import Record

POLICY_KINDS = frozenset({"sft", "grpo", "grpo_direct"})
"""Stage kinds whose output is a new policy."""

_OWN_SEARCH = {
    "verified": "its own verified search",
    "stitch": "stitched attempts of its own search",
    "backtrack": "backtracking traces of its own search",
    "but_wait": "second thoughts forced into its own search",
}


def policy_stage(stage: str, records: Mapping[str, Record]) -> Record | None:
    """The training stage whose model ``stage`` used; None where it used the base model."""
    for name in _inputs(records.get(stage, {})):
        source = records.get(name)
        if source is not None and source.get("kind") in POLICY_KINDS:
            return source
    return None


def describe_model(stage: str, records: Mapping[str, Record]) -> str:
    """A short noun phrase for the model of an evaluate stage, for a sentence.

    "the base model", "SFT on its own verified search", "GRPO (stage `grpo`)". Two stages that
    would read the same are told apart by ``tell_apart``.
    """
    trained = policy_stage(stage, records)
    if trained is None:
        return "the base model"
    label = str(trained["kind"]).upper().replace("_", "-")
    phrases = [
        _OWN_SEARCH[source["kind"]]
        for source in (records.get(name, {}) for name in _inputs(trained))
        if source.get("kind") in _OWN_SEARCH
    ]
    if phrases:
        return f"{label} on {' and '.join(phrases)}"
    return f"{label} (stage {trained['name']})"


def tell_apart(a: str, b: str, records: Mapping[str, Record]) -> tuple[str, str]:
    """The models of two evaluate stages in words that differ wherever the stages do."""
    first, second = describe_model(a, records), describe_model(b, records)
    if a != b and first == second:
        return f"{first} (stage {a})", f"{second} (stage {b})"
    return first, second


def ancestry(stage: str, records: Mapping[str, Record]) -> str:
    """The stage and what it stands on, nearest first: "sft ← verified ← search ← prm".

    A cycle, which no valid recipe has, ends the walk.
    """
    line, frontier, seen = [], [stage], set[str]()
    while frontier:
        fresh = [name for name in frontier if name not in seen]
        seen.update(fresh)
        if fresh:
            line.append(" + ".join(fresh))
        frontier = [up for name in fresh for up in _inputs(records.get(name, {}))]
    return " ← ".join(line)


def _inputs(record: Record) -> Sequence[str]:
    return record.get("from") or ()
