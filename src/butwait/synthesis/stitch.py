"""Wrong attempts, a doubt after each, then a verified solution of the same question.

The opposite order of search and writing: the solution was found beside the attempts, not after
them. ("Stream of Search", Gandhi et al. 2024, arXiv:2404.03683, writes the search itself down.)
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice

from butwait.records import Example, Key, Problem
from butwait.synthesis.build import build
from butwait.synthesis.built import BuildCounts, Built, Prompting, StoredTree
from butwait.synthesis.choose import choose
from butwait.synthesis.cut import before_box
from butwait.synthesis.draws import draw
from butwait.synthesis.phrases import Phrases
from butwait.synthesis.pieces import (
    Piece,
    assemble,
    origin,
    path_pieces,
    phrase_piece,
    thinking,
    tree_piece,
)
from butwait.synthesis.settings import StitchSettings
from butwait.synthesis.solutions import Solution, correct_solutions, wrong_attempts


def build_stitch(
    trees: Iterable[StoredTree],
    problems: Sequence[Problem],
    prompting: Prompting,
    settings: StitchSettings,
    phrases: Phrases,
    key: Key,
    allowed: Iterable[str] | None = None,
) -> Built:
    """One example a chosen solution, which begins with the question's next wrong attempts.

    A wrong attempt is a path that was finished and graded wrong; one cut by a token limit, or
    without an answer, is none. Attempts are used in random order and one after the other, so
    that they repeat only where there are fewer than are needed. Arguments and errors are those
    of ``build``.
    """

    def examples_of(
        problem: Problem, trees: Sequence[StoredTree], counts: BuildCounts, key: Key
    ) -> list[Example]:
        pool = correct_solutions(trees, prompting, counts)
        solutions = choose(pool, settings.choose, settings.per_question, key.derive("choose"))
        keys = [key.derive("example", i) for i in range(len(solutions))]
        wanted = [draw(settings.attempts, own.derive("number").generator()) for own in keys]
        drawn = _attempts(trees, prompting, settings, counts, key.derive("attempts"))
        attempts = list(islice(drawn, sum(wanted)))
        if not attempts:
            return []
        turns = cycle(attempts)
        return [
            _example(
                problem,
                list(islice(turns, min(many, len(attempts)))),
                solution,
                prompting,
                settings,
                phrases,
                own,
            )
            for solution, many, own in zip(solutions, wanted, keys, strict=True)
        ]

    return build(trees, problems, settings, key, examples_of, allowed)


def _attempts(
    trees: Sequence[StoredTree],
    prompting: Prompting,
    settings: StitchSettings,
    counts: BuildCounts,
    key: Key,
) -> Iterator[Piece]:
    """The question's wrong attempts, as mistakes without EOS, in random order."""
    found = wrong_attempts(trees, prompting)
    for i in key.generator().permutation(len(found)):
        whole = tree_piece(
            "mistake", found[i].source, found[i].nodes, not settings.mask_mistakes
        ).open()
        piece = whole if settings.boxes == "keep" else before_box(whole, prompting)
        if piece is None:
            counts.facts["wrong attempts with nothing before their box"] += 1
        else:
            yield piece


def _example(
    problem: Problem,
    attempts: Sequence[Piece],
    solution: Solution,
    prompting: Prompting,
    settings: StitchSettings,
    phrases: Phrases,
    key: Key,
) -> Example:
    pieces: list[Piece] = []
    for i, attempt in enumerate(attempts):
        phrase = phrases.draw(settings.phrase, key.derive("phrase", i))
        doubt = phrase_piece(
            phrase, attempt.text, settings.separator, prompting, settings.train_phrases
        )
        pieces += [attempt, doubt]
    source = solution.source
    pieces += path_pieces("recovery", source, solution.nodes, train_phrases=settings.train_phrases)
    if settings.format == "think":
        pieces = thinking(pieces, solution.grade.answer or "", prompting)
    known = origin("stitch", problem, source, solution.leaf, key)
    return assemble(pieces, problem, source.tree.prompt_ids, prompting, known)
