"""The first wrong step, against hand-computed figures."""

import numpy as np
import pytest

from butwait.problems.kinds.files import read_rows
from butwait.records import Key, UserError
from butwait.reward_models.audit.first_error import (
    chosen_threshold,
    first_error_figures,
    halves,
    judged,
    predictions,
    solution,
)

KEY = Key.of(0, "test")


def rows(*labels, question=None):
    return [
        solution({"id": f"gsm8k-{i}", "problem": question or f"q{i}", "steps": ["a", "b", "c"],
                  "label": label}, f"row {i}")
        for i, label in enumerate(labels)
    ]  # fmt: skip


def logits(*probabilities):
    p = np.array(probabilities)
    return np.log(p / (1 - p))


def test_the_first_step_below_the_threshold():
    found = np.vstack([logits(0.9, 0.4, 0.1), logits(0.9, 0.5, 0.6), [2.0, np.inf, np.inf]])
    assert predictions(found, 0.5).tolist() == [1, -1, -1]
    assert predictions(found, 0.2).tolist() == [2, -1, -1]
    assert predictions(found, 0.95).tolist() == [0, 0, 0]


def test_f1_is_the_harmonic_mean_of_both_accuracies():
    found = judged(
        rows(1, 2, 0, 0, -1, -1),
        [
            logits(0.9, 0.2, 0.9),  # found
            logits(0.9, 0.2, 0.1),  # an earlier step is blamed
            logits(0.9, 0.9),  # missed
            logits(0.1, 0.9, 0.9),  # found
            logits(0.9, 0.9, 0.9),  # left alone
            logits(0.6, 0.7),  # left alone
        ],
    )
    figures = first_error_figures(found, 0.5, KEY)
    assert (figures["accuracy_erroneous"], figures["accuracy_correct"]) == (0.5, 1.0)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert (figures["erroneous"], figures["correct"]) == (4, 2)
    low, high = figures["f1_interval"]
    assert 0 <= low < 2 / 3 < high <= 1


def test_no_erroneous_solutions_no_f1():
    figures = first_error_figures(judged(rows(-1), [logits(0.9)]), 0.5, KEY)
    assert (figures["f1"], figures["f1_interval"], figures["accuracy_correct"]) == (None, None, 1.0)


def test_everything_wrong_is_zero_and_not_undefined():
    figures = first_error_figures(judged(rows(1, -1), [logits(0.1, 0.9), logits(0.1)]), 0.5, KEY)
    assert (figures["f1"], figures["accuracy_erroneous"]) == (0.0, 0.0)


def test_the_threshold_that_is_best():
    """An overconfident model: errors lie at 0.7, right steps at 0.9."""
    found = judged(rows(1, 1, -1, -1), [logits(0.9, 0.7)] * 2 + [logits(0.9, 0.9)] * 2)
    assert first_error_figures(found, 0.5, KEY)["f1"] == 0.0
    threshold = chosen_threshold(found)
    assert 0.7 < threshold <= 0.9
    assert first_error_figures(found, threshold, KEY)["f1"] == 1.0


def test_a_question_is_in_one_half_with_all_its_solutions():
    both = [*rows(-1, -1, 1, question="same"), *rows(-1, 1, 0, -1)]
    found = judged(both, [logits(0.9, 0.8)] * 7)
    one, other = halves(found, KEY)
    assert not set(one.question) & set(other.question)
    assert len(one.question) + len(other.question) == 7
    assert len(set(one.question)) == 2
    assert len(set(other.question)) == 3


def test_rows_of_both_layouts(shared_data):
    own = solution(read_rows(shared_data / "processbench.jsonl")[0], "row 1")
    assert (own.first_error, len(own.steps), own.subset) == (1, 4, "ProcessBench/gsm8k")
    (hub,) = rows(-1)
    assert (hub.first_error, hub.subset, hub.problem.question) == (-1, "gsm8k", "q0")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "label": 0}, "row 7 is no row of ProcessBench"),
        ({"problem": "q", "steps": ["a"], "label": 1}, "row 7: label is 1; it must be a step's"),
        ({"problem": "q", "steps": [1], "label": 0}, "row 7: steps must be a list of texts"),
    ],
)
def test_other_rows_are_one_sentence(row, message):
    with pytest.raises(UserError, match=message):
        solution(row, "row 7")
