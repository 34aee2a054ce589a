"""What a report is made of: stage records in recipe order and the files of their folders.

Every reader takes a run that is not whole: a file that does not exist gives None or an empty
list, a file that cannot be read is a ``UserError``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from butwait.records import UserError
from butwait.report.formats import finite
from butwait.report.kinds import Record, ReportedKinds, kind_of
from butwait.search.settings import SAMPLERS


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One row of the table: a model (named by its evaluate stage) by one method on one set.

    Attributes:
        stage: the evaluate stage; the name of the arm where several seeds are pooled.
        set: the problem set.
        method: the method's name in the recipe.
        metrics: what the stage recorded for "set/method"; rates are fractions.
        sampler: the kind of the method's sampler; "" where the record does not say.
        seeds: the evaluate stages of an arm, one a seed; empty for a single stage.
    """

    stage: str
    set: str
    method: str
    metrics: dict[str, Any]
    sampler: str = ""
    seeds: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """The evaluate stages whose attempts it holds."""
        return self.seeds or (self.stage,)

    @property
    def key(self) -> str:
        """The name in ``summary.json``: "stage/set/method"."""
        return f"{self.stage}/{self.set}/{self.method}"

    def figure(self, name: str) -> float | None:
        """A metric as a finite number, None where there is none."""
        return finite(self.metrics.get(name))

    @property
    def plain(self) -> bool:
        """Whether an attempt is one sample of the policy, without a search around it."""
        if self.sampler in SAMPLERS:
            return SAMPLERS[self.sampler].as_attempts is not None
        return not self.sampler and not self.attempt_reward_tokens

    @property
    def attempt_tokens(self) -> float:
        """Policy tokens generated for one attempt, which is what pass@1 costs; 0 if unrecorded."""
        k = self.figure("k") or 1.0
        each, whole = self.figure("tokens_per_attempt"), self.figure("tokens_per_problem")
        return each if each is not None else (whole or 0.0) / k

    @property
    def attempt_reward_tokens(self) -> float:
        """Reward-model tokens run for one attempt; 0 where no reward model took part."""
        return (self.figure("reward_tokens_per_problem") or 0.0) / (self.figure("k") or 1.0)

    def at_most_k(self, metric: str) -> tuple[int, float] | None:
        """(k, rate) of the largest k above 1 in "pass_at_k" or "maj_at_k"; None without one."""
        known = ((int(k), finite(rate)) for k, rate in (self.metrics.get(metric) or {}).items())
        return max(((k, r) for k, r in known if k > 1 and r is not None), default=None)

    def share(self, status: str) -> float | None:
        """Share of the attempts with this status, None where no statuses were recorded."""
        counts = self.metrics.get("status") or {}
        total = sum(counts.values())
        return counts.get(status, 0) / total if total else None


def evaluations(
    stages: Iterable[Record],
    kinds: ReportedKinds,
    arms: Mapping[str, dict[str, Any]] | None = None,
) -> list[Evaluation]:
    """All evaluations, in the order of the recipe, then as the stage recorded them.

    ``arms`` maps "arm/set/method" to the metrics of its seeds together; their stages have one row
    then, where the first of them stands.
    """
    pooled = arms or {}
    rows: dict[str, Evaluation] = {}
    for stage in stages:
        if kind_of(stage, kinds).gives != "evaluation":
            continue
        settings = stage.get("settings") or {}
        for name, metrics in (stage.get("metrics") or {}).items():
            if not (isinstance(metrics, dict) and "/" in name):
                continue
            problem_set, method = name.split("/", 1)
            used = (settings.get("methods") or {}).get(method, {})
            sampler = (used.get("sampler") or {}).get("kind", "")
            arm = arm_of(stage)
            if arm is not None and (key := f"{arm}/{name}") in pooled:
                seeds = (*(rows[key].seeds if key in rows else ()), stage["name"])
                row = Evaluation(arm, problem_set, method, pooled[key], sampler, seeds)
            else:
                row = Evaluation(stage["name"], problem_set, method, metrics, sampler)
            rows[row.key] = row
    return list(rows.values())


def by_name(stages: Iterable[Record], rows: Iterable[Evaluation]) -> dict[str, Record]:
    """Stage name -> its record; an arm's name stands for the first of its seeds."""
    records = {stage["name"]: stage for stage in stages}
    first = {row.stage: records[row.seeds[0]] for row in rows if row.seeds}
    return records | first


def arm_of(stage: Record) -> str | None:
    """The arm whose seed the stage is; None for a stage of its own."""
    return (stage.get("settings") or {}).get("arm")


