"""Correct solutions of a search as training examples: rejection sampling from search trees.

The rows are what the policy itself wrote (STaR, Zelikman et al. 2022, arXiv:2203.14465; RAFT,
Dong et al. 2023, arXiv:2304.06767), drawn by a search instead of independently.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np

from butwait.records import COMPLETE, Example, Key, Problem, Span, UserError
from butwait.synthesis.built import BuildCounts, Built, Prompting, StoredTree
from butwait.synthesis.settings import Choice, VerifiedSettings


@dataclass(frozen=True, slots=True, eq=False)
class _Solution:
    """A correct finished path: ``token_ids`` is int32 (n,) and ends in EOS."""

    source: StoredTree
    leaf: int
    token_ids: np.ndarray
    text: str

    @property
    def reward(self) -> float:
        return self.source.tree.nodes[self.leaf].reward_logit


def build_verified(
    trees: Iterable[StoredTree],
    problems: Sequence[Problem],
    prompting: Prompting,
    settings: VerifiedSettings,
    key: Key,
) -> Built:
    """The unique correct solutions of each question, at most ``per_question`` of them.

    A finished particle that resampling killed counts if it was graded correct; a path cut by a
    token limit never does. Solutions are unique by their token ids and by their text with runs
    of white space taken as one space. The examples come in rounds, one solution of each question
    a round, so every beginning of the list is spread over the questions. The result depends on
    the trees of each question and the key alone, not on the order of the questions.

    Args:
        trees: graded trees; several of one question are pooled.
        problems: at least the problems of these trees.
        prompting: of the model that searched.
        settings: how many and which.
        key: randomness of the choice and of the order.

    Raises:
        UserError: a tree without grades or without a problem; ``choose: reward`` where the
            search asked no reward model.
    """
    by_id = {problem.id: problem for problem in problems}
    counts = BuildCounts()
    pools: dict[str, list[_Solution]] = {}
    for stored in trees:
        problem_id = stored.tree.problem_id
        if problem_id not in by_id:
            raise UserError(
                f"stage {stored.stage} searched the problem {problem_id!r}, which is not in the "
                "problem set given for it; give the set that was searched"
            )
        found = list(_correct_paths(stored, prompting.eos_token_id))
        counts.trees += 1
        counts.correct += len(found)
        pools.setdefault(problem_id, []).extend(found)
    unique = {problem_id: _unique(pool) for problem_id, pool in pools.items()}
    counts.questions_searched = len(unique)
    counts.candidate_lengths = [len(s.token_ids) for pool in unique.values() for s in pool]
    counts.duplicates_dropped = counts.correct - len(counts.candidate_lengths)
    chosen = {
        problem_id: _choose(pool, settings.choose, key.derive("choose", problem_id))
        for problem_id, pool in unique.items()
    }
    rows = islice(_in_rounds(chosen, settings.per_question, key), settings.limit)
    examples = [_example(row, by_id[row.source.tree.problem_id], prompting) for row in rows]
    return Built(examples, counts)


def _correct_paths(stored: StoredTree, eos_token_id: int) -> Iterator[_Solution]:
    """The finished paths of a tree that were graded correct, by node."""
    tree = stored.tree
    finished = (int(leaf) for leaf in tree.leaves if tree.nodes[leaf].finish in COMPLETE)
    if any(leaf not in tree.grades for leaf in finished):
        raise UserError(
            f"the tree of problem {tree.problem_id!r} in {stored.stage}/{stored.shard} has "
            "finished paths without a grade; run its search stage again"
        )
    for leaf, grade in sorted(tree.grades.items()):
        finish = tree.nodes[leaf].finish
        if not grade.correct or finish not in COMPLETE:
            continue
        ids = tree.path_tokens(leaf)
        if finish == "box":  # The search stopped at the box; what comes next must be learned too.
            ids = np.append(ids, np.int32(eos_token_id))
        yield _Solution(stored, leaf, ids, tree.path_text(leaf))


def _unique(pool: list[_Solution]) -> list[_Solution]:
    """The first of each set of equal solutions."""
    seen: set[bytes | str] = set()
    kept = []
    for solution in pool:
        names: set[bytes | str] = {solution.token_ids.tobytes(), " ".join(solution.text.split())}
        if names.isdisjoint(seen):
            kept.append(solution)
        seen |= names
    return kept


def _choose(pool: list[_Solution], rule: Choice, key: Key) -> list[_Solution]:
    """The pool in the rule's order of preference; ties are in random order."""
    shuffled = [pool[i] for i in key.generator().permutation(len(pool))]
    lengths = [len(solution.token_ids) for solution in pool]
    match rule:
        case "random":
            return shuffled
        case "shortest":
            return sorted(shuffled, key=lambda s: len(s.token_ids))
        case "longest":
            return sorted(shuffled, key=lambda s: -len(s.token_ids))
        case "median":
            middle = np.median(lengths) if lengths else 0
            return sorted(shuffled, key=lambda s: abs(len(s.token_ids) - middle))
        case "reward":
            if any(np.isnan(s.reward) for s in pool):
                raise UserError(
                    "choose: reward needs the rewards of a search with a reward model; choose "
                    "random, shortest, median or longest for this one"
                )
            return sorted(shuffled, key=lambda s: -s.reward)


def _in_rounds(
    chosen: dict[str, list[_Solution]], per_question: int, key: Key
) -> Iterator[_Solution]:
    """One solution of every question, then a second one, ...; questions in random order."""
    order = sorted(chosen, key=lambda problem_id: key.derive("order", problem_id).words)
    for row in zip_longest(*(chosen[problem_id][:per_question] for problem_id in order)):
        yield from (solution for solution in row if solution is not None)


def _example(solution: _Solution, problem: Problem, prompting: Prompting) -> Example:
    source, ids = solution.source, solution.token_ids
    return Example(
        problem_id=problem.id,
        prompt_ids=source.tree.prompt_ids,
        completion_ids=ids,
        loss_mask=np.ones(len(ids), dtype=bool),
        spans=(Span("solution", 0, len(ids), solution.text),),
        prompt=prompting.messages(problem),
        text=solution.text,
        tokenizer_fingerprint=prompting.tokenizer_fingerprint,
        provenance={
            "builder": "verified",
            "stage": source.stage,
            "problem": problem.id,
            "shard": source.shard,
            "row": source.row,
            "sampler": source.tree.sampler,
            "leaf": solution.leaf,
            "path": list(source.tree.path(solution.leaf)),
            "finish": source.tree.nodes[solution.leaf].finish,
        },
    )
