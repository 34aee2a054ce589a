"""``format: think`` ends in the answer that was verified, or makes no example."""

import pytest
from synthesis_cases import BOX, KEY, PROMPTING, TreeBuilder, make_problem

from butwait.problems.grading import Grader
from butwait.records import Grade, Problem, UserError
from butwait.synthesis.builder import BUILDERS, BuildCounts, Built, Material, StoredTree
from butwait.synthesis.builders.external import ExternalSettings, build_external
from butwait.synthesis.builders.verified import VerifiedSettings
from butwait.synthesis.pieces import UNBOXED, path_pieces
from butwait.synthesis.solutions import correct_solutions, solved_example

FROM_TREES = [kind for kind in BUILDERS if BUILDERS[kind].needs_trees]


def two_solutions() -> StoredTree:
    """One that says its answer and one that does not, both called correct by a verifier, beside a
    wrong attempt; each thought again."""
    tree = TreeBuilder("q")
    tree.end(tree.add(0, "Dead.\n\n"), "Off.\n" + BOX[5], status="wrong")
    for ends in ("So " + BOX[4], "So it is four."):
        thought = tree.add(0, f"First {len(ends)}.\n\n")
        tree.end(tree.add(thought, "But wait,\n\n", "inserted"), ends)
    tree.grades[tree.leaves[-1]] = Grade(None, "correct", 1.0)
    return tree.stored()


@pytest.mark.parametrize("kind", FROM_TREES)
def test_solutions_without_an_answer_are_left_out_and_counted(kind: str) -> None:
    def built(format: str) -> Built:
        settings = BUILDERS.parse({"kind": kind, "format": format})
        material = Material([two_solutions()], [make_problem("q")], PROMPTING, settings, KEY)
        return BUILDERS[kind].build(material)

    assert len(built("plain").examples) == 2
    (example,) = built("think").examples
    assert example.text.endswith(f"So {BOX[4]}\n</think>\n\n{BOX[4]}")
    assert built("think").counts.facts[UNBOXED] == 1


def test_a_builder_of_ones_own_that_takes_such_a_solution_is_told() -> None:
    stored, settings = two_solutions(), VerifiedSettings(format="think")
    material = Material([stored], [make_problem("q")], PROMPTING, settings, KEY)
    solution = correct_solutions([stored], PROMPTING, BuildCounts())[-1]
    pieces = path_pieces("solution", stored, solution.nodes, train_phrases=False)
    with pytest.raises(UserError, match="no answer can be read in a solution"):
        solved_example(material, make_problem("q"), solution, pieces, KEY)


def even(question: str, answer: str | None, metadata: dict) -> float:
    return float(answer is None or int(answer) % 2 == 0)


@pytest.mark.parametrize(
    ("solution", "gold", "verify", "boxed"),
    [
        ("So " + BOX[6], None, True, BOX[6]),  # the gold answer is not known
        ("So " + BOX[6], "4", True, BOX[6]),  # and not the one that was verified
        ("So it is six", "4", True, None),
        ("So " + BOX[6], "4", False, BOX[4]),
        ("So " + BOX[6], None, False, None),
    ],
)
def test_solutions_of_others_end_in_what_a_verifier_called_correct(
    solution: str, gold: str | None, verify: bool, boxed: str | None
) -> None:
    asked = Problem("q", "What is even?", gold, "integer", solution, verifier="own:even")
    settings = ExternalSettings(format="think", verify=verify)
    with Grader(verifiers={"own:even": even}) as grader:
        built = build_external(Material([], [asked], PROMPTING, settings, KEY, grader=grader))
    ends = [example.text.removeprefix(f"<think>\n{solution}\n") for example in built.examples]
    assert ends == ([] if boxed is None else [f"</think>\n\n{boxed}"])
    assert built.counts.facts[UNBOXED] == (boxed is None)
