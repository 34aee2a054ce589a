"""The value that a sentence of prose states: "the answer is 84, which is the total" says 84."""

import re
from collections.abc import Iterator
from itertools import pairwise

from butwait.problems.equality.arithmetic import evaluate
from butwait.problems.equality.notation import canonical
from butwait.problems.equality.numerals import hedges, in_digits
from butwait.problems.equality.units import counted, split_unit

MAX_VALUE = 2_000
"""Characters of a sentence, or of a last line, that are searched for a value."""
_MAX_WORDS = 5
"""Words of an answer in words that a clause follows."""

_STEM_WORDS = "answer 答 답 respuesta réponse resposta risposta antwort ответ 回答 정답"
_STEMS = _STEM_WORDS.split()
_ANSWER_WORD = re.compile(
    r"(?i)\banswers?\b|答案|答え|答(?=[:：])|回答|정답|답(?=[은는:])|\brespuesta|\bréponse|\bresposta"
    r"|\brisposta|\bantwort|\bответ"
)
_SAYS = re.compile(
    r"(?i)(?:\s+to\s[^.\n]{0,100}?|\s+here|\s+(?:correcta|final|finale|correcte)"
    r"|,? (?:then|therefore),?)?"
    r"[\"')\]]?\s*(?:\*\*|__)?\s*"
    r"(?:[:：=]|\b(?:is|are|es|est|é|è|ist|lautet|equals|becomes|was|(?:must|should|would|will|can|has"
    r" to|turns out to) be|comes? (?:out )?to|works out to)\b|[为是為は은는]|等于|等於|→|⇒|=>|->"
    r"|[—–-](?=\s)"
    r"|,(?=\s*[-$\\\d]))(?:\s*[:：])?"
    r"(?:\s+(?:therefore|thus|then|hence|simply|just|indeed|clearly|exactly|precisely|equal to"
    r"|given by)\b,?)*"
)
_BARE_TITLE = re.compile(r"(?i)[\s#*>_-]*(?:final\s|the\s)*$")
_BARE_VALUE = re.compile(r"\s+(?=[-$\\]*\d)")
_SAID_BEFORE = re.compile(
    r"(?:\b(?:is|are|as|(?:must|should|would|will) be)\b|=)\s+(?:\w+\s+)?(?:the|our|my|your|its)\s+"
    r"(?:\w+\s+){0,2}$"
)
_MAX_ANNOUNCEMENTS = 1_000
_CHOSEN = re.compile(
    r"(?i:\b(?:choose|choice(?: is)?|select|pick|go with|option|answer is|it is|it must be|it's)"
    r"\s+\(?)"
    r"([A-J])(?![\w'])|\(([A-J])\)\s+is\s|^\(?([A-J])\)?\s+is\s+(?:the\s+)?(?:correct|right|true)"
)
_REFUSED = re.compile(r"(?i)\b(?:not|neither|nor|or|either|incorrect|wrong|false)\b")
_YES = re.compile(r"(?i)(yes|no|true|false)\b(?=[.,;:!]|\s*$)")
_CONCLUDES = re.compile(
    r"(?i)(?:so|thus|hence|therefore|finally|consequently|in total|altogether|overall|then)\b"
)
_PLAIN_NUMBER = re.compile(r"[$€£]?-?\d[\d,]*(?:\.\d+)?(?:(?: \d+)?/\d+)?%?")
_BOLD = re.compile(r"\*\*([^*]{1,80})\*\*")
_TO = re.compile(r"\b(?:to|from)\b")
_GIVES = re.compile(r"(?i)[,;]?\s*(?:so|thus|hence|therefore|giving|which gives|and so)\b")
_DELIMITER = re.compile(r"\\\\|\\\$|\\[\[\]()]|\$")
_CLOSERS = {"\\[": "\\]", "\\(": "\\)", "$": "$"}
_PRICE = re.compile(r"\d[\d,.]*\s")
_SEPARATORS = re.compile(r"(?:\s|[,;.]|and|or)*+")
_COPULA = re.compile(r"(?:\b(?:is|are|equals|(?:will|would|must|should) be)\b|=|:)\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\\$*(])|(?<=。)\s*(?=.)")
_CLAUSE = re.compile(
    r"\s*[,;，；]\s+(?!or\b|and\b|but\b|maybe\b|possibly\b)(?=[a-zA-Z(])|\s*[，；]|\s+(?=\(|\[[a-z])"
    r"|\s+[–—-]+\s+"
    r"|\s+(?=(?:because|since|as|which|where|when|so|for|given|after|if|by|from|with|due|out"
    r"|based|using|per|in)\b)"
)
_QUOTED = re.compile(r"([\"'“‘«<*_~]+)(.*?)([\"'”’»>*_~]+)", re.DOTALL)
_SHOUTED = re.compile(r"(?<=\d)!+$")
_DECORATION = re.compile(
    r"(?<![\w)])(?:\*\*|__)|(?:\*\*|__)(?![\w(])|`|^#+\s|^[>\-*•]\s+"  # but not 9**9
)
_OPENING_DELIMITER = re.compile(r"\\[\[(]")
_LAST_DELIMITER = re.compile(r"(?<!\\)\\[\])]\s*$")
_CHOICE = re.compile(r"\(?[A-Z]\)?")
_TEXT_GROUP = re.compile(r"\\text\s*\{[^{}]*\}")
_FORMULA = re.compile(
    r"[\s\d.,;:+\-*/^!%()\[\]{}|<>=_'°$√π∞×·÷−±∪∩≤≥²³½]|\\[a-zA-Z]+|\\.|(?<![a-zA-Z])"
    r"(?:sqrt|pi|sin|cos|tan|log|ln|exp|inf|infinity|or|and|[a-zA-Z])(?![a-zA-Z])"
)

