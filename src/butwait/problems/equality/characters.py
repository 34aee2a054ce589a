"""Unicode in answers, brought to LaTeX: operators, letters, fractions, powers, full-width signs."""

import re
import unicodedata

LATIN = "a-zA-Z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
"""Letters of words in Latin script, for a class of characters."""
FOREIGN = (
    "(?:(?=[\u0400-\u1cff\u2d00-\u2dff\u3005-\ufaff\ufb1d-\ufdff\ufe70-\ufefc\uff66-\uffdc"
    "\U00010000-\U0001cfff\U0001e800-\U0003ffff])[^\\W\\d_])"
)
"""One letter of any other script: no Greek, no signs and no alphabets of mathematics."""
_SIGNS = {
    **dict.fromkeys("−–—‐‑﹣", "-"),
    **dict.fromkeys("·⋅∙•∗", "\\cdot "),
    **dict.fromkeys("°˚º", "^\\circ "),
    **dict.fromkeys("…⋯", "\\ldots "),
    **dict.fromkeys("′ʹ’", "'"),
    **dict.fromkeys("″“”", '"'),
    **dict.fromkeys("÷⁄∕", "/"),
    **dict.fromkeys("∅⌀", "\\emptyset "),
    **dict.fromkeys("⇒⟹∴", "\\Rightarrow "),
    **dict.fromkeys("→⟶", "\\to "),
    **dict.fromkeys("∣❘", "|"),
    **dict.fromkeys("≥⩾≧", "\\geq "),
    **dict.fromkeys("≤⩽≦", "\\leq "),
    **dict.fromkeys("≈≃≅", "\\approx "),
    "×": "\\cdot ",
    "≠": "\\neq ",
    "≡": "\\equiv ",
    "∞": "\\infty ",
    "±": "\\pm ",
    "∓": "\\mp ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∖": "\\setminus ",
    "∈": "\\in ",
    "∧": "\\land ",
    "∨": "\\lor ",
    "⟨": "\\langle ",
    "⟩": "\\rangle ",
    "⌊": "\\lfloor ",
    "⌋": "\\rfloor ",
    "⌈": "\\lceil ",
    "⌉": "\\rceil ",
    "∠": "\\angle ",
    "∀": "\\forall ",
    "∑": "\\sum ",
    "∏": "\\prod ",
    "∫": "\\int ",
    "。": ".",
    "、": ",",
    "ℯ": "e",
    "ⅈ": "i",
    **{letter: f"\\mathbb{{{name}}}" for letter, name in zip("ℝℤℕℚℂ", "RZNQC", strict=True)},
}
_GREEK = {
    letter: f"\\{unicodedata.name(letter).rsplit(' ', 1)[1].lower()} "
    for letter in "αβγδεζηθκλμνξπρστφχψω"
} | {
    letter: f"\\{unicodedata.name(letter).rsplit(' ', 1)[1].capitalize()} "
    for letter in "ΓΔΘΛΞΠΣΦΨΩ"
}
_GREEK |= {"λ": "\\lambda ", "Λ": "\\Lambda ", "ϕ": "\\phi ", "µ": "\\mu ", "ϵ": "\\epsilon "}
_ALL = _SIGNS | _GREEK
_SIGN = re.compile(f"[{re.escape(''.join(_ALL))}]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_FRACTION = re.compile("[¼-¾⅐-⅞↉]")
_SLASHED = re.compile(r"(\d+)⁄(\d+)")
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣ⁽⁾", "0123456789-+nx()")
_POWER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣ⁽⁾]+")
_INDEX = re.compile("[₀-₉]+")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z]))?")
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}
_DOTTED = re.compile("(\\d)\u0307")


def to_latex(text: str) -> str:
    """``text`` with its Unicode signs as LaTeX and ASCII, and without invisible characters."""
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    text = _FRACTION.sub(_vulgar, text)
    text = _SLASHED.sub(r"\\frac{\1}{\2}", text)
    text = _DOTTED.sub(r"\\dot{\1}", text)
    text = _POWER.sub(lambda m: "^{" + m[0].translate(_POWERS) + "}", text)
    text = _INDEX.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
    text = _ROOT.sub(_root, text)
    text = unicodedata.normalize("NFKC", _SIGN.sub(_sign, text))
    return _SIGN.sub(_sign, text)  # mathematical italics became plain Greek


def _sign(match: re.Match[str]) -> str:
    return _ALL[match[0]]


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return f"\\frac{{{top}}}{{{bottom}}}"


def _root(match: re.Match[str]) -> str:
    inside = f"{{{match[2]}}}" if match[2] else ""
    return f"\\sqrt{_DEGREES[match[1]]}{inside}"
