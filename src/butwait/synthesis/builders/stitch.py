"""Wrong attempts, a doubt after each, then a verified solution of the same question.

The opposite order of search and writing: the solution was found beside the attempts, not after
them. ("Stream of Search", Gandhi et al. 2024, arXiv:2404.03683, writes the search itself down.)
"""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any, Literal

from butwait.records import Example
from butwait.records.settings import Result, Unfit
from butwait.synthesis.builder import Builder, Built, Material
from butwait.synthesis.phrases import PhraseKind, Phrases, load_phrases
from butwait.synthesis.pieces import Piece, before_box, path_pieces, phrase_piece, tree_piece
from butwait.synthesis.questions import Question, by_question
from butwait.synthesis.searches import no_other_path, unfit
from butwait.synthesis.settings import FixedNumber, InsertionSettings, Number
from butwait.synthesis.solutions import (
    choose,
    correct_solutions,
    solved_example,
    wrong_attempts,
)


class StitchSettings(InsertionSettings):
    """Wrong attempts, a doubt after each, then a correct solution of the same question."""

    kind: Literal["stitch"] = "stitch"
    attempts: Result[Number] = FixedNumber()
    """How many wrong attempts an example begins with (fewer where the search has fewer)."""
    phrase: Result[PhraseKind] = "doubt"
    """Which phrases follow an attempt."""


def build_stitch(material: Material[StitchSettings]) -> Built:
    """One example a chosen solution, which begins with the question's next wrong attempts.

    A wrong attempt is a path that was finished and graded wrong; one cut by a token limit, or
    without an answer, is none. Attempts are used in random order and one after the other, so
    that they repeat only where there are fewer than are needed. Errors are those of
    ``by_question``.
    """
    phrases = load_phrases(material.settings.phrases)
    return by_question(material, lambda material, question: _examples(material, question, phrases))


def _examples(
    material: Material[StitchSettings], question: Question, phrases: Phrases
) -> list[Example]:
    settings, key = material.settings, question.key
    pool = correct_solutions(question.trees, material.prompting, question.counts, settings.format)
    solutions = choose(pool, settings, key.derive("choose"))
    keys = [key.derive("example", i) for i in range(len(solutions))]
    wanted = [settings.attempts.draw(own.derive("number").generator()) for own in keys]
    attempts = list(islice(_attempts(material, question), sum(wanted)))
    if not attempts:
        return []
    turns = cycle(attempts)
    examples = []
    for solution, many, own in zip(solutions, wanted, keys, strict=True):
        pieces: list[Piece] = []
        for i, attempt in enumerate(islice(turns, min(many, len(attempts)))):
            phrase = phrases.draw(settings.phrase, own.derive("phrase", i))
            pieces += [attempt, phrase_piece(phrase, attempt.text, settings, material.prompting)]
        pieces += path_pieces(
            "recovery", solution.source, solution.nodes, train_phrases=settings.train_phrases
        )
        examples.append(solved_example(material, question.problem, solution, pieces, own))
    return examples


def _attempts(material: Material[StitchSettings], question: Question) -> Iterator[Piece]:
    """The question's wrong attempts, as mistakes without EOS, in random order."""
    settings, prompting = material.settings, material.prompting
    found = wrong_attempts(question.trees, prompting)
    for i in question.key.derive("attempts").generator().permutation(len(found)):
        whole = tree_piece(
            "mistake", found[i].source, found[i].nodes, not settings.mask_mistakes
        ).open()
        piece = whole if settings.boxes == "keep" else before_box(whole, prompting)
        if piece is None:
            question.counts.facts["wrong attempts with nothing before their box"] += 1
        else:
            yield piece


def _check(recipe: Any, name: str, settings: StitchSettings) -> Iterator[Unfit]:
    if len(recipe.inputs(name, "trees")) == 1:  # attempts may be another search's
        yield from unfit(recipe, name, settings, no_other_path)


STITCH = Builder(
    StitchSettings,
    build_stitch,
    label="stitched attempts of its own search",
    check=_check,
)