Span = tuple[int, int, str]


def announced_value(text: str) -> tuple[bool, str | None]:
    """(whether ``text`` announces an answer, the answer) by its last announcement.

    "the answer is 72", "Answer: 72", "72 is the answer", in English and a few other languages.
    """
    for word in _answer_words(text):
        if says := _SAYS.match(text, word.end()):
            return True, _announced(text[says.end() :])
        before = text[max(0, word.start() - 60) : word.start()]
        title = _BARE_VALUE.match(text, word.end())
        if title and _BARE_TITLE.match(before.rpartition("\n")[2]):
            return True, _announced(text[title.end() :])
        if said := _SAID_BEFORE.search(before):
            end = word.start() - len(before) + said.start()
            clause = text[max(0, end - MAX_VALUE) : end]
            if value := _last_value(_sentences(clause.rpartition("\n")[2])[-1]):
                return True, value
    return False, None


def _answer_words(text: str) -> Iterator[re.Match[str]]:
    """The words for "answer", the last one first."""
    lowered = text.lower()
    lowered = lowered if len(lowered) == len(text) else text
    stems = [stem for stem in _STEMS if stem in lowered]
    at = len(text)
    for _ in range(_MAX_ANNOUNCEMENTS):
        at = max((lowered.rfind(stem, 0, at) for stem in stems), default=-1)
        if at < 0:
            return
        if word := _ANSWER_WORD.match(text, at):
            yield word


def closing_value(line: str) -> str | None:
    """The value that the last sentence of ``line`` states, or None.

    A number in passing is none; after "so" or "therefore" the only number of a sentence is.
    """
    sentence = _sentences(cleaned(line))[-1]
    if len(sentence) > MAX_VALUE:
        return None
    bold = _BOLD.findall(line[-MAX_VALUE:])
    if len(bold) == 1 and _states(cleaned(bold[0])):
        return cleaned(bold[0])
    if said := _YES.match(sentence):
        return said[1]
    value = _value(sentence) or _chosen(sentence)
    return value or (_only_number(sentence) if _CONCLUDES.match(sentence) else None)


def cleaned(text: str) -> str:
    """Without markup, a closing delimiter whose opening stands elsewhere, and a full stop."""
    text = _DECORATION.sub("", text).strip()
    if _OPENING_DELIMITER.search(text) is None:
        text = _LAST_DELIMITER.sub("", text)
    text = text.rstrip(" .。").removesuffix("입니다").removesuffix("です")
    if len(text) < MAX_VALUE and (quoted := _QUOTED.fullmatch(text)) and "|" not in quoted[1]:
        text = quoted[2]
    text = text.rstrip(" .*").strip()
    surplus = text.count("}") > text.count("{")
    return text[:-1].rstrip() if surplus and text.endswith("}") else text


def math_spans(text: str) -> list[Span]:
    """(start, end, inside) of every formula in ``$``, ``$$``, ``\\(`` or ``\\[``; linear in time.

    A ``$`` before a number and a space is a price.
    """
    marks = [m for m in _DELIMITER.finditer(text) if m[0] not in ("\\\\", "\\$")]
    doubled = [
        m[0] == "$" and after[0] == "$" and m.end() == after.start() for m, after in pairwise(marks)
    ] + [False]
    following: list[dict[str, int]] = [{} for _ in range(len(marks) + 1)]
    for at in range(len(marks) - 1, -1, -1):
        following[at] = following[at + 1] | {marks[at][0]: at}
        if doubled[at]:
            following[at]["$$"] = at
    spans: list[Span] = []
    at = 0
    while at < len(marks):
        opening, width = marks[at], 2 if doubled[at] else 1
        closer = "$$" if doubled[at] else _CLOSERS.get(opening[0], "")
        start = marks[at + width - 1].end()
        end = following[at + width].get(closer) if closer else None
        price = width == 1 and opening[0] == "$" and _PRICE.match(text, start)
        if end is None or price or not text[start : marks[end].start()].strip():
            at += 1
            continue
        inside = text[start : marks[end].start()].strip()
        spans.append((opening.start(), marks[end + width - 1].end(), inside))
        at = end + width
    return spans


