from pathlib import Path

import numpy as np
import pytest

from butwait.records import Counts, Grade, Node, Population, SearchTree
from butwait.report import searches, tree_drawing
from butwait.report.searches import ess_shares, example, final_ancestry, shape_of
from butwait.report.tree_drawing import LEFT, ROW, TOP, lay_out, tips
from butwait.search.outline import outline
from butwait.search.storage import read_tree, read_trees

# root 0 -> 1 -> {3, 4}, root 0 -> 2 (dead). 3 and 4 are final; 4 holds two particles.
PARENTS = [-1, 0, 0, 1, 1]


def tree(
    problem_id: str = "p",
    parents: list[int] = PARENTS,
    leaves: tuple[int, ...] = (3, 4, 4),
    weights: tuple[float, ...] = (0.5, 0.25, 0.25),
    grades: dict[int, Grade] | None = None,
    populations: list[Population] | None = None,
) -> SearchTree:
    nodes = [
        Node(
            parent,
            np.array([i], np.int32),
            f"step {i}\n" if i else "",
            np.zeros(1, np.float32),
            "eos" if i in leaves else "step",
            [0.0, 2.0, -2.0, float("nan"), 0.0][i % 5],
        )
        for i, parent in enumerate(parents)
    ]
    final = np.array(leaves, np.int32)
    return SearchTree(
        problem_id,
        "particle_filter",
        np.zeros(1, np.int32),
        nodes,
        populations or [],
        final,
        np.log(np.array(weights)),
        None,
        "complete",
        Counts(),
        grades or {},
    )


def shapes(*trees: SearchTree) -> list[searches.Shape]:
    return [shape_of(outline(tree)) for tree in trees]


def population(log_weights: list[float], resampled: bool) -> Population:
    n = len(log_weights)
    slots = np.arange(n, dtype=np.int32)
    return Population(slots, slots, np.array(log_weights), resampled)


def test_ess_shares_by_hand() -> None:
    first = tree(populations=[population([0.0, 0.0], False), population([0.0, -np.inf], True)])
    second = tree(populations=[population([np.log(3.0), 0.0], False)])
    shares, resampled = ess_shares(shapes(first, second))
    # weights 3 and 1: (3 + 1)^2 / (9 + 1) = 1.6 of 2 particles
    np.testing.assert_allclose(shares, [[1.0, 0.5], [0.8, np.nan]])
    assert resampled.tolist() == [[False, True], [False, False]]


def test_final_ancestry_counts_different_paths_and_first_steps() -> None:
    spread = tree(leaves=(2, 3, 4), weights=(0.4, 0.3, 0.3))
    ancestry = final_ancestry(shapes(tree(), spread))
    assert ancestry == searches.Ancestry(particles=3.0, first_steps=1.5, paths=2.5)
    assert final_ancestry([]) is None


def test_tips_are_the_ends_of_branches() -> None:
    assert tips(np.array(PARENTS)) == [2, 3, 4]


def test_the_example_is_solved_with_dead_branches_if_there_is_one() -> None:
    right, wrong = {4: Grade("7", "correct")}, {4: Grade("8", "wrong")}
    unsolved = tree("unsolved", grades=wrong)
    no_dead = tree("no dead", leaves=(2, 3, 4), weights=(0.4, 0.3, 0.3), grades=right)
    wanted = tree("wanted", grades=right)
    assert example(shapes(unsolved, no_dead, wanted)) == "wanted"
    assert example(shapes(unsolved, no_dead)) == "no dead"
    assert example([]) is None


def test_layout_by_hand() -> None:
    drawing = lay_out(tree(grades={4: Grade("7", "correct")}))
    step = (tree_drawing.WIDTH - LEFT - tree_drawing.RIGHT) / 2
    dots = drawing.dots
    # Branches in depth-first order: 3 on row 0, 4 on row 1, 2 on row 2; 1 between 3 and 4.
    assert [d.y for d in dots] == [round(TOP + ROW * r, 1) for r in (1.25, 0.5, 2.0, 0.0, 1.0)]
    assert [d.x for d in dots] == [LEFT, LEFT + step, LEFT + step, LEFT + 2 * step, LEFT + 2 * step]
    assert [d.live for d in dots] == [True, True, False, True, True]
    assert [d.weight for d in dots] == [1.0, 1.0, 0.0, 0.5, 0.5]
    assert [d.reward for d in dots] == [50, 88, 12, None, 50]
    assert [d.copies for d in dots] == [0, 0, 0, 1, 2]
    assert (dots[4].verdict, dots[4].answer) == ("correct", "7")
    assert dots[0].edge == ""
    assert dots[2].edge.startswith(f"M{LEFT:.1f},{TOP + ROW * 1.25:.1f} ")
    assert dots[2].edge.endswith(f"H{LEFT + step:.1f}")
    assert drawing.height == 2 * TOP + 2 * ROW
    assert drawing.hidden == 0
    assert drawing.steps == [("step 1", 88), ("step 3", None)]


def test_a_large_tree_keeps_its_heaviest_and_some_dead_branches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tree_drawing, "MOST_TIPS", 2)
    drawing = lay_out(tree(weights=(0.2, 0.4, 0.4)))
    assert drawing.hidden == 1
    assert [(dot.tooltip, dot.live) for dot in drawing.dots[1:]] == [
        ("step 1", True), ("step 2", False), ("step 4", True),
    ]  # fmt: skip


def test_long_paths_leave_room_for_fewer_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_drawing, "MOST_STEPS", 2)
    drawing = lay_out(tree())
    assert drawing.hidden == 2
    assert [dot.tooltip for dot in drawing.dots[1:]] == ["step 1", "step 3"]


def test_an_extinct_tree_can_be_drawn() -> None:
    extinct = tree(leaves=(), weights=())
    drawing = lay_out(extinct)
    assert drawing.steps == []
    assert [dot.live for dot in drawing.dots[1:]] == [False] * 4


def test_only_the_drawn_tree_is_read_whole(
    whole_run: tuple[Path, list, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stages, _ = whole_run
    whole: list[str] = []

    def read(path: Path, problem_id: str) -> SearchTree:
        whole.append(problem_id)
        return read_tree(path, problem_id)

    monkeypatch.setattr(searches, "read_tree", read)
    (shown,) = searches.searches(run, [s for s in stages if s["kind"] == "search"])
    assert whole == [shown["problem_id"]]
    trees = list(read_trees(run / "search" / "trees"))
    assert shown["trees_read"] == len(trees) == 12
    paths = [len({int(leaf) for leaf in tree.leaves}) for tree in trees]
    assert shown["ancestry"].paths == np.mean(paths)
    firsts = [len({next(t.path(int(leaf))) for leaf in t.leaves}) for t in trees]
    assert shown["ancestry"].first_steps == np.mean(firsts)
