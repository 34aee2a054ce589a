"""What a completion is worth, and what the log says about completions."""

from dataclasses import replace

import pytest
from grpo_cases import HABITS, completion

from butwait.records import Grade
from butwait.running.identity import identity
from butwait.training.grpo.reward_settings import RewardSettings
from butwait.training.grpo.rewards import (
    figures,
    has_format,
    other_language,
    overlong,
    reward,
    rewards_of,
    without_reasoning,
)

PLAIN = RewardSettings()


@pytest.mark.parametrize(
    ("status", "worth"),
    [
        ("correct", 1.0),
        ("wrong", 0.0),
        ("no_answer", 0.0),
        ("truncated", 0.0),
        ("ungradable", None),
    ],
)
def test_an_answer_is_worth_one_or_nothing(status: str, worth: float | None) -> None:
    assert reward(completion(status=status), PLAIN, 100) == worth


@pytest.mark.parametrize("score", [None, 0.5, -1.0])
def test_what_never_stops_is_worth_nothing_whatever_it_boxed(score: float | None) -> None:
    cut = completion("\\boxed{1} and on and on", "correct", finish="length")
    cut = replace(cut, grade=replace(cut.grade, score=score))
    assert reward(cut, PLAIN, 100) == 0.0
    stopped = replace(cut, finish="eos")
    assert reward(stopped, PLAIN, 100) == (1.0 if score is None else score)
    assert reward(replace(cut, grade=Grade("?", "ungradable")), PLAIN, 100) is None
    worth, logged = rewards_of(
        [cut, stopped],
        RewardSettings(functions=["my:kind"]),
        100,
        GivenRewards(kind=[2.0, 3.0]),
    )
    assert worth == [2.0, 3.0 + (1.0 if score is None else score)]
    assert logged["rewards/answer"] == worth[1] / 2 - 1.5


def test_a_repeated_particle_has_no_reward() -> None:
    assert reward(completion(repeated=True), PLAIN, 100) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 = 3, so \\boxed{3}", True),
        ("\\boxed{3}", True),
        ("so 3", False),
        ("\\boxed{3} or \\boxed{4}", False),
        ("<think>hm</think> \\boxed{3}", True),
        ("<think>hm \\boxed{3}", False),  # never closed
        ("<think>hm \\boxed{3}</think> so 3", False),  # the box is inside
        ("<think>hm \\boxed{3}</think> \\boxed{3}", False),  # two boxes
        ("hm</think> \\boxed{3}", True),  # opened by the prompt
    ],
)
def test_the_format_is_one_box_behind_closed_thinking(text: str, expected: bool) -> None:
    assert has_format(text) is expected
    paid = reward(completion(text, "wrong"), RewardSettings(format=0.25), 100)
    assert paid == (0.25 if expected else 0.0)


class GivenRewards:
    """In the place of a grader: what each function gives, and what it was asked."""

    def __init__(self, **given) -> None:
        self.given, self.cases = given, []

    def rewards(self, name, cases):
        self.cases = cases
        return self.given[name.partition(":")[2]]


def test_functions_of_ones_own_are_added_by_their_weights_and_logged_by_their_names() -> None:
    rows = [
        completion("so \\boxed{1}"),
        completion("so 2", "wrong", length=9, finish="eos", answer="2"),
        completion("?", "ungradable"),
        completion("so \\boxed{3}", "wrong", answer="3"),
    ]
    grader = GivenRewards(kind=[2.0, -4.0, 1.0], rare=[0.25, 0.5, None])
    settings = RewardSettings.model_validate(
        {"format": 0.5, "functions": ["my:kind", {"function": "my:rare", "weight": -2}]}
    )
    worth, logged = rewards_of(rows, settings, 100, grader)
    assert worth == [1 + 0.5 + 2 - 0.5, -4.0 - 1.0, None, None]
    assert logged == pytest.approx(
        {
            "rewards/answer": 1 / 3,
            "rewards/format": 2 / 3,
            "rewards/kind": -1 / 3,
            "rewards/rare": 0.375,
            "rewards/rare/failed": 1 / 3,
        }
    )
    assert grader.cases[1] == {
        "question": "?",
        "answer": "2",
        "metadata": {
            "gold": "1",
            "response": "so 2",
            "length": 9,
            "finish": "eos",
            "status": "wrong",
            "score": 0.0,
        },
    }


def test_rewards_without_functions_are_the_same_result_as_before_there_were_any() -> None:
    assert identity(RewardSettings()) == "702c555a59b9366a"
    assert identity(RewardSettings(functions=["my:kind"])) != identity(RewardSettings())


def test_without_functions_nothing_more_is_logged() -> None:
    assert rewards_of([completion(), completion("?", "wrong")], PLAIN, 100, None) == ([1, 0], {})


