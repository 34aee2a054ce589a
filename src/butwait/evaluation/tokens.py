"""The tokens of an attempt, from the tree that it stands in."""

from itertools import groupby

import numpy as np

from butwait.engines.engine import Engine, token_characters
from butwait.records import AttemptTokens, SearchTree


def tokens_of(tree: SearchTree, node: int, engine: Engine) -> AttemptTokens | None:
    """Those of the path to ``node``: what each adds to the path's text, and its log-probability.

    None where the engine, whose tokens they are, cannot tell what each of them wrote.
    """
    path = [tree.nodes[i] for i in tree.path(node)]
    if not path:
        return None
    counts: list[np.ndarray] = []
    for inserted, run in groupby(path, key=lambda step: step.finish == "inserted"):
        steps = list(run)
        ids, text = np.concatenate([s.token_ids for s in steps]), "".join(s.text for s in steps)
        found = _as_one(ids, text) if inserted else token_characters(engine, ids, text)
        if found is None:
            return None
        counts.append(found)
    characters = np.concatenate(counts, dtype=np.int32)
    if characters.sum() != len(tree.path_text(node)):
        return None
    return AttemptTokens(
        characters, np.concatenate([step.logprobs for step in path]).astype(np.float16)
    )


def _as_one(ids: np.ndarray, text: str) -> np.ndarray:
    """A text that was inserted, which its tokens may not give back exactly, as its last token's."""
    characters = np.zeros(len(ids), np.int32)
    characters[-1:] = len(text)
    return characters