def _announced(rest: str) -> str | None:
    """The value in what follows an announcement: its first line that says anything."""
    at = 0
    while at < len(rest):
        end = rest.find("\n", at)
        end = len(rest) if end < 0 else end
        line = _DECORATION.sub("", rest[at:end]).strip()
        if line.strip(" $*:\\[]()"):
            sentence = _sentences(line)[0]
            value = _opening_value(sentence) or _value(sentence)
            return value or _only_number(sentence) or cleaned(sentence)
        at = end + 1
    spans = math_spans(rest)
    return spans[-1][2] if spans else None


def _sentences(line: str) -> list[str]:
    return _SENTENCE_END.split(line)


def _opening_value(sentence: str) -> str | None:
    """The value that a sentence begins with: "84, which is the total"; None where it has none."""
    sentence = cleaned(sentence)
    if not sentence or len(sentence) > MAX_VALUE:
        return None
    shouted = _SHOUTED.sub("", sentence)
    if shouted != sentence and _PLAIN_NUMBER.fullmatch(shouted):
        return shouted  # "The answer is 36!"; a factorial stands in a formula
    if _states(sentence):
        return sentence
    if letter := _chosen(sentence):
        return letter
    head = _CLAUSE.split(sentence, maxsplit=1)[0].strip()
    if head != sentence and _states(head):
        rest = sentence[len(head) :]
        result = _value(rest) if "=" in head and _GIVES.match(rest) else None
        return result or head
    spans = math_spans(sentence)
    if spans and spans[0][0] == 0:
        rest = sentence[spans[0][1] : spans[1][0] if len(spans) > 1 else len(sentence)]
        if rest[:1].isspace() and not _COPULA.search(rest):
            return spans[0][2]
    wordy = not spans and head and not _COPULA.search(head) and not any(c.isdigit() for c in head)
    return head if wordy and len(head.split()) <= _MAX_WORDS else None


def _chosen(sentence: str) -> str | None:
    """The one choice letter that a sentence names: "(D) is correct"; None where it hedges."""
    if _REFUSED.search(sentence):
        return None
    letters = {letter for found in _CHOSEN.findall(sentence) for letter in found if letter}
    letters |= set(re.findall(r"(?<![\w\\])\(([A-J])\)", sentence))
    return letters.pop() if len(letters) == 1 else None


def _only_number(sentence: str) -> str | None:
    """The only number of a sentence, with the word after it: "So she has 84 apples left"."""
    numbers = _PLAIN_NUMBER.findall(sentence)
    if len(numbers) != 1 or hedges(_TO.sub(" ", sentence)):
        return None
    before, number, after = sentence.partition(numbers[0])
    if (before and not before[-1].isspace()) or (after and after[0] not in " %."):
        return None
    unit = after.split()[:1] if after.startswith(" ") else []
    return " ".join([number, *unit]) if not unit or unit[0].isalpha() else number


def _last_value(clause: str) -> str | None:
    """The value at the end of what stands before "is the answer"."""
    clause = cleaned(clause)
    spans = math_spans(clause)
    if spans and spans[-1][1] == len(clause):
        return spans[-1][2]
    words = clause.split()
    for count in range(min(6, len(words)), 0, -1):
        tail = " ".join(words[-count:])
        if any(c.isdigit() for c in tail) and _states(tail):
            return tail
    last = words[-1] if words else ""
    return last if _CHOICE.fullmatch(last) or in_digits(last).isdigit() else None


def _value(sentence: str) -> str | None:
    """The value that a sentence ends in: itself a formula, or a formula in it, or none."""
    sentence = cleaned(sentence)
    if not sentence or len(sentence) > MAX_VALUE:
        return None
    if _is_formula(sentence) or _only_spans(sentence):
        return sentence
    spans = math_spans(sentence)
    prose = _blanked(sentence, spans)  # "=" inside a formula is no verb
    tail = sentence[max((m.end() for m in _COPULA.finditer(prose)), default=0) :].strip()
    for part in (tail, _CLAUSE.split(tail, maxsplit=1)[0].strip()):
        if part and tail != sentence and _states(part):
            return part
    return spans[-1][2] if spans else None


def _blanked(text: str, spans: list[Span]) -> str:
    parts, at = [], 0
    for start, end, _ in spans:
        parts += [text[at:start], "$" * (end - start)]
        at = end
    return "".join([*parts, text[at:]])


def _states(text: str) -> bool:
    return _is_formula(text) or _only_spans(text) or _is_quantity(text)


def _is_formula(text: str) -> bool:
    return _FORMULA.sub("", _TEXT_GROUP.sub("", text)) == ""


def _is_quantity(text: str) -> bool:
    """A number with its unit."""
    if len(text) > MAX_VALUE or not any(c.isdigit() for c in text):
        return False
    if counted(text) is not None:
        return True
    value, unit = split_unit(canonical(text))
    return bool(unit) and evaluate(value) is not None


def _only_spans(text: str) -> bool:
    """Formulas joined by nothing but separators."""
    spans = math_spans(text)
    return bool(spans) and _SEPARATORS.fullmatch(_blanked(text, spans).replace("$", "")) is not None
