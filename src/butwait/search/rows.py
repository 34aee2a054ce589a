"""A search tree as one row of flat columns, and back.

Sizes: K nodes (the root first), T tokens in all nodes together, P populations, S slots in all
populations together, M leaves, g grades.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from butwait.records import Counts, Finish, Grade, Node, Population, SearchTree

SCHEMA_VERSION = 2
"""Version 2 has the costs of each node and the finish ``inserted``."""

FINISHES: tuple[Finish, ...] = get_args(Finish)
"""``finishes`` holds positions in this tuple. It only ever grows at its end,
where 6 is taken (``TOO_LONG``)."""
TOO_LONG = 6
"""In ``finishes``: ``length``, as the path is longer than the reward model takes."""
LENGTH = FINISHES.index("length")

_CODES = {finish: code for code, finish in enumerate(FINISHES)}

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sampler", pa.string()),
        ("outcome", pa.string()),
        ("log_evidence", pa.float64()),
        ("policy_tokens", pa.int64()),
        ("prefilled_tokens", pa.int64()),
        ("reward_tokens", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("parents", pa.list_(pa.int32())),  # (K,)
        ("token_counts", pa.list_(pa.int32())),  # (K,)
        ("token_ids", pa.list_(pa.int32())),  # (T,)
        ("logprobs", pa.list_(pa.float32())),  # (T,)
        ("texts", pa.list_(pa.string())),  # (K,)
        ("finishes", pa.list_(pa.int8())),  # (K,)
        ("reward_logits", pa.list_(pa.float64())),  # (K,)
        ("prefilled", pa.list_(pa.int32())),  # (K,)
        ("overshoot", pa.list_(pa.int32())),  # (K,)
        ("rewarded", pa.list_(pa.int32())),  # (K,)
        ("population_sizes", pa.list_(pa.int32())),  # (P,)
        ("population_resampled", pa.list_(pa.bool_())),  # (P,)
        ("population_nodes", pa.list_(pa.int32())),  # (S,)
        ("population_ancestors", pa.list_(pa.int32())),  # (S,)
        ("population_log_weights", pa.list_(pa.float64())),  # (S,)
        ("leaves", pa.list_(pa.int32())),  # (M,)
        ("log_weights", pa.list_(pa.float64())),  # (M,)
        ("grade_nodes", pa.list_(pa.int32())),  # (g,)
        ("grade_statuses", pa.list_(pa.string())),  # (g,)
        ("grade_answers", pa.list_(pa.string())),  # (g,), null where there is none
    ]
)

SCORES = pa.field("grade_scores", pa.list_(pa.float64()))
"""(g,), null where there is none. A file has this column where any of its grades has a score."""
SCORED = SCHEMA.append(SCORES)


def has_scores(tree: SearchTree) -> bool:
    """Whether any grade of the tree has a score."""
    return any(grade.score is not None for grade in tree.grades.values())


def to_row(tree: SearchTree, schema: pa.Schema = SCHEMA) -> pa.Table:
    """One tree as a table of one row. ``schema``: ``SCHEMA`` or ``SCORED``."""
    nodes, populations = tree.nodes, tree.populations
    graded = sorted(tree.grades.items())
    columns: dict[str, Any] = {
        "problem_id": tree.problem_id,
        "sampler": tree.sampler,
        "outcome": tree.outcome,
        "log_evidence": tree.log_evidence,
        "policy_tokens": tree.counts.policy_tokens,
        "prefilled_tokens": tree.counts.prefilled_tokens,
        "reward_tokens": tree.counts.reward_tokens,
        "prompt_ids": tree.prompt_ids,
        "parents": [node.parent for node in nodes],
        "token_counts": [len(node.token_ids) for node in nodes],
        "token_ids": _flat([node.token_ids for node in nodes], np.int32),
        "logprobs": _flat([node.logprobs for node in nodes], np.float32),
        "texts": [node.text for node in nodes],
        "finishes": [TOO_LONG if node.too_long else _CODES[node.finish] for node in nodes],
        "reward_logits": [node.reward_logit for node in nodes],
        "prefilled": [node.prefilled_tokens for node in nodes],
        "overshoot": [node.overshoot_tokens for node in nodes],
        "rewarded": [node.reward_tokens for node in nodes],
        "population_sizes": [len(population.nodes) for population in populations],
        "population_resampled": [population.resampled for population in populations],
        "population_nodes": _flat([p.nodes for p in populations], np.int32),
        "population_ancestors": _flat([p.ancestors for p in populations], np.int32),
        "population_log_weights": _flat([p.log_weights for p in populations], np.float64),
        "leaves": tree.leaves,
        "log_weights": tree.log_weights,
        "grade_nodes": [node for node, _ in graded],
        "grade_statuses": [grade.status for _, grade in graded],
        "grade_answers": [grade.answer for _, grade in graded],
        SCORES.name: [grade.score for _, grade in graded],
    }
    arrays = [_cell(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def _cell(value: Any, kind: pa.DataType) -> pa.Array:
    """An array of one value. A list goes by its flat values: item by item would take seconds."""
    if not pa.types.is_list(kind):
        return pa.array([value], kind)
    return pa.ListArray.from_arrays([0, len(value)], pa.array(value, kind.value_type), type=kind)


def from_row(row: Mapping[str, pa.Scalar]) -> SearchTree:
    """The tree of one row. ValueError where its columns contradict each other."""
    nodes = row["grade_nodes"].as_py()
    grades = zip(
        nodes,
        row["grade_answers"].as_py(),
        row["grade_statuses"].as_py(),
        row[SCORES.name].as_py() if SCORES.name in row else [None] * len(nodes),
        strict=True,
    )
    return SearchTree(
        problem_id=row["problem_id"].as_py(),
        sampler=row["sampler"].as_py(),
        prompt_ids=_array(row["prompt_ids"]),
        nodes=_nodes(row),
        populations=_populations(row),
        leaves=_array(row["leaves"]),
        log_weights=_array(row["log_weights"]),
        log_evidence=row["log_evidence"].as_py(),
        outcome=row["outcome"].as_py(),
        counts=counts_of(row),
        grades={node: Grade(*verdict) for node, *verdict in grades},
    )


def counts_of(row: Mapping[str, pa.Scalar]) -> Counts:
    """What the tree of one row cost."""
    return Counts(*(row[f"{kind}_tokens"].as_py() for kind in ("policy", "prefilled", "reward")))


def _nodes(row: Mapping[str, pa.Scalar]) -> list[Node]:
    counts = _array(row["token_counts"])
    finishes = _array(row["finishes"]).tolist()
    columns = zip(
        _array(row["parents"]).tolist(),
        _split(_array(row["token_ids"]), counts),
        row["texts"].values.to_pylist(),
        _split(_array(row["logprobs"]), counts),
        [FINISHES[LENGTH if code == TOO_LONG else code] for code in finishes],
        _array(row["reward_logits"]).tolist(),
        _array(row["prefilled"]).tolist(),
        _array(row["overshoot"]).tolist(),
        _array(row["rewarded"]).tolist(),
        [code == TOO_LONG for code in finishes],
        strict=True,
    )
    return [Node(*column) for column in columns]


def _populations(row: Mapping[str, pa.Scalar]) -> list[Population]:
    sizes = _array(row["population_sizes"])
    columns = zip(
        _split(_array(row["population_nodes"]), sizes),
        _split(_array(row["population_ancestors"]), sizes),
        _split(_array(row["population_log_weights"]), sizes),
        row["population_resampled"].as_py(),
        strict=True,
    )
    return [Population(*column) for column in columns]


def _flat(arrays: Sequence[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def _array(scalar: pa.Scalar) -> np.ndarray:
    return scalar.values.to_numpy()


def _split(flat: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Views of consecutive stretches. ValueError where the lengths do not add up."""
    ends = np.cumsum(counts)
    if len(flat) != (ends[-1] if len(ends) else 0):
        raise ValueError("stretches do not add up to the flat column")
    starts = ends - counts
    return [flat[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
