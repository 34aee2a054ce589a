"""Solutions that others wrote (LIMO's, a textbook's), as examples."""

from typing import Literal

from butwait.records import Example, Problem, UserError
from butwait.records.settings import Result
from butwait.synthesis.builder import BuildCounts, Builder, Built, Material
from butwait.synthesis.pieces import UNBOXED, assemble, text_piece, thinking
from butwait.synthesis.questions import select
from butwait.synthesis.settings import DataSettings


class ExternalSettings(DataSettings):
    """Solutions that others wrote."""

    kind: Literal["external"] = "external"
    verify: Result[bool] = True
    """Leave out solutions whose own final answer is not the gold answer."""


def build_external(material: Material[ExternalSettings]) -> Built:
    """One example a problem with a solution (``columns.solution`` of the problem set), tokenised
    by the policy's tokenizer. The grader judges the solutions' own answers (``verify``).

    Raises:
        UserError: no problem has a solution; the tokenizer cannot write one.
    """
    problems, settings, key = material.problems, material.settings, material.key
    counts = BuildCounts(questions_searched=len(problems))
    kept_ids = None if material.allowed is None else set(material.allowed)
    found: dict[str, list[Example]] = {}
    for problem in problems:
        if problem.solution is None:
            counts.facts["problems without a solution"] += 1
        elif kept_ids is not None and problem.id not in kept_ids:
            counts.outside_subset += 1
        else:
            found[problem.id] = _examples(material, problem, problem.solution, counts)
    if counts.facts["problems without a solution"] == len(problems):
        raise UserError(
            "no problem has a solution; name the column that holds them (columns.solution of the "
            "problem set)"
        )
    return Built(select(found, settings, key), counts)


def _examples(
    material: Material[ExternalSettings], problem: Problem, solution: str, counts: BuildCounts
) -> list[Example]:
    settings, prompting = material.settings, material.prompting
    answer = problem.answer
    if settings.verify:
        assert material.grader is not None, "solutions are to be verified"
        grade = material.grader.grade(solution, problem)
        status = grade.status
        # Of several answers that are accepted, or that a verifier accepts, it has one of its own.
        if problem.also or problem.verifier is not None:
            answer = grade.answer
        if status != "correct":
            counts.facts[f"solutions whose answer is {status.replace('_', ' ')}"] += 1
            return []
    counts.correct += 1
    plain = settings.format == "plain"
    if not plain and not answer:
        counts.facts[UNBOXED] += 1
        return []
    pieces = [text_piece("solution", solution, prompting, True, first=plain)]
    if not plain:
        pieces = thinking(pieces, answer, prompting)
    known = {
        "builder": settings.kind,
        "problem": problem.id,
        "source": problem.source,
        "key": list(material.key.words),
    }
    example = assemble(pieces, problem, prompting.prompt_ids(problem), prompting, known)
    counts.candidate_lengths.append(len(example.completion_ids))
    return [example]


EXTERNAL = Builder(
    ExternalSettings,
    build_external,
    label="solutions that others wrote",
    supervision="external traces",
    needs_trees=False,
)
