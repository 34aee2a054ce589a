"""``butwait trees``: search trees, for a person to read."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from butwait.cli.stored_stages.chosen import (
    UNCHECKED,
    one_of,
    print_json,
    questions,
    show_question,
    show_rows,
    the_stage,
)
from butwait.cli.stored_stages.paging import paged
from butwait.records import SearchTree, Status, UserError
from butwait.reward_models.aggregate import probability
from butwait.running.expected import meant
from butwait.running.files import check_output
from butwait.running.log import RESULT, say
from butwait.running.stages import read_stage
from butwait.running.terminal import plain
from butwait.search.node_table import node_rows, write_node_table
from butwait.search.outline import Outline
from butwait.search.storage import problem_ids, read_outlines, read_tree, shard_paths
from butwait.search.summary import TreeSummary, descendants, summary_of_trees, weight_below

CHILDREN = 6
"""Children of a node that are shown, those with most weight first."""

SNIPPET = 72
"""Characters of a step that are shown."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which trees are meant; a summary, a list and the first tree where nothing is chosen."""

    problem: str | None = None
    status: str | None = None
    wrong: bool = False
    everything: bool = False

    @property
    def some(self) -> bool:
        return self.everything or self.wrong or (self.problem, self.status) != (None, None)

    def takes(self, tree: Outline) -> bool:
        """By its id, the verdicts on its final particles, and whether it went extinct."""
        if self.problem not in (None, tree.problem_id):
            return False
        statuses = {*_final(tree), tree.outcome}
        if self.wrong:
            return "correct" not in statuses
        return self.status is None or self.status in statuses


def trees(
    path: Path | None,
    choice: Choice = Choice(),
    as_json: bool = False,
    parquet: Path | None = None,
) -> None:
    """Prints search trees; ``parquet``: writes their nodes there.

    Args:
        path: a search stage (RUN/STAGE) or a shard; None, or a run: its stages are listed.
        choice: which trees.
        as_json: a JSON array, an object a tree; with its nodes where something is chosen.
        parquet: a file for one row a node (``search.node_table``).

    Raises UserError where there are none, or a file cannot be read.
    """
    if as_json and parquet is not None:
        raise UserError("--json and --parquet are two outputs; give one of them")
    one_of(choice.wrong, choice.status, (*get_args(Status), "extinct"))
    if path is None or not (path.is_file() or any(path.glob("shard-*.parquet"))):
        path = the_stage(path, "trees", "search trees")
    if path is None:
        return
    folder = path / "trees" if (path / "trees").is_dir() else path
    known = problem_ids(folder)
    if choice.problem is not None and choice.problem not in known:
        near = meant(choice.problem, list(known))
        raise UserError(f"no tree of problem {choice.problem!r} in {path}{near}")
    if parquet is not None:
        check_output(parquet, *shard_paths(folder), option="--parquet")
        ids = [tree.problem_id for tree in read_outlines(folder) if choice.takes(tree)]
        rows = write_node_table(parquet, {problem: known[problem] for problem in ids})
        say(f"{parquet}: {rows:,} nodes of {len(ids):,} trees", RESULT)
        return
    asked = questions(path, _set_of(path)) if path.is_dir() else {}
    if as_json:
        print_json(_json(folder, known, choice, asked))
        return
    with paged() as screen:
        if not choice.some:
            _overview(screen, path, folder, asked)
            return
        if choice.problem is not None and choice.status is None and not choice.wrong:
            _show(screen, read_tree(folder, choice.problem), asked)
            return
        shown = 0
        for tree in read_outlines(folder):
            if choice.takes(tree):
                _show(screen, read_tree(known[tree.problem_id], tree.problem_id), asked)
                screen.print()
                shown += 1
        if not shown:
            screen.print(f"{plain(path)} has no such tree", soft_wrap=True)


def _set_of(path: Path) -> str | None:
    stage = read_stage(path)
    return None if stage is None else (stage.record.get("settings") or {}).get("problems")


def _final(tree: Outline) -> list[str]:
    """The verdict on each final particle's path."""
    verdicts = dict(zip(tree.grade_nodes.tolist(), tree.grades, strict=True))
    return [verdicts.get(leaf, "ungraded") for leaf in tree.leaves.tolist()]


def _overview(
    screen: Console, path: Path, folder: Path, asked: Mapping[str, Mapping[str, Any]]
) -> None:
    """The summary of all trees, the first of them, and a line for each."""
    table = [("problem", "right", "nodes", "gold", "question")]

    def listed() -> Iterator[Outline]:
        for tree in read_outlines(folder):
            about = asked.get(tree.problem_id, {})
            told = f"{_final(tree).count('correct')} of {len(tree.leaves)}"
            told = "extinct" if tree.outcome == "extinct" else told
            gold = str(about.get("answer") or "")
            nodes = f"{len(tree.parents) - 1:,}"
            table.append((tree.problem_id, told, nodes, gold, str(about.get("question") or "")))
            yield tree

    summary = summary_of_trees(listed())
    screen.print(summary_table(summary, _operations(path)))
    _show(screen, read_tree(folder, table[1][0]), asked)
    screen.print()
    show_rows(screen, table)
    told = (
        "right: final particles with a right answer. --problem ID shows one tree, --all shows all."
    )
    screen.print(f"[dim]{told}[/dim]")


def _show(screen: Console, tree: SearchTree, asked: Mapping[str, Mapping[str, Any]]) -> None:
    """A tree under its question."""
    if about := asked.get(tree.problem_id):
        show_question(screen, about)
    screen.print(rendered_tree(tree))
    if any(grade.status == "correct" for grade in tree.grades.values()):
        screen.print(f"[dim]correct: {UNCHECKED}[/dim]")


def _json(
    folder: Path,
    known: Mapping[str, Path],
    choice: Choice,
    asked: Mapping[str, Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """An object a tree; with its nodes where some are chosen. ``known``: each tree's shard."""
    for tree in read_outlines(folder):
        if not choice.takes(tree):
            continue
        about = asked.get(tree.problem_id, {})
        row = {
            "problem_id": tree.problem_id,
            "question": about.get("question"),
            "gold": about.get("answer"),
            "sampler": tree.sampler,
            "outcome": tree.outcome,
            "particles": len(tree.leaves),
            "status": dict(sorted(Counter(_final(tree)).items())),
            "nodes": len(tree.parents) - 1,
            **asdict(tree.counts),
        }
        if choice.some:
            row["tree"] = list(node_rows(read_tree(known[tree.problem_id], tree.problem_id)))
        yield row


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
        figures.insert(0, f"reward {probability(node.reward_logit):.2f}")
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
    best = "" if np.isnan(rewards).all() else f", best reward {probability(np.nanmax(rewards)):.2f}"
    branch.add(f"[dim]{len(nodes)} {word}{best}[/dim]")
