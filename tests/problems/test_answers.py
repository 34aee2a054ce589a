"""Reading answers out of completions, and integers out of answers."""

import pytest

from butwait.problems.answers import (
    answer_kind,
    box_closed,
    extract_answer,
    joined_boxes,
    read_integer,
)

HALF = r"\frac{1}{2}"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{6}, no: \boxed{7}", "7"),
        (r"$\boxed{\frac{1}{2}}$", HALF),
        (r"\boxed{\boxed{\frac{1}{2}}}", HALF),
        ("\\[\n\\boxed{\n16\n}\n\\]", "16"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed 5", "5"),
        (r"\fbox{12}", "12"),
        (r"stray } brace, then { and \boxed{3}", "3"),
        (r"\boxed{12} earlier, but now \boxed{13", None),
        (r"\boxed{12} earlier, but now \boxed{}", None),
        (r"\boxed{6} or \boxed{7} or \boxed{8}", "6 or 7 or 8"),
        (r"\boxed{10} and then \boxed{42}", "42"),
    ],
)
def test_the_last_box_is_read(text: str, answer: str | None) -> None:
    assert extract_answer(text, "math") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>maybe \boxed{5}</think> \boxed{6}", "6"),
        (r"maybe \boxed{5}</think> \boxed{6}", "6"),
        (r"<think>maybe \boxed{5}", None),
        (r"<think>a</think> no box <think>\boxed{5}", None),
        ("<think> 12 appears here. The total is 12", None),
        ("", None),
    ],
)
def test_thinking_is_not_read(text: str, answer: str | None) -> None:
    assert extract_answer(text, "integer") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("9 * 2 = <<9*2=18>>18\n#### 18", "18"),
        ("#### 1,234\n", "1,234"),
        ("... = 55 + 11 = 66. So, the answer is 066.", "066"),
        (r"The last digits are: \[Answer: 009\]", "009"),
        ("✅ Final Answer: **73**", "73"),
        ("**Answer:** 42", "42"),
        ("**Final Answer**: \n\n42", "42"),
        ("The answer is $$42$$", "$$42$$"),
        ("Final Answer: The largest $n$ is 34.", "34"),
        ("The answer is 40. No: the answer is 42.", "42"),
        ("The answer to the question is 42, as 40 + 2 = 42.", "42"),
        ("So the total is 42 apples.", "42 apples"),
        ("42", "42"),
        ("It has 42 legs and 3 arms.", None),
        ("AZYUK2A", None),
        ("The answer is 9**9**9", "9**9**9"),
        ("The answer is 84, which is the total.", "84"),
        ("The answer is 15 apples (and 3 are left over).", "15 apples"),
        ("The answer is $64$ because $4^3 = 64$ and not $3^4 = 81$.", "$64$"),
        ("After all of this, 72 is the answer.", "72"),
        ("We get 42 as the answer.", "42"),
        ("Answer: p = 3/4, so 100p = 75", "75"),
        ("The answer is 36!", "36"),
        ("答案是56。", "56"),
        ("La respuesta es 36.", "36"),
        ('{"answer": 42}', "42"),
        ("So she has 84 apples left to give away.", "84 apples"),
        ("So she has at least 84 apples.", None),
        ("<think>30?</think><answer>31</answer>", "31"),
        (r"\boxed{1} <answer>\boxed{2}</answer>", "2"),
        (r"<answer> </answer> it is: \boxed{2}", "2"),
        ("```\n42\n```", "42"),
    ],
)
def test_without_a_box_the_announcement_or_the_last_line_is_read(
    text: str, answer: str | None
) -> None:
    assert extract_answer(text, "integer") == answer


def test_a_mixed_number_in_a_conclusion_is_read() -> None:
    assert extract_answer("So she needs 2 1/2 cups.", "math") == "2 1/2 cups"
    assert extract_answer("So 5 of 2 1/2 cups are left.", "math") is None


def test_the_last_formula_is_read_where_the_answer_is_no_integer() -> None:
    assert extract_answer("y=5 is used to get x: $x=6$", "math") == "$x=6$"
    assert extract_answer("we get\n$$P = \\frac{3}{4}$$", "math") == r"P = \frac{3}{4}"
    assert extract_answer("-1 + sqrt(3)", "math") == "-1 + sqrt(3)"


