"""Solutions that others wrote (LIMO's, a textbook's), as examples."""

from collections.abc import Iterable, Sequence
from typing import Any

from butwait.problems.grading import Grader
from butwait.records import Example, Key, Problem, UserError
from butwait.synthesis.build import select
from butwait.synthesis.built import BuildCounts, Built, Prompting
from butwait.synthesis.pieces import assemble, text_piece, thinking
from butwait.synthesis.settings import ExternalSettings


def build_external(
    problems: Sequence[Problem],
    prompting: Prompting,
    grader: Grader,
    settings: ExternalSettings,
    key: Key,
    allowed: Iterable[str] | None = None,
) -> Built:
    """One example a problem with a solution, tokenised by the policy's tokenizer.

    Args:
        problems: with ``solution`` (``columns.solution`` of the problem set).
        prompting: of the policy.
        grader: judges the solutions' own answers (``verify``).
        settings: the builder's.
        key: randomness of the order.
        allowed: problem ids of the subset; None: all.

    Raises:
        UserError: no problem has a solution; the tokenizer cannot write one.
    """
    counts = BuildCounts(questions_searched=len(problems))
    kept_ids = None if allowed is None else set(allowed)
    found: dict[str, list[Example]] = {}
    for problem in problems:
        if problem.solution is None:
            counts.facts["problems without a solution"] += 1
        elif kept_ids is not None and problem.id not in kept_ids:
            counts.outside_subset += 1
        else:
            found[problem.id] = _examples(problem, prompting, grader, settings, counts, key)
    if counts.facts["problems without a solution"] == len(problems):
        raise UserError(
            "no problem has a solution; name the column that holds them (columns.solution of the "
            "problem set)"
        )
    return Built(select(found, settings, key), counts)


def _examples(
    problem: Problem,
    prompting: Prompting,
    grader: Grader,
    settings: ExternalSettings,
    counts: BuildCounts,
    key: Key,
) -> list[Example]:
    assert problem.solution is not None, "the caller looked"
    if settings.verify:
        status = grader.grade(problem.solution, problem).status
        if status != "correct":
            counts.facts[f"solutions whose answer is {status.replace('_', ' ')}"] += 1
            return []
    counts.correct += 1
    pieces = [text_piece("solution", problem.solution, prompting, True)]
    if settings.format == "think":
        pieces = thinking(pieces, problem.answer or "", prompting)
    known: dict[str, Any] = {
        "builder": "external",
        "problem": problem.id,
        "source": problem.source,
        "key": list(key.words),
    }
    example = assemble(pieces, problem, prompting.prompt_ids(problem), prompting, known)
    counts.candidate_lengths.append(len(example.completion_ids))
    return [example]
