"""Search trees for the page: the list of a stage's, one as columns, its texts in chunks.

Sizes: K nodes, the root first; P populations, S slots in all of them; M leaves; g grades.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import expit

from butwait.records import UserError
from butwait.report.formats import clip
from butwait.search.outline import COLUMNS, Outline, from_row
from butwait.search.rows import FINISHES, SCHEMA_VERSION
from butwait.search.storage import FORMAT_KEY
from butwait.search.summary import below
from butwait.search.weights import ess_share, log_mean_exp
from butwait.view.examples import taken
from butwait.view.folders import Folder, Part, parquet, placed, unreadable
from butwait.view.pieces import pieces_of
from butwait.view.questions import Questions, set_of
from butwait.view.script import Names, numbers

CHUNK = 256
"""Nodes whose texts are sent together."""
QUESTION, SHOWN = 300, 60
"""Characters of a question in the list, and of a step in the table of nodes."""

_LEAVES = ("leaves", "log_weights", "grade_nodes", "grade_statuses")
_LENGTHS = (("particles", "leaves"), ("steps", "population_sizes"))
_OTHERS = (
    *("log_evidence", "texts", "logprobs", "reward_logits", "log_weights", "grade_answers"),
    *("population_nodes", "population_ancestors"),
)
_LISTED = ("id", "problem", "sampler", "outcome", "particles", "steps", "nodes", "tokens")


def has_trees(folder: Folder, stage: str) -> bool:
    """Whether a stage has trees on disk."""
    return bool(_tree_parts(folder, folder.path / stage))


def tree_list(folder: Folder, stage: str) -> dict[str, Any]:
    """All trees of a stage that are on disk, one entry a tree in each column."""
    questions = Questions(folder, stage)
    columns: dict[str, list] = {
        name: [] for name in (*_LISTED, "log_evidence", "right", "right_nodes")
    }
    after: list[int | None] = []
    notes, seen = [], set()
    for part in _tree_parts(folder, folder.stage(stage)):
        try:
            listed = folder.digest(part.path, "trees", _listed)
        except (UserError, OSError):
            notes.append(unreadable(part.path))
            continue
        for row, problem in enumerate(listed["problem"]):
            if (part.step, problem) in seen:  # in a shard by now, and the spool is being emptied
                continue
            seen.add((part.step, problem))
            after.append(part.step)
            for name, column in columns.items():
                column.append(_id(part, row) if name == "id" else listed[name][row])
    searched = set_of(folder, stage)
    asked = [questions.of(problem, searched) for problem in columns["problem"]]
    return {
        "stage": stage,
        "kind": folder.record(stage).get("kind"),
        "made": folder.made(stage),
        "notes": notes,
        **columns,
        "after": after if any(step is not None for step in after) else None,
        "question": [clip(known.question, QUESTION) for known in asked],
        "gold": [known.gold for known in asked],
    }


def tree(folder: Folder, stage: str, place: str) -> dict[str, Any]:
    """One tree: what is needed to draw it. Raises UnknownNameError for what is no id of a tree,
    UserError where there is no such tree (yet)."""
    part, index = _find(folder, stage, place)
    with _opened(part.path, index) as row:
        found = row(list(dict.fromkeys([*COLUMNS, *_OTHERS])))
    outline = from_row(found)
    known = Questions(folder, stage).of(outline.problem_id, set_of(folder, stage))
    log_weights = _array(found["log_weights"])
    kept = below(outline.parents, outline.leaves, np.ones(len(outline.leaves), np.int64))
    statuses, answers = Names(), Names()
    verdicts = _verdicts(outline, found["grade_answers"].as_py(), statuses, answers)
    return {
        "problem": outline.problem_id,
        "question": known.question,
        "gold": known.gold,
        "sampler": outline.sampler,
        "outcome": outline.outcome,
        "log_evidence": found["log_evidence"].as_py(),
        "policy_tokens": outline.counts.policy_tokens,
        "prefilled_tokens": outline.counts.prefilled_tokens,
        "reward_tokens": outline.counts.reward_tokens,
        "prompt_tokens": outline.prompt_tokens,
        "chunk": CHUNK,
        "nodes": {
            "parent": outline.parents.tolist(),
            "depth": (outline.along_paths(np.ones(len(outline.parents), np.int64)) - 1).tolist(),
            "tokens": outline.token_counts.tolist(),
            "finish": outline.finishes.tolist(),
            "reward": numbers(expit(_array(found["reward_logits"]))),
            "logprob": numbers(_sums(_array(found["logprobs"]), outline.token_counts)),
            **verdicts,
            "weight": numbers(below(outline.parents, outline.leaves, np.exp(log_weights))),
            "final": kept.tolist(),
            "shows": [clip(" ".join(text.split()), SHOWN) for text in _heads(found["texts"])],
        },
        "statuses": statuses.texts,
        "answers": answers.texts,
        "finishes": [*FINISHES, "too_long"],
        "populations": _populations(outline, found, kept),
        **_course(outline, found),
        "leaves": outline.leaves.tolist(),
        "log_weights": numbers(log_weights, 4),
        "taken": taken(folder, stage, part.path.name, index),
    }


def tree_texts(folder: Folder, stage: str, place: str, chunk: int) -> dict[str, Any]:
    """Texts and log-probabilities of some nodes, and the tokens' own texts where the tokenizer is
    at hand."""
    part, index = _find(folder, stage, place)
    with _opened(part.path, index) as row:
        found = row(["texts", "token_counts", "token_ids", "logprobs"])
    texts = found["texts"].values
    start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, len(texts))
    if start >= stop:
        raise UserError(f"the tree {place} of {stage} has {len(texts)} nodes, none from {start} on")
    counts = _array(found["token_counts"])
    ends = np.cumsum(counts)
    bounds = [(int(ends[i] - counts[i]), int(ends[i])) for i in range(start, stop)]
    logprobs, ids = _array(found["logprobs"]), _array(found["token_ids"])
    wanted = texts.slice(start, stop - start).to_pylist()
    return {
        "from": start,
        "texts": wanted,
        "logprobs": [numbers(logprobs[a:b], 3) for a, b in bounds],
        "tokens": pieces_of(folder, stage, [ids[a:b].tolist() for a, b in bounds], wanted),
    }


def _find(folder: Folder, stage: str, place: str) -> tuple[Part, int]:
    name, index = placed(place)
    parts = _tree_parts(folder, folder.stage(stage))
    part = next((part for part in parts if part.name == name), None)
    if part is None:
        raise UserError(f"{stage} has no tree {place} (any more): look at the list again")
    return part, index


def _tree_parts(folder: Folder, stage: Path) -> list[Part]:
    """Those of a search, and those of the searches within a training."""
    return folder.parts(stage / "trees") + folder.searched(stage / "searches")


def _id(part: Part, row: int) -> str:
    return f"{part.name}-{row}" if part.name.isdigit() else part.name


@contextmanager
def _opened(path: Path, index: int) -> Iterator[Callable[[list[str]], dict[str, pa.Scalar]]]:
    """A file of trees, as a function that reads columns of the row of one of them."""
    with parquet(path) as file:
        _check(path, file)
        if index >= file.num_row_groups:
            raise UserError(f"{path} has no tree {index} (any more)")

        def read(columns: list[str]) -> dict[str, pa.Scalar]:
            table = file.read_row_group(index, columns=columns, use_threads=False)
            return {name: table[name].chunk(0)[0] for name in columns}

        yield read


def _check(path: Path, file: pq.ParquetFile) -> None:
    version = (file.schema_arrow.metadata or {}).get(FORMAT_KEY)
    if version != str(SCHEMA_VERSION).encode():
        raise UserError(f"{path} holds no search trees of the format that this butwait reads")


def _listed(path: Path) -> dict[str, list]:
    """What the list tells of the trees in a file, by column. A row group holds one tree, so that
    its footer has the single values, as least and greatest, and the lengths of lists that are not
    empty, as the nodes never are."""
    columns: dict[str, list] = {name: [] for name in (*_LISTED, "log_evidence")}
    del columns["id"]
    with parquet(path) as file:
        _check(path, file)
        at = {name: place for place, name in enumerate(file.schema_arrow.names)}
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            for name, column in (
                *(("problem", "problem_id"), ("sampler", "sampler"), ("outcome", "outcome")),
                *(("tokens", "policy_tokens"), ("log_evidence", "log_evidence")),
            ):
                columns[name].append(_single(file, group.column(at[column]), index, column))
            columns["nodes"].append(group.column(at["parents"]).num_values)
        table = file.read(columns=[*_LEAVES, "population_sizes"], use_threads=False)
        for name, column in _LENGTHS:
            columns[name] = pc.list_value_length(table[column]).to_pylist()
        right = [_right(*row) for row in zip(*(table[name] for name in _LEAVES), strict=True)]
    columns["log_evidence"] = numbers(columns["log_evidence"])
    return columns | {
        "right": numbers(share for share, _ in right),
        "right_nodes": [count for _, count in right],
    }


def _single(file: pq.ParquetFile, chunk: Any, index: int, column: str) -> Any:
    known = chunk.statistics
    if known is not None and known.has_min_max:
        return known.min
    # Parquet keeps none of very long texts, nor of what is null.
    return file.read_row_group(index, columns=[column], use_threads=False)[column][0].as_py()


def _right(
    leaves: pa.Scalar, log_weights: pa.Scalar, nodes: pa.Scalar, statuses: pa.Scalar
) -> tuple[float | None, int]:
    """(final weight of the right leaves, right nodes); None where nothing was graded."""
    graded = np.array(statuses.as_py(), object)
    if not len(graded):
        return None, 0
    right = _array(nodes)[graded == "correct"]
    on_right = np.isin(_array(leaves), right)
    return float(np.exp(_array(log_weights))[on_right].sum()), len(right)


def _verdicts(
    outline: Outline, answers: list[str | None], of_status: Names, of_answer: Names
) -> dict[str, list[int]]:
    """``status`` and ``answer`` of every node, by their places."""
    status, answer = ([-1] * len(outline.parents) for _ in range(2))
    graded = zip(outline.grade_nodes.tolist(), outline.grades, answers, strict=True)
    for node, verdict, said in graded:
        status[node], answer[node] = of_status.place(verdict), of_answer.place(said)
    return {"status": status, "answer": answer}


def _populations(
    outline: Outline, found: Mapping[str, pa.Scalar], kept: np.ndarray
) -> dict[str, list]:
    nodes, ancestors = (_array(found[f"population_{name}"]) for name in ("nodes", "ancestors"))
    return {
        "sizes": outline.population_sizes.tolist(),
        "resampled": outline.population_resampled.astype(int).tolist(),
        "nodes": nodes.tolist(),
        "ancestors": ancestors.tolist(),
        "log_weights": numbers(outline.population_log_weights, 4),
        "alive": _alive(outline.population_sizes, nodes, ancestors, kept),
    }


def _alive(
    sizes: np.ndarray, nodes: np.ndarray, ancestors: np.ndarray, kept: np.ndarray
) -> list[int]:
    """Of every population, the particles that final ones come from. A sweep's last population is
    followed by none of its descendants: there, those that stand on final paths."""
    bounds = np.cumsum(sizes)[:-1]
    found, after = [], None
    for standing, before in zip(
        reversed(np.split(nodes, bounds)), reversed(np.split(ancestors, bounds)), strict=True
    ):
        alive = kept[standing] > 0
        if after is not None:
            alive = np.zeros(len(standing), bool)
            alive[after] = True
        found.append(int(alive.sum()))
        # Ancestors of -1 begin a new sweep.
        after = None if (before < 0).any() else before[alive]
    return found[::-1]


def _course(outline: Outline, found: Mapping[str, pa.Scalar]) -> dict[str, list | None]:
    """ESS, and the log-evidence up to each population: the product of the mean weights at the ends
    of the stretches without resampling. None where that is not what the sampler estimates."""
    total, weights = found["log_evidence"].as_py(), outline.populations()
    if not len(outline.population_sizes):
        return {"ess": [], "evidence": None}
    ess = numbers([ess_share(w) if len(w) else 0.0 for w in weights])
    before, now, course = 0.0, 0.0, []
    for log_weights, resampled in zip(weights, outline.population_resampled, strict=True):
        before = now if resampled else before
        now = before + log_mean_exp(log_weights) if len(log_weights) else -math.inf
        course.append(now)
    same = total is not None and (
        now == total or math.isclose(now, total, rel_tol=1e-6, abs_tol=1e-6)
    )
    return {"ess": ess, "evidence": numbers(course) if same else None}


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(K,) the sum over each node's tokens; NaN where one of them is."""
    running = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values.astype(np.float64)))])
    unknown = np.concatenate([[0], np.cumsum(np.isnan(values))])
    ends = np.cumsum(counts)
    sums = running[ends] - running[ends - counts]
    return np.where(unknown[ends] > unknown[ends - counts], np.nan, sums)


def _heads(texts: pa.Scalar) -> list[str]:
    return pc.utf8_slice_codeunits(texts.values, 0, 4 * SHOWN).to_pylist()


def _array(scalar: pa.Scalar) -> np.ndarray:
    return scalar.values.to_numpy(zero_copy_only=False)
