"""``butwait trees``: search trees, for a person to read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table
from rich.tree import Tree

from butwait.records import SearchTree
from butwait.running.stages import read_stage
from butwait.running.terminal import console, plain
from butwait.search.storage import problem_ids, read_outlines, read_tree
from butwait.search.summary import TreeSummary, descendants, summary_of_trees, weight_below

CHILDREN = 6
"""Children of a node that are shown, those with most weight first."""

SNIPPET = 72
"""Characters of a step that are shown."""


def trees(
    path: Annotated[Path, typer.Argument(help="A search stage (RUN/STAGE) or a shard.")],
    problem: Annotated[
        str | None, typer.Option(help="Id of the problem whose tree to show; by default the first.")
    ] = None,
) -> None:
    """Print a summary of a stage's search trees, and one tree."""
    folder = path / "trees" if (path / "trees").is_dir() else path
    screen = console()
    if problem is None:
        problem = next(iter(problem_ids(folder)))
        screen.print(summary_table(summary_of_trees(read_outlines(folder)), _operations(path)))
    screen.print(rendered_tree(read_tree(folder, problem)))


def _operations(path: Path) -> dict[str, str]:
    """The stage's floating-point operations, where it is a stage and they are known."""
    stage = read_stage(path)
    cost = {} if stage is None else stage.record.get("cost", {})
    names = {"policy_flops": "policy FLOPs", "reward_flops": "reward-model FLOPs"}
    return {
        label: "unknown" if cost[key] is None else f"{cost[key]:.3g}"
        for key, label in names.items()
        if key in cost
    }


def summary_table(summary: TreeSummary, operations: Mapping[str, str]) -> Table:
    """The figures of a set of trees, one a row."""
    samplers = ", ".join(f"{plain(name)} {count}" for name, count in summary.samplers.items())
    table = Table(title=f"Search trees: {summary.trees} ({samplers})", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    rows = {
        "final particles": f"{summary.particles:,}",
        "of them complete": f"{summary.complete:.1%}",
        "steps of a final particle": f"{summary.steps:.1f}",
        "tokens of a final particle": f"{summary.tokens:.1f}",
        "nodes": f"{summary.nodes:,}",
        "of them dead": f"{summary.dead:.1%}",
        "resamplings a tree": f"{summary.resamplings:.1f}",
        "extinct trees": f"{summary.extinct:,}",
        "policy tokens": f"{summary.counts.policy_tokens:,}",
        "prefilled tokens": f"{summary.counts.prefilled_tokens:,}",
        "reward-model tokens": f"{summary.counts.reward_tokens:,}",
    }
    rows |= operations
    rows |= {f"graded {status}": f"{count:,}" for status, count in summary.grades.items()}
    for name, figure in rows.items():
        table.add_row(name, figure)
    return table


def rendered_tree(tree: SearchTree) -> Tree:
    """A tree's living branches in full and its dead ones counted.

    Each line shows the step's text, the reward as a probability, how many final particles come
    from it and their weight.
    """
    particles, weights = descendants(tree), weight_below(tree)
    children: dict[int, list[int]] = {}
    for node in range(1, len(tree.nodes)):
        children.setdefault(tree.nodes[node].parent, []).append(node)

    def line(node: int) -> str:
        return _line(tree, node, int(particles[node]), float(weights[node]))

    root = Tree(_headline(tree))
    branches = [(0, root)]
    while branches:
        node, branch = branches.pop()
        below = children.get(node, [])
        living = sorted((n for n in below if particles[n]), key=lambda n: (-weights[n], n))
        branches += [(n, branch.add(line(n))) for n in living[:CHILDREN]]
        _add_rest(tree, branch, living[CHILDREN:], "more")
        _add_rest(tree, branch, [n for n in below if not particles[n]], "dead")
    return root


def _headline(tree: SearchTree) -> str:
    evidence = "" if tree.log_evidence is None else f", log-evidence {tree.log_evidence:.2f}"
    return (
        f"[bold]{plain(tree.problem_id)}[/bold]  {plain(tree.sampler)}, {tree.outcome}{evidence}, "
        f"{len(tree.leaves)} particles, {tree.counts.policy_tokens:,} policy tokens"
    )


def _line(tree: SearchTree, index: int, particles: int, weight: float) -> str:
    node = tree.nodes[index]
    text = " ".join(node.text.split())
    text = text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"
    figures = [f"{particles} of {len(tree.leaves)}", f"weight {weight:.3f}"]
    if not np.isnan(node.reward_logit):
        figures.insert(0, f"reward {_probability(node.reward_logit):.2f}")
    if node.finish not in ("step", "step_limit"):
        figures.append(f"[bold]{node.finish}[/bold]")
    if index in tree.grades:
        figures.append(tree.grades[index].status)
    return f"{plain(text) or '(no text)'}  [dim]{', '.join(figures)}[/dim]"


def _add_rest(tree: SearchTree, branch: Tree, nodes: list[int], word: str) -> None:
    """One line for branches that are not shown."""
    if not nodes:
        return
    rewards = [tree.nodes[node].reward_logit for node in nodes]
    best = (
        "" if np.isnan(rewards).all() else f", best reward {_probability(np.nanmax(rewards)):.2f}"
    )
    branch.add(f"[dim]{len(nodes)} {word}{best}[/dim]")


def _probability(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
