"""DVTS: subtrees that know nothing of each other."""

import numpy as np
import pytest
from search_toys import RULE, search

from butwait.records import OPEN, Key
from butwait.search.samplers.beams import BeamSearchSettings, DVTSSettings


def test_a_subtree_does_not_depend_on_the_others() -> None:
    for seed in range(10):
        key = Key.of(seed, "subtrees")
        small, large = (
            search(DVTSSettings(beams=n, expansions=4, step=RULE), key) for n in (4, 12)
        )
        for alone, among in zip(small.populations, large.populations, strict=False):
            texts = [large.path_text(node) for node in among.nodes[:4]]
            assert [small.path_text(node) for node in alone.nodes] == texts
            assert alone.ancestors.tolist() == among.ancestors[:4].tolist()


def test_one_subtree_is_a_beam_search_of_one() -> None:
    for seed in range(10):
        key = Key.of(seed, "greedy")
        greedy = search(DVTSSettings(beams=4, expansions=4, step=RULE), key)
        beams = search(BeamSearchSettings(beams=4, expansions=4, step=RULE), key)
        assert [greedy.path_text(leaf) for leaf in greedy.leaves] == [
            beams.path_text(leaf) for leaf in beams.leaves
        ]


def test_the_best_of_each_subtree_goes_on() -> None:
    forks = 0
    for seed in range(20):
        tree = search(DVTSSettings(beams=9, expansions=3, step=RULE), Key.of(seed, "dvts"))
        for before, after in zip(tree.populations, tree.populations[1:], strict=False):
            for place in range(9):
                subtree = range(place // 3 * 3, place // 3 * 3 + 3)
                if tree.nodes[before.nodes[place]].finish not in OPEN:
                    assert after.nodes[place] == before.nodes[place]
                    continue
                candidates = [i for i in subtree if tree.nodes[before.nodes[i]].finish in OPEN]
                best = max(candidates, key=lambda i: (tree.nodes[before.nodes[i]].reward_logit, -i))
                assert after.ancestors[place] == best
                forks += best != place
    assert forks > 20


def test_a_dead_subtree_leaves_the_others_alone() -> None:
    """Where the three paths of a subtree are impossible it ends, and its places stay empty."""
    first = search(DVTSSettings(beams=6, expansions=3, step=RULE), Key.of(5, "dead"))
    doomed = {first.path_text(node) for node in first.populations[0].nodes[:3]}

    def reward(problem, steps) -> float:
        return -np.inf if steps[0].text in doomed else 0.0

    tree = search(DVTSSettings(beams=6, expansions=3, step=RULE), Key.of(5, "dead"), reward=reward)
    assert tree.leaves[:3].tolist() == tree.populations[0].nodes[:3].tolist()
    assert (tree.log_weights[:3] == -np.inf).all()


@pytest.mark.parametrize("settings", [DVTSSettings, BeamSearchSettings])
def test_beams_are_a_multiple_of_expansions(settings) -> None:
    with pytest.raises(ValueError, match=r"beams \(6\) must be a multiple of expansions \(4\)"):
        settings(beams=6, expansions=4)