def first_seeds(stages: Iterable[Record]) -> list[Record]:
    """The stages, and of each arm only the first seed: the others differ in nothing else."""
    found: dict[str, Record] = {}
    for stage in stages:
        found.setdefault(arm_of(stage) or stage["name"], stage)
    return list(found.values())


def published(stages: Iterable[Record], kinds: ReportedKinds) -> dict[str, dict[str, Any]]:
    """Figures of others that the report stages hold (``PublishedSettings``), by the evaluation's
    key; the later one counts. They are shown with their sources and compared with nothing."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        if kind_of(stage, kinds).gives == "report":
            found |= (stage.get("settings") or {}).get("published") or {}
    return found


TOKENS = ("policy_tokens", "prefilled_tokens", "reward_tokens", "trained_tokens")
FLOPS = ("policy_flops", "reward_flops")


def costs(stages: Iterable[Record]) -> tuple[list[Record], Record]:
    """A record a stage, or one for all seeds of an arm, and their sum: with ``name``, ``kind``,
    ``seconds`` and ``cost``. A sum of operations is None where one of them is unknown."""
    members: dict[str, list[Record]] = {}
    for stage in stages:
        members.setdefault(arm_of(stage) or stage["name"], []).append(stage)
    rows = [_together(arm, seeds) for arm, seeds in members.items()]
    spent = [row["cost"] for row in rows]
    cost: dict[str, Any] = {n: sum(finite(own.get(n)) or 0 for own in spent) for n in TOKENS}
    if counted := [own for own in spent if FLOPS[0] in own]:
        cost |= {name: _sum(own.get(name) for own in counted) for name in FLOPS}
    seconds = sum(row["seconds"] for row in rows)
    return rows, {"name": "all stages", "kind": "", "seconds": seconds, "cost": cost}


def _together(arm: str, seeds: Sequence[Record]) -> Record:
    spent = [stage.get("cost") or {} for stage in seeds]
    return {
        "name": seeds[0]["name"] if len(seeds) == 1 else f"{arm} ({len(seeds)} seeds)",
        "kind": str(seeds[0].get("kind", "")),
        "seconds": sum(finite(stage.get("seconds")) or 0.0 for stage in seeds),
        "cost": {name: _sum(cost.get(name) for cost in spent) for name in spent[0]},
    }


def _sum(values: Iterable[float | None]) -> float | None:
    """Their sum; None where one is unknown."""
    known = list(values)
    return None if None in known else sum(known)  # type: ignore[arg-type]


def attempts(run: Path, row: Evaluation, columns: Sequence[str]) -> pa.Table | None:
    """The stored attempts of one evaluation, seed by seed: only ``columns``.

    A long evaluation holds gigabytes of text, so the whole table is never read.
    """
    shards = _shards(run, row)
    if not shards:
        return None
    tables = [_read_parquet(shard, columns) for shard in shards]
    return pa.concat_tables(tables, promote_options="permissive")


def attempt(
    run: Path, row: Evaluation, columns: Sequence[str], problem_id: str, sample: int
) -> dict[str, Any]:
    """One stored attempt, the first with this problem and sample. Texts of the one shard that holds
    it are read. Raises KeyError where there is none."""
    filters = [("problem_id", "==", problem_id), ("sample", "==", sample)]
    for shard in _shards(run, row):
        if _read_parquet(shard, ("sample",), filters).num_rows:
            return _read_parquet(shard, columns, filters).to_pylist()[0]
    raise KeyError(problem_id, sample)


def _shards(run: Path, row: Evaluation) -> list[Path]:
    folders = [run / stage / "attempts" / row.set / row.method for stage in row.stages]
    return [shard for folder in folders for shard in sorted(folder.glob("shard-*.parquet"))]


def _read_parquet(shard: Path, columns: Sequence[str], filters: list | None = None) -> pa.Table:
    try:
        return pq.read_table(shard, columns=list(columns), filters=filters)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{shard} cannot be read ({_first_line(error)}); delete it and run the recipe "
            "again: only its problems are attempted anew"
        ) from error


def lengths(run: Path, row: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each attempt's text: int64 (attempts,), and of the correct ones alone."""
    table = attempts(run, row, ("length", "status"))
    if table is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    tokens = table["length"].to_numpy().astype(np.int64, copy=False)
    correct = pc.equal(table["status"], "correct").to_numpy()
    return tokens, tokens[correct]


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file does not exist."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is not readable JSON ({_first_line(error)}); delete the stage's folder and "
            "run the same command again"
        ) from error
    return value if isinstance(value, dict) else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
