"""Looking on: what all living paths begin with is in the answer, whichever sampler searches."""

import gc

import numpy as np
import pytest

import butwait
from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.search.builder import TreeBuilder
from butwait.search.looking import looking
from butwait.search.settings import SAMPLERS

LINES = {
    "": {"It is.\n": 0.8, "It may be.\n": 0.2},
    "It is.\n": {"So 2.\n": 0.5, "So 3.\n": 0.5},
    "It may be.\n": {"So 4.\n": 0.5, EOS: 0.5},
    "It is.\nSo 2.\n": {"\\boxed{2}": 1.0},
    "It is.\nSo 3.\n": {"\\boxed{3}": 0.9, EOS: 0.1},
    "It may be.\nSo 4.\n": {"\\boxed{4}": 1.0},
}


def prefix_of(texts: list[str]) -> str:
    low, high = min(texts), max(texts)
    return next((low[:i] for i, c in enumerate(low) if high[i : i + 1] != c), low)


STEP = {"delimiters": ["\n"], "max_tokens": 64}


@pytest.mark.parametrize("kind", [kind for kind in SAMPLERS if SAMPLERS[kind].one_sweep])
def test_what_all_paths_share_is_in_every_final_path(kind: str) -> None:
    gc.freeze()  # what was imported is not looked at for every search
    for seed in range(3):
        shared: list[str] = []

        def seen(tree: TreeBuilder, nodes: np.ndarray, extended: bool) -> None:
            texts = [tree.prefix(node).text for node in nodes.tolist()]
            shared.append(prefix_of(texts))  # noqa: B023  called in this turn

        with looking(seen):
            engine = ScriptedEngine(LINES)
            found = butwait.solve("?", method=kind, seed=seed, engine=engine, step=STEP)
        tree = found.tree
        assert shared
        for leaf in tree.leaves.tolist():
            assert all(tree.path_text(leaf).startswith(text) for text in shared)


def test_samplers_that_begin_again_are_not_final() -> None:
    again = [kind for kind in SAMPLERS if not SAMPLERS[kind].one_sweep]
    assert sorted(again) == ["but_wait", "particle_gibbs", "tempering"]
