"""A search tree as a flat table, a row a node: for data frames and SQL."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from butwait.records import SearchTree
from butwait.reward_models.aggregate import probability
from butwait.running.files import atomic_path
from butwait.search.storage import read_tree
from butwait.search.summary import descendants, weight_below

NODE_TABLE = pa.schema(
    [
        ("problem", pa.string()),
        ("node", pa.int32()),
        ("parent", pa.int32()),
        ("depth", pa.int32()),
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("logprob", pa.float64()),
        ("finish", pa.string()),
        ("reward", pa.float64()),
        ("particles", pa.int64()),
        ("weight", pa.float64()),
        ("status", pa.string()),
        ("answer", pa.string()),
        ("score", pa.float64()),
    ]
)
"""``docs/trees.md`` says what each column holds."""


def node_table(tree: SearchTree) -> pa.Table:
    """The nodes of one tree without its root, as ``NODE_TABLE``."""
    return pa.Table.from_pylist(list(node_rows(tree)), schema=NODE_TABLE)


def write_node_table(target: Path, problems: Mapping[str, Path]) -> int:
    """The nodes of problems' trees, each with its shard, in one Parquet file, whole or not at all;
    one tree is in memory at a time. Returns the number of rows."""
    rows = 0
    with atomic_path(target) as path, pq.ParquetWriter(path, NODE_TABLE, compression="zstd") as to:
        for problem, shard in problems.items():
            table = node_table(read_tree(shard, problem))
            to.write_table(table)
            rows += table.num_rows
    return rows


def node_rows(tree: SearchTree) -> Iterator[dict[str, object]]:
    """The rows of ``node_table``."""
    particles, weights = descendants(tree), weight_below(tree)
    depths = [0] * len(tree.nodes)
    for number, node in enumerate(tree.nodes):
        if number == 0:
            continue
        depths[number] = depths[node.parent] + 1
        grade = tree.grades.get(number)
        unasked = np.isnan(node.reward_logit)
        yield {
            "problem": tree.problem_id,
            "node": number,
            "parent": node.parent,
            "depth": depths[number],
            "text": node.text,
            "tokens": len(node.token_ids),
            "logprob": float(node.logprobs.sum(dtype=float)),
            "finish": node.finish,
            "reward": None if unasked else float(probability(node.reward_logit)),
            "particles": int(particles[number]),
            "weight": float(weights[number]),
            "status": grade and grade.status,
            "answer": grade and grade.answer,
            "score": grade and grade.score,
        }