@pytest.mark.parametrize(
    ("functions", "why"),
    [
        (["short"], "'short' is not of the form module:function"),
        (["a:b", "c:b"], "two rewards are called 'b'"),
        (["a:answer"], "two rewards are called 'answer'"),
        ([{"function": "a:b", "weight": float("inf")}], "finite number"),
    ],
)
def test_functions_that_cannot_be_told_apart_are_refused(functions, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RewardSettings.model_validate({"functions": functions})


def test_format_adds_to_a_correct_answer() -> None:
    assert reward(completion("so \\boxed{3}"), RewardSettings(format=0.25), 100) == 1.25


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 0.0), (60, 0.0), (61, -0.025), (80, -0.5), (100, -1.0)]
)
def test_the_overlong_punishment_grows_over_its_zone(length: int, expected: float) -> None:
    # Zone of 40 tokens before a limit of 100 (DAPO, eq. 13).
    assert overlong(length, 100, 40) == pytest.approx(expected)
    chosen = RewardSettings(overlong_tokens=40)
    assert reward(completion(length=length), chosen, 100) == pytest.approx(1 + expected)
    wrong = completion(status="truncated", finish="length", length=length)
    assert reward(wrong, chosen, 100) == pytest.approx(expected)


def test_an_appended_eos_costs_no_length() -> None:
    row = completion(length=61)
    row.sampled[-1] = False
    assert row.length == 60
    assert reward(row, RewardSettings(overlong_tokens=40), 100) == 1.0


GROUPS = [
    [
        completion("wait, so \\boxed{1} again", length=10, problem_id="hard"),
        completion("I was cut", "truncated", finish="length", length=20, problem_id="hard"),
        completion("I was cut", "truncated", finish="length", length=20, problem_id="hard"),
        completion("no idea", "no_answer", length=6, answer=None, problem_id="hard"),
    ],
    [
        completion("\\boxed{7}", "wrong", length=4, answer="7", problem_id="easy"),
        completion("\\boxed{7}\\boxed{8}", "wrong", length=8, answer="8", problem_id="easy"),
        completion("odd \\boxed{x} here so", "ungradable", length=8, answer="x", problem_id="easy"),
        completion("мысль \\boxed{7} is it", "wrong", length=8, answer="7", problem_id="easy"),
    ],
]


def test_every_figure_is_a_mean_over_the_completions() -> None:
    seen = figures(GROUPS, {"hard": 0.1, "easy": None}, HABITS)
    expected = {
        "length": (10 + 20 + 20 + 6 + 4 + 8 + 8 + 8) / 8,
        "truncated": 2 / 8,
        "no_answer": 1 / 8,
        "ungradable": 1 / 8,
        "duplicates": 1 / 8,
        "all_wrong_groups": 1 / 2,
        "all_right_groups": 0.0,
        "hacks/several_boxes": 1 / 8,
        # "\boxed{7}" alone, and two boxes without a word; the others reason in a few words.
        "hacks/no_reasoning": 2 / 8,
        "hacks/other_language": 1 / 8,
        "habits/doubt": 1 / 8,
        "accuracy/rarely": 1 / 4,
    }
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rate", "band"),
    [
        (0.0, "never"),
        (0.01, "rarely"),
        (0.25, "rarely"),
        (0.26, "often"),
        (0.75, "often"),
        (0.76, "mostly"),
        (1.0, "mostly"),
    ],
)
def test_accuracy_is_by_the_solve_rate_before(rate: float, band: str) -> None:
    seen = figures([GROUPS[0]], {"hard": rate}, {})
    assert {name: value for name, value in seen.items() if name.startswith("accuracy/")} == {
        f"accuracy/{band}": 0.25
    }


def test_bands_weigh_questions_and_all_right_groups_are_counted() -> None:
    right = [completion(problem_id="b")] * 2
    seen = figures([GROUPS[0], right], {"hard": 0.2, "b": 0.1}, {})
    assert seen["accuracy/rarely"] == pytest.approx((0.25 + 1) / 2)
    assert (seen["all_right_groups"], seen["all_wrong_groups"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("\\boxed{12}", "12", True),
        ("Answer: \\boxed{12}", "12", True),
        ("3 * 4 = 12 so \\boxed{12}", "12", False),
        ("no idea", None, False),
    ],
)
def test_an_answer_alone_has_no_reasoning(text: str, answer: str | None, expected: bool) -> None:
    assert without_reasoning(completion(text, answer=answer)) is expected


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("What?", "三と四で七", True),
        ("What?", "αβγδ naïve", False),  # Greek is mathematics, accents are Latin
        ("What?", "да", False),  # fewer than three letters
        ("What?", "дада", True),
        ("Сколько?", "семь штук", False),  # the question's own
        ("What?", "ℝ ∀ x ∈ ℂ → 𝔽", False),
    ],
)
def test_letters_of_another_script_are_another_language(
    question: str, text: str, expected: bool
) -> None:
    assert other_language(completion(text, question=question)) is expected
