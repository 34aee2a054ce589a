"""Which stages made the model that an evaluation looked at, and where their signal came from."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from butwait.report.kinds import Record, Records, ReportedKinds, kind_of
from butwait.reward_models.load import is_own

if TYPE_CHECKING:  # it reads Parquet, and a recipe is parsed without
    from butwait.report.collect import Evaluation


def sources(stage: str, gives: str, records: Records, kinds: ReportedKinds) -> list[Record]:
    """The stages that ``stage`` takes from and that give a "model", "data", ..., in its order."""
    found = [records[name] for name in _inputs(records.get(stage, {})) if name in records]
    return [record for record in found if kind_of(record, kinds).gives == gives]


def policy_stage(stage: str, records: Records, kinds: ReportedKinds) -> Record | None:
    """The training stage whose model ``stage`` used; None where it used the base model."""
    return next(iter(sources(stage, "model", records, kinds)), None)


def describe_model(stage: str, records: Records, kinds: ReportedKinds) -> str:
    """A short noun phrase for the model of an evaluate stage, for a sentence.

    "the base model", "SFT on its own verified search", "GRPO (stage grpo)". Two stages that
    would read the same are told apart by ``tell_apart``.
    """
    trained = policy_stage(stage, records, kinds)
    if trained is None:
        return "the base model"
    name = trained["name"]
    label = kind_of(trained, kinds).label or str(trained["kind"]).upper()
    data = (kind_of(source, kinds).label for source in sources(name, "data", records, kinds))
    phrases = " and ".join(phrase for phrase in data if phrase)
    return f"{label} on {phrases}" if phrases else f"{label} (stage {name})"


def tell_apart(a: str, b: str, records: Records, kinds: ReportedKinds) -> tuple[str, str]:
    """The models of two evaluate stages in words that differ wherever the stages do."""
    first, second = describe_model(a, records, kinds), describe_model(b, records, kinds)
    if a != b and first == second:
        return f"{first} (stage {a})", f"{second} (stage {b})"
    return first, second


def supervision_of(stage: str, records: Records, kinds: ReportedKinds) -> str:
    """Where the signal behind a stage came from: its own and that of all it stands on.

    "self" for the model's own rollouts and the gold answers; "external reward" where a reward model
    trained on other data guided a search; "external traces" where solutions of others were
    learned; or both of these.
    """
    return _told(_signals(stage, records, kinds))


def supervision_of_evaluation(row: "Evaluation", records: Records, kinds: ReportedKinds) -> str:
    """The same of the model of an evaluation, and of the reward model that took part in it;
    "none" for the base model alone."""
    trained = policy_stage(row.stage, records, kinds)
    found = _signals(trained["name"], records, kinds) if trained else set[str]()
    if row.attempt_reward_tokens:
        if own := sources(row.stage, "reward model", records, kinds):
            found = found.union(*(_signals(model["name"], records, kinds) for model in own))
        else:
            found |= _reward_signals(records.get(row.stage, {}))
    return _told(found) if found else "none"


def _told(signals: set[str]) -> str:
    return ", ".join(sorted(signals - {"self", ""})) or "self"


def _signals(stage: str, records: Records, kinds: ReportedKinds) -> set[str]:
    """Of a stage and all that it stands on."""
    found = set[str]()
    for name in upstream([stage], records):
        found.add(kind_of(records[name], kinds).supervision)
        if not sources(name, "reward model", records, kinds):
            found |= _reward_signals(records[name])
    return found


def _reward_signals(record: Record) -> set[str]:
    """Of the reward model that a stage's settings name."""
    model = (record.get("settings") or {}).get("reward_model")
    if not model:
        return set()
    return {"self" if is_own(model) else "external reward"}


def ancestry(stage: str, records: Records) -> str:
    """The stage and what it stands on, nearest first: "sft ← verified ← search ← prm".

    A cycle, which no valid recipe has, ends the walk.
    """
    line, frontier, seen = [], [stage], set[str]()
    while frontier:
        fresh = list(dict.fromkeys(name for name in frontier if name not in seen))
        seen.update(fresh)
        if fresh:
            line.append(" + ".join(fresh))
        frontier = [up for name in fresh for up in _inputs(records.get(name, {}))]
    return " ← ".join(line)


def upstream(stages: Iterable[str | None], records: Records) -> set[str]:
    """These stages and all that they stand on, as far as there are records of them."""
    waiting, seen = list(stages), set[str]()
    while waiting:
        name = waiting.pop()
        if name is not None and name in records and name not in seen:
            seen.add(name)
            waiting += _inputs(records[name])
    return seen


def _inputs(record: Record) -> Sequence[str]:
    return record.get("from") or ()
