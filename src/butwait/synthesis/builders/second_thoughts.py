"""Paths that were made to think again, and whose last thought was verified.

The trees are those of the sampler ``but_wait`` (s1's budget forcing, Muennighoff et al. 2025, arXiv
2501.19393): the phrase between two thoughts is a node of finish ``inserted``.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from butwait.records import COMPLETE, Example, Grade, UserError
from butwait.records.settings import Result, Unfit
from butwait.synthesis.builder import Builder, Built, Material, Prompting
from butwait.synthesis.pieces import BOX, Piece, before_box, tree_piece
from butwait.synthesis.questions import Question, by_question
from butwait.synthesis.searches import forcing, no_second_thoughts, unfit
from butwait.synthesis.settings import MistakeSettings
from butwait.synthesis.solutions import (
    Solution,
    choose,
    correct_solutions,
    solved_example,
)


class SecondThoughtsSettings(MistakeSettings):
    """Paths of a ``but_wait`` search whose last thought was verified."""

    kind: Literal["but_wait"] = "but_wait"
    first: Result[Literal["any", "wrong"]] = "any"
    """``wrong`` takes only paths whose first thought had a wrong answer."""


def build_second_thoughts(material: Material[SecondThoughtsSettings]) -> Built:
    """Correct final paths with at least two thoughts, at most ``per_question`` of a question.

    A thought whose answer was graded wrong is a ``mistake``; a phrase is a ``doubt``; the first
    thought, if it was not wrong, is ``solution``, a later one ``recovery``. Errors are those of
    ``by_question``; trees of another sampler, in which no phrase stands, are a UserError.
    """
    phrases_seen = False

    def examples_of(
        material: Material[SecondThoughtsSettings], question: Question
    ) -> list[Example]:
        nonlocal phrases_seen
        phrases_seen |= any(n.finish == "inserted" for s in question.trees for n in s.tree.nodes)
        return _examples(material, question)

    built = by_question(material, examples_of)
    if not phrases_seen:
        raise UserError(
            "no path of these trees was made to think again; take them from a search with "
            f"sampler.kind: {forcing()}"
        )
    return built


def _examples(material: Material[SecondThoughtsSettings], question: Question) -> list[Example]:
    settings, facts = material.settings, question.counts.facts
    found = correct_solutions(question.trees, material.prompting, question.counts, settings.format)
    pool = [solution for solution in found if _thought_again(solution)]
    if settings.first == "wrong":
        pool = [s for s in pool if _grade_of(s, _thoughts(s)[0]).status == "wrong"]
    if settings.boxes == "cut" and settings.format == "plain":
        stated = [s for s in pool if _states_its_answer(s)]
        if without := len(pool) - len(stated):
            facts["paths whose last thought has no box"] += without
        pool = stated
    made = {id(s): pieces for s in pool if (pieces := _pieces(s, material.prompting, settings))}
    facts["paths with a thought that is only its box"] += len(pool) - len(made)
    left = [solution for solution in pool if id(solution) in made]
    return [
        solved_example(material, question.problem, solution, made[id(solution)], question.key)
        for solution in choose(left, settings, question.key.derive("choose"))
    ]


def _thought_again(solution: Solution) -> bool:
    """Whether it is a final path of its search and has a phrase in it."""
    tree = solution.source.tree
    return solution.leaf in tree.leaves and not tree.path_sampled(solution.leaf).all()


def _thoughts(solution: Solution) -> list[list[int]]:
    """The path's nodes, parted at the phrases: thought, phrase, thought, ..."""
    parts: list[list[int]] = [[]]
    for node in solution.nodes:
        if solution.source.tree.nodes[node].finish == "inserted":
            parts += [[node], []]
        else:
            parts[-1].append(node)
    return parts


def _states_its_answer(solution: Solution) -> bool:
    """Whether the answer is left once the boxes of all thoughts but the last are cut. A last
    thought that only confirms the one before has none of its own."""
    tree = solution.source.tree
    texts = ["".join(tree.nodes[node].text for node in part) for part in _thoughts(solution)]
    *earlier, last = texts[::2]
    return BOX.search(last) is not None or not any(BOX.search(text) for text in earlier)


def _grade_of(solution: Solution, thought: Sequence[int]) -> Grade:
    """The verdict on the answer that a thought came to before the next phrase replaced its end.

    That end is the thought's last node, or a chain of single steps below it.
    """
    tree = solution.source.tree
    node = thought[-1]
    while tree.nodes[node].finish not in COMPLETE:
        below = (i for i in range(node + 1, len(tree.nodes)) if tree.nodes[i].parent == node)
        onward = next((i for i in below if tree.nodes[i].finish != "inserted"), None)
        if onward is None:
            return Grade(None, "no_answer")
        node = onward
    return tree.grades.get(node, Grade(None, "no_answer"))


def _pieces(
    solution: Solution, prompting: Prompting, settings: SecondThoughtsSettings
) -> list[Piece] | None:
    """The path's pieces; None where one of its thoughts has nothing before its box."""
    source, parts = solution.source, _thoughts(solution)
    if not all(parts):
        return None
    pieces: list[Piece] = []
    for i, nodes in enumerate(parts):
        if i % 2:
            pieces.append(tree_piece("doubt", source, nodes, settings.train_phrases))
            continue
        wrong = i < len(parts) - 1 and _grade_of(solution, nodes).status == "wrong"
        role = "mistake" if wrong else "recovery" if i else "solution"
        piece = tree_piece(role, source, nodes, not (wrong and settings.mask_mistakes))
        if i < len(parts) - 1 and settings.boxes == "cut":
            before = [node for part in parts[:i] for node in part]
            context = tree_piece(role, source, before, True) if before else None
            cut = before_box(piece.open(), prompting, context)
            if cut is None:
                return None
            piece = cut
        pieces.append(piece)
    return pieces


def _check(recipe: Any, name: str, settings: SecondThoughtsSettings) -> Iterator[Unfit]:
    yield from unfit(recipe, name, settings, no_second_thoughts)


BUT_WAIT = Builder(
    SecondThoughtsSettings,
    build_second_thoughts,
    label="second thoughts forced into its own search",
    check=_check,
)