def test_boxes_are_joined_only_where_they_form_a_list() -> None:
    assert joined_boxes(r"$\boxed{2}, \boxed{3}, \text{and} \boxed{5}$") == "2, 3, 5"
    assert joined_boxes(r"$x = \boxed{1}$ or $x = \boxed{-2}$") == "1, -2"
    assert joined_boxes(r"\boxed{1} no no no no \boxed{2}") is None
    assert joined_boxes(r"\boxed{7}. Is it \boxed{7}?") is None
    assert joined_boxes(r"\boxed{1}, \boxed{2}, \boxed{3") is None


def test_box_closed() -> None:
    assert box_closed(r"\boxed{\frac{1}{2}}")
    assert box_closed(r"\boxed{1} then \boxed{2")
    assert box_closed(r"<think>x</think>\boxed{1}")
    assert box_closed(r"\boxed{1} <think> hm")
    assert not box_closed(r"\boxed{\frac{1}{2}")
    assert not box_closed(r"<think>\boxed{1}")
    assert not box_closed("no box")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("073", 73),
        ("-0", 0),
        ("−5", -5),
        ("1,234", 1234),
        ("1{,}234", 1234),
        (r"\$15,\!000", 15000),
        ("1 234", 1234),
        ("27.0", 27),
        ("10^6", 10**6),
        (r"1.5 \times 10^3", 1500),
        (r"\frac{3245}{5}", 649),
        (r"\sqrt{144}", 12),
        ("5!", 120),
        (r"\binom{5}{2}", 10),
        (r"64\text{ square feet}", 64),
        (r"865 \mbox{ inches}^2", 865),
        ("72 degrees", 72),
        ("3 million", 3_000_000),
        (r"m+n = 73", 73),
        ("12 = x", 12),
        ("((5))", 5),
        ("6 or 6", 6),
        ("2 2/3", None),
        (r"2\frac{1}{2}", None),
        ("0.05", None),
        (r"9\%", None),
        ("(1,234)", None),
        ("12,34", None),
        ("5 or 6", None),
        ("x=5, y=6", None),
        (r"\pm 5", None),
        (r"\approx 5", None),
        ("5x", None),
        ("5m", None),
        ("5 m", 5),
        (r"100\,m^2", 100),
        ("5 m + 3", None),
        ("2024-01-05", None),
        ("5万", None),
        ("2ab", None),
        ("x^2+y^2=5", None),
        (r"4\sqrt{2}", None),
        ("9**9**9**9", None),
        ("100000000!", None),
        ("7" * 5000, None),
        ("five", 5),
        ("twenty-one apples", 21),
        (r"\text{one hundred and four}", 104),
        (r"3 \text{ squared}", 9),
        (r"5 \text{ dozen}", 60),
        (r"\text{half of } 12", 6),
        (r"7 \text{ tenths}", None),
        (r"\text{not } 6", None),
        (r"\text{at least } 5", None),
        (r"5 \text{ or more}", None),
        (r"\lfloor 3.7 \rfloor", 3),
        (r"\gcd(12,18)", 6),
        (r"|-3|", 3),
        (r"{5 \choose 2}", 10),
        (r"\textcolor{red}{25}", 25),
        (r"\underline{16}", 16),
        ("42\u200b", 42),
        ("45元", 45),
        ("three four", None),
        ("", None),
    ],
)
def test_integers_as_they_are_written(text: str, value: int | None) -> None:
    assert read_integer(text) == value


def test_the_kind_of_a_gold_answer() -> None:
    assert [answer_kind(g) for g in ("073", "1,234", "-5", "$12$")] == ["integer"] * 4
    others = ("2x+4y-3=0", "x=5", r"9\%", "(1,234)", "0.5", r"\frac{4}{2}", None, "")
    assert [answer_kind(g) for g in others] == ["math"] * 8


# Linear time is a second or two here; quadratic time would be minutes.
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{" * 200_000, None),
        (r"\boxed{1} or " * 200_000, "1"),
        ("$ " * 500_000, None),
        (r"\[ " * 400_000, None),
        (r"\( \) " * 200_000, None),
        ("<answer>" * 100_000, None),
        ("answer to " * 100_000, None),
        ("**" * 400_000, None),
        ("answer " * 200_000, None),
        ("((((" * 200_000, None),
        ("1, " * 400_000, None),
        ("is " * 400_000, None),
    ],
    ids=[
        "open boxes",
        "hedges",
        "dollars",
        "displays",
        "inline",
        "tags",
        "answers",
        "stars",
        "words",
        "brackets",
        "list",
        "copulas",
    ],
)
def test_reading_hostile_text_takes_linear_time(text: str, answer: str | None) -> None:
    assert extract_answer(text, "math") == answer
    assert extract_answer(text, "integer") == answer
    assert box_closed(text) == (answer is not None)
    assert joined_boxes(text) is None
