"""Which answers are the same: one table per rule of docs/grading.md."""

from fractions import Fraction

import pytest

from butwait.problems.equality.algebra import same_formula
from butwait.problems.equality.arithmetic import evaluate
from butwait.problems.equality.compare import NeedsAlgebraError, UnreadableGoldError, equal
from butwait.problems.equality.cost import too_costly
from butwait.problems.equality.notation import canonical

SAME = {
    "notation": [
        (r"\frac{9}{7}", r"\dfrac97"),
        (r"\left( 3, \frac{\pi}{2} \right)", "(3, π/2)"),
        (r"14{,}916", "14,916"),
        (r"4\sqrt{2}", r"4\sqrt(2)"),
        (r"4\sqrt{2}", "4*sqrt(2)"),
        (r"x^{2}", "x²"),
        (r"\emptyset", r"\varnothing"),
        (r"10^{12}", "10**12"),
        ("x", "((x))"),
    ],
    "numbers": [
        (r"\frac{3}{2}", "1.5"),
        (r"\frac{5}{4}", "1 1/4"),
        (r"-\frac{7}{2}", r"-3\frac{1}{2}"),
        (r"\frac{1}{3}", "0.333333"),
        (r"\frac13", r"0.\overline{3}"),
        (r"\sqrt{2}", "1.41421356"),
        ("0.335", r"33.5\%"),
        (r"10\%", "0.1"),
        (r"10\%", "10"),
        (r"2^{100}", "4^{50}"),
    ],
    "formulas": [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        (r"\sqrt{x^2}", "|x|"),
        (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}"),
        (r"\sin 2x", r"2\sin x\cos x"),
        ("3-2i", "-2i+3"),
        ("-i", r"\frac{1}{i}"),
        (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
        ("2^{n+1}", r"2\cdot 2^n"),
    ],
    "lists and sets": [
        ("1,-2", r"-2 \text{ and } 1"),
        ("1,-2", r"x=1 \text{ or } x=-2"),
        (r"\{1,-2\}", "-2, 1"),
        (r"\pm 2", "2, -2"),
        (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt{5}, 1-\sqrt{5}\}"),
        (r"\{1,2,3,4\}", r"{1,3} \cup {2,4}"),
        (r"\{(1,2),(2,1)\}", "(2,1),(1,2)"),
        ("k = 45, n = 2", "n = 2, k = 45"),
        (r"\frac{1}{2}", r"0.5 \text{ or } \frac{2}{4}"),
    ],
    "tuples, intervals, matrices": [
        (r"(1,\frac{9}{2})", "(1,4.5)"),
        ("(1,-2)", "x=1, y=-2"),
        ("[-2,7]", r"-2 \le x \le 7"),
        (r"(-\infty, 3)", "3>x"),
        (r"(-\infty,-1)\cup(1,\infty)", r"x<-1 \text{ or } x>1"),
        (r"(-\infty,0)\cup(0,\infty)", r"\mathbb{R}\setminus\{0\}"),
        ("x \\in [0,1]", "[0,1]"),
        (r"\{x | x > 2\}", r"(2,\infty)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        (
            r"\begin{pmatrix}\frac12&2\\3&4\end{pmatrix}",
            r"\begin{bmatrix}0.5 & 2 \\ 3 & 4\end{bmatrix}",
        ),
    ],
    "equations and labels": [
        ("2x+4y-3=0", r"y=-\frac{1}{2}x+\frac{3}{4}"),
        (r"\cos(x^3+e^x)=\ln(x+2)", r"\ln(2+x)=\cos(e^x+x^3)"),
        ("x=5", "5"),
        ("f(x)=2x+1", "2x+1"),
        (r"3\sqrt{3}", r"|AB| = 3\sqrt{3}"),
        ("7:32", "S_1:S_2=7:32"),
        ("1:2", "2:4"),
    ],
    "words and units": [
        (r"\text{Evelyn}", "evelyn"),
        ("odd $n$", r"\text{odd } n"),
        (r"\text{(C)}", "C"),
        ("C", r"\text{(C) } 12"),
        (r"10 \text{ cm}", "10"),
        (r"64 \text{ square feet}", "64 ft^2"),
        (r"90^\circ", "90 degrees"),
        (r"\$36", "36 dollars"),
        ("1011_2", "1011_{2}"),
    ],
    "remarks and words for numbers": [
        ("2x", r"2x \text{ for all } x"),
        (r"k\pi", r"k\pi, k \in \mathbb{Z}"),
        (r"\frac{4}{5}", r"\text{four fifths}"),
        ("9", r"3 \text{ squared}"),
        ("C", "Option (C)"),
        (r"\text{no solutions}", r"\emptyset"),
    ],
    "sets, inequalities, equations to solve": [
        ("(1,4)", "x^2-5x+4<0"),
        (r"(0,3)\cup(3,5)", r"0<x<5, x \neq 3"),
        (r"ab \geq e^3", r"e^3 \leq ab"),
        ("(0,1)", "]0,1["),
        ("xy=6", r"y=\frac{6}{x}"),
        ("(1,2)", "y=2, x=1"),
    ],
    "units, times, bases, congruences": [
        (r"10 \text{ m/s}", r"36 \text{ km/h}"),
        (r"2.5 \text{ hours}", r"2 \text{ hours } 30 \text{ minutes}"),
        (r"30^\circ", r"\frac{\pi}{6}"),
        ("3:45", r"03:45 \text{ p.m.}"),
        ("101_2", "5_{10}"),
        (r"x \equiv 3 \pmod 7", r"10 \pmod 7"),
    ],
    "units of one letter": [
        (r"5 m", r"500\text{ cm}"),
        (r"5 km", "5000 m"),
        (r"100 m²", r"100\text{ m}^2"),
        (r"100 m^2", "100"),
        (r"100\text{ square meters}", r"100\,m^2"),
        (r"5 L", r"5\text{ liters}"),
        (r"2.5", "2.5 L"),
        (r"\frac{1}{2} m", "0.5"),
        (r"5\pi", r"5\pi m"),
        (r"300 K", "300"),
        (r"3 eV", r"3\text{ eV}"),
        (r"25 C", r"25\text{ C}"),
        (r"25^\circ\text{C}", "25 C"),
        (r"5\text{ m}", "5m"),
        (r"40 \text{ km/h}", r"40\ \mathrm{km\,h^{-1}}"),
        (r"40 \text{ m}^2", r"40\text{ m²}"),
        (r"5 m", "5m"),
        ("5 PM", "5:00 PM"),
        ("5pm", "5 PM"),
        ("8 am", r"8\text{ a.m.}"),
    ],
    "words of other scripts": [
        ("Москва", r"\text{москва}"),
        ("北京", "北京。"),
        ("да", "Да"),
        ("12个", r"12\text{ 个}"),
        ("5千克", "5"),
        ("Málaga", "málaga"),
    ],
    "choices with their text": [
        ("B. Paris", "B"),
        ("B: Paris", r"\text{(B)}"),
        ("B. Paris", "Paris"),
        ("B. Paris", r"\textbf{(B) Paris}"),
        ("C) 12", "C"),
        ("C) 12", "12"),
        (r"\textbf{(C)}\ 12", "(C) 12"),
        ("D. Not enough information", "D"),
    ],
    "as people write": [
        (r"(-\infty,\infty)", r"\text{all real numbers}"),
        (r"\text{all real numbers}", r"(-\infty, +\infty)"),
        (r"\text{all real numbers}", r"x \in \mathbb{R}"),
        ("1.5 x 10^3", "1500"),
        (r"1.5\times 10^3", "1.5x10^3"),
        ("6.02 x 10^23", "6.02e23"),
        ("[1,2,3]", "1,2,3"),
        ("(1,2,3)", "[1,2,3]"),
        ("5'6\"", "5 feet 6 inches"),
        ("5 hours 20 minutes", r"5 \text{ hours and } 20 \text{ minutes}"),
        ("H2O", "H_2O"),
        (r"C_6H_{12}O_6", r"\mathrm{C6H12O6}"),
        (r"(-\infty,-1)\cup(1,\infty)", r"(-\infty,-1) U (1,\infty)"),
        (r"\pm 2", "+/-2"),
        ("2024-01-05", "2024-01-05"),
        (r"3\sqrt{2} \text{ units}", r"\sqrt{18}"),
        (r"(5,\infty)", r"x > 5 \text{ cm}"),
    ],
    "wide ranges": [
        (r"\max(a,b)", r"\frac{a+b+|a-b|}{2}"),
        ("|x-3|", "|3-x|"),
        ("(-1)^n", "(-1)^{n+2}"),
        ("0.30000000000000004", "0.3"),
    ],
}
DIFFERENT = {
    "numbers": [
        ("2", "2 2/3"),
        (r"\frac{1}{3}", "0.33"),
        (r"\sqrt{2}", "1.414"),
        ("9.5", r"9.5\%"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
        ("7^{7^{10}}", "7"),
        ("10^{-9}", "0"),
        (r"\pm 2021", "2021"),
        (r"\frac{1}{2}", r"\frac{1}{2} \text{ or } \frac{1}{3}"),
    ],
    "formulas": [
        (r"4", r"4\sqrt(2)"),
        ("|x|", "x"),
        ("x^2+2x+1", "y^2+2y+1"),
        ("i", "-i"),
        ("A", "a"),
        (r"O(\log n)", r"\Theta(\log n)"),
    ],
    "shapes": [
        (r"(1,234)", "1234"),
        ("(3,1)", r"\{1,3\}"),
        (r"\{1,-2\}", "(1,-2)"),
        ("(0,9)", "[0,9)"),
        ("(1,2,3)", "(1,2)"),
        (r"1, 2, \ldots, n", r"1, 3, 5, \ldots, 2n-1"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
    "equations and labels": [
        ("x=5", "y=5"),
        ("k = 45, n = 2", "k = 2, n = 45"),
        ("f(x)=2x+1", "f(x)=2x-1"),
        ("x^2/4 + y^2/3 = 1", "x^2/16 + y^2/12 = 1"),
        ("3x-y+13=0", "3x + 4y + 14=0"),
        ("D = (0, 1)", "D = (0, 1.5)"),
        ("x<2", "x>2"),
        ("0.5", "x^2+y^2=0.5"),
        ("12:00", "1:00"),
    ],
    "words and units": [
        ("C", "B"),
        ("odd $n$", r"\text{even } n"),
        (r"\text{June 20}", "June 21"),
        (r"10 \text{ cm}", r"10 \text{ m}"),
        ("52_8", "52_7"),
        (r"\frac{1}{2}", r"\text{Yes}"),
    ],
    "units of one letter": [
        ("5 km", "5 m"),
        ("5 m", r"5\text{ cm}"),
        ("5 m", "5 g"),
        ("5 kg", "5 g"),
        ("5 h", r"5\text{ minutes}"),
        ("5 cm", "5 m"),
        (r"40 \text{ km/h}", r"40\ \mathrm{m\,h^{-1}}"),
        ("25 C", r"25^\circ\text{F}"),
        ("5m", "5"),
        ("3t", "3"),
        ("2ab", "2"),
        ("3c", "3d"),
        ("5 + 3 m", "8"),
        ("10 am", "10 pm"),
        ("5 am", "5 pm"),
        ("8 am", r"8\text{ p.m.}"),
    ],
    "words of other scripts": [
        ("Москва", "Киев"),
        ("北京", "上海"),
        ("да", "нет"),
        ("نعم", "لا"),
        ("은", "금"),
        ("12 часов", "13 часов"),
        ("Niña", "Niñ"),
        ("5", "5万"),
        ("5", r"5\text{ 以上}"),
    ],
    "texts that are no formulas": [
        ("#3", "#4"),
        ("♠", "♣"),
        ("->", "<-"),
        ("?", "x"),
        ("a→b", "b→a"),
    ],
    "choices with their text": [
        ("B. Paris", "C"),
        ("B. Paris", "C. Paris"),
        ("B. Paris", "London"),
        ("B. Paris", "B. London"),
        ("B. Paris", "(B) or (C)"),
        ("C) 12", "13"),
        (r"(A) \cup B", "A"),
    ],
    "dates and vectors": [
        ("2024-01-05", "2018"),
        ("2018", "2024-01-05"),
        ("1/2/2024", "1/4048"),
        ("555-1234", "-679"),
        ("[1,2,3]", "3,2,1"),
        ("[1,2]", "1,2"),
        ("H_2O", "H_2O_2"),
    ],
    "wide ranges": [
        ("|x+4|", "x+4"),
        (r"\min(n,50)", "n"),
        (r"\lfloor \frac{n^2}{10^6} \rfloor", "0"),
        ("n!", r"\min(n!, 10^9)"),
        ("x", "x+10^{-9}"),
        ("|x+4|=3", "x+4=3"),
        ("0.1", "0.100000001"),
    ],
    "words for numbers, hedges": [
        ("7", r"7 \text{ tenths}"),
        ("5", r"5 \text{ or more}"),
        ("5", r"\text{not } 5"),
        ("C", "(C) or (D)"),
        ("C", r"\text{(C) and (E)}"),
    ],
    "units, ratios, bases": [
        (r"12 \text{ m/s}", r"12 \text{ km/h}"),
        (r"40 \text{ km/h}", r"40 \text{ km}"),
        (r"\$12", r"12 \text{ cents}"),
        (r"30^\circ\text{C}", r"30^\circ\text{F}"),
        ("0:5", "0:7"),
        ("37_{40}", "25_{40}"),
        (r"3 \pmod 7", r"3 \pmod 5"),
        ("x>2", r"x \geq 2"),
    ],
}


def _rows(table: dict[str, list[tuple[str, str]]]) -> list:
    return [
        pytest.param(gold, answer, id=f"{rule}: {gold} | {answer}")
        for rule, pairs in table.items()
        for gold, answer in pairs
    ]


@pytest.mark.parametrize(("gold", "answer"), _rows(SAME))
def test_the_same_answer(gold: str, answer: str) -> None:
    assert equal(gold, answer, same_formula)
    assert equal(gold, gold)


@pytest.mark.parametrize(("gold", "answer"), _rows(DIFFERENT))
def test_another_answer(gold: str, answer: str) -> None:
    assert not equal(gold, answer, same_formula)


@pytest.mark.parametrize("gold", ["", "  ", r"\frac{1", "x}", r"\foo\bar{}"])
def test_an_unreadable_gold_answer_is_said_to_be_so(gold: str) -> None:
    with pytest.raises(UnreadableGoldError):
        equal(gold, "x+1", same_formula)


def test_only_formulas_need_algebra() -> None:
    assert equal("(1, 9/2)", "(1, 4.5)")
    assert not equal(r"\text{Yes}", "No")
    with pytest.raises(NeedsAlgebraError):
        equal("x+1", "1+x")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "x^{x^{x^{x^{x}}}}",
        r"\frac{5^{5^{5^{5^5}}}-5}{16}",
        "100000000!",
        "99999!!",
        r"\binom{1000000}{500000}",
        r"\sum_{k=1}^{10^9} k",
        "+".join(f"x^{{{k}}}" for k in range(200)),
        "7" * 1500 + "x",
        "(" * 100 + "x+1",
        "x" * 5000,
    ],
    ids=lambda text: text[:20],
)
def test_what_costs_too_much_is_no_closed_form(answer: str) -> None:
    assert not equal(r"\sqrt{2}", answer)  # decided without algebra, which would not end


def test_ordinary_answers_pass_the_cost_gate() -> None:
    for answer in (
        "2024^{4046}",
        "7^{7^{10}}",
        r"\frac{1}{2004!}",
        r"\binom{2024}{12}",
        "x^{2n+1}",
    ):
        assert too_costly(canonical(answer)) is None


def test_costly_gold_is_equal_to_its_own_text_only() -> None:
    tower = "9^{9^{9^{9}}}"
    assert equal(tower, tower)
    with pytest.raises(UnreadableGoldError):
        equal(tower, r"\sqrt{2}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac{1}{2}+\frac{1}{3}", Fraction(5, 6)),
        ("2^3^2", Fraction(512)),
        ("-2^2", Fraction(-4)),
        ("8^{1/3}", Fraction(2)),
        (r"2\cdot3-10/4", Fraction(7, 2)),
        (r"3\frac{1}{7}", Fraction(22, 7)),
        (r"3\frac{7}{1}", Fraction(21)),
        (r"1.\overline{27}", Fraction(14, 11)),
        (r"\frac{1}{2}\%", Fraction(1, 200)),
        ("0.05e2", Fraction(5)),
        (r"\sqrt[3]{8}", Fraction(2)),
        (r"\sqrt{2}", None),
        ("1/0", None),
        ("2+", None),
        ("(2", None),
        ("x", None),
        ("2^{100000000}", None),
        ("2^" * 400 + "2", None),
        ("(" * 200 + "2" + ")" * 200, None),
    ],
)
def test_exact_arithmetic(text: str, value: Fraction | None) -> None:
    assert evaluate(text) == value
