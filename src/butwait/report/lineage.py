"""Which stages made the model that an evaluation looked at."""

from collections.abc import Mapping, Sequence

from butwait.report.collect import Evaluation, Record

POLICY_KINDS = frozenset({"sft", "grpo", "grpo_direct"})
"""Stage kinds whose output is a new policy."""

_DATA = {
    "verified": "its own verified search",
    "stitch": "stitched attempts of its own search",
    "backtrack": "backtracking traces of its own search",
    "but_wait": "second thoughts forced into its own search",
    "external": "solutions that others wrote",
}


def policy_stage(stage: str, records: Mapping[str, Record]) -> Record | None:
    """The training stage whose model ``stage`` used; None where it used the base model."""
    for name in _inputs(records.get(stage, {})):
        source = records.get(name)
        if source is not None and source.get("kind") in POLICY_KINDS:
            return source
    return None


_LABELS = {"grpo_direct": "GRPO-Direct"}
"""Trainings whose usual name is not the kind in capitals."""


def describe_model(stage: str, records: Mapping[str, Record]) -> str:
    """A short noun phrase for the model of an evaluate stage, for a sentence.

    "the base model", "SFT on its own verified search", "GRPO (stage `grpo`)". Two stages that
    would read the same are told apart by ``tell_apart``.
    """
    trained = policy_stage(stage, records)
    if trained is None:
        return "the base model"
    label = _LABELS.get(str(trained["kind"]), str(trained["kind"]).upper())
    phrases = [
        _DATA[source["kind"]]
        for source in (records.get(name, {}) for name in _inputs(trained))
        if source.get("kind") in _DATA
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


_OWN_REWARDS = frozenset({"confidence"})
"""Reward models that are the policy itself."""


def supervision(row: Evaluation, records: Mapping[str, Record]) -> str:
    """Where the signal behind an evaluation came from, as the data cards say it.

    "none" for the base model alone; "self" for the model's own rollouts and the gold answers;
    "external reward" where a reward model trained on other data guided a search, of the training or
    of this evaluation; "external traces" where solutions of others were learned; or both of these.
    """
    record = records.get(row.stage, {})
    trained = policy_stage(row.stage, records)
    found = _signals(trained["name"], records) if trained else set[str]()
    if row.attempt_reward_tokens:
        found |= _reward_signals(record, records)
    external = sorted(found - {"self"})
    return ", ".join(external) or ("self" if found else "none")


def _signals(stage: str, records: Mapping[str, Record]) -> set[str]:
    """Of a stage and all that it stands on."""
    found, waiting, seen = set[str](), [stage], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in records:
            continue
        seen.add(name)
        record = records[name]
        found.add("external traces" if record.get("kind") == "external" else "self")
        found |= _reward_signals(record, records, deep=False)
        waiting += _inputs(record)
    return found


def _reward_signals(
    record: Record, records: Mapping[str, Record], *, deep: bool = True
) -> set[str]:
    """Of the reward model of a stage: its own, or the ``prm`` stage it takes from, with all that
    one stands on where ``deep``."""
    own = [name for name in _inputs(record) if records.get(name, {}).get("kind") == "prm"]
    if own:
        return set().union(*(_signals(name, records) for name in own)) if deep else set()
    public = (record.get("settings") or {}).get("reward_model")
    if not public:
        return set()
    members = public.get("members") or [public]
    if all(member.get("kind") in _OWN_REWARDS for member in members):
        return {"self"}
    return {"external reward"}


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
