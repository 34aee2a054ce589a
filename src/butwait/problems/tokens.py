"""Texts to token ids, such that what somebody else wrote stays text.

A tokenizer takes the name of a special token, wherever it stands, for the token itself: a question
that quotes ``<|im_end|>`` would end its own turn. Such a name is parted after its first character
and its parts are tokenised on their own, which every tokenizer can do. Other texts are tokenised as
ever.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any
from unicodedata import normalize

from butwait.records import UserError

_TAG = re.compile("think|thought|reason|answer", re.IGNORECASE)
_SPACED = re.compile(r"\s*(</?think>)\s*")
_HALF = re.compile("[\ud800-\udfff]")
_LAST = 0x10FFFD
"""The last character of the private planes, which no text needs."""

Encode = Callable[[str], Iterable[int]]


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The special tokens of a tokenizer, by id; one of another make has none."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    roles = set(getattr(tokenizer, "all_special_ids", ()))  # not all of them are marked
    return {i: token.content for i, token in added.items() if token.special or i in roles}


def tags(tokenizer: Any) -> dict[int, str]:
    """Those special tokens that open or close a thought or an answer (``</think>``, ``[/THINK]``,
    ``<answer>``): where these are is a part of what a completion says."""
    ends = {getattr(tokenizer, f"{end}_token", None) for end in ("bos", "eos", "pad", "unk")}
    special = special_tokens(tokenizer)
    return {i: name for i, name in special.items() if _TAG.search(name) and name not in ends}


def bare(text: str) -> str:
    """A text for comparison with what came back from tokens: those of tags may take the white space
    around them in."""
    return normalize("NFC", _SPACED.sub(r"\1", text))


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that the recipe's author or a template wrote, none added around it; the
    names of special tokens are these tokens. Raises UserError for half a character."""
    if (half := _HALF.search(text)) is not None:
        raise UserError(
            f"{text[max(0, half.start() - 30) : half.end() + 30]!r} holds half a character "
            f"(U+{ord(half[0]):04X}), which no tokenizer can read: mend the text"
        )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def text_ids(tokenizer: Any, text: str, written: str = "") -> list[int]:
    """The tokens of a text that somebody else wrote, on its own: tags (``tags``) are tokens, all
    else is text.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        text: a step, a solution.
        written: what is written around it; added tokens that it names are not taken from the text
            either.
    """
    parted, mark = part(tokenizer, text, written, keep_tags=True)
    return joined(partial(ids_of, tokenizer), parted, mark)


def part(
    tokenizer: Any, text: str, written: str = "", *, within: str = "", keep_tags: bool = False
) -> tuple[str, str]:
    """A text in which the names of special tokens are parted.

    Args:
        tokenizer: whose special tokens.
        text: what somebody else wrote.
        written: added tokens that are not special count where this names them.
        within: what the text will stand in.
        keep_tags: whether tags stay whole.

    Returns:
        The text, and the character that stands where it is to be parted; it is nowhere else.
    """
    mark = next(c for c in map(chr, range(_LAST, 0, -1)) if c not in text and c not in within)
    names = _names(tokenizer, len(tokenizer), written, keep_tags)
    if names is None:
        return text, mark
    return names.sub(lambda first: first[0] + mark, text), mark


def joined(encode: Encode, text: str, mark: str) -> list[int]:
    """The tokens of a text that is parted at marks."""
    first, *rest = text.split(mark)
    return [*encode(first), *(i for piece in rest for i in following(encode, piece))]


def following(encode: Encode, text: str) -> list[int]:
    """The tokens of a text that follows another one.

    Tokenizers of SentencePiece put a space before every text, which is wrong within one: there it
    is put before a line break, and both are taken away again.
    """
    start = list(encode("\n"))

    def after_it(text: str) -> list[int] | None:
        both = list(encode("\n" + text))
        return both[len(start) :] if both[: len(start)] == start else None

    plain = after_it("Qz")
    if not plain or plain == list(encode("Qz")):  # nothing is put before a text
        return list(encode(text))
    after = after_it(text)
    return list(encode(text)) if after is None else after


@lru_cache(maxsize=8)
def _names(tokenizer: Any, size: int, written: str, keep_tags: bool) -> re.Pattern[str] | None:
    """The first character of what is to be parted in a text. ``size`` is the tokenizer's, which
    may grow."""
    added = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    names = {name for name in added if name in written} | set(special_tokens(tokenizer).values())
    if keep_tags:
        names -= {name for name in names if _TAG.search(name)}
    # What is white space or one character is text to everybody.
    parted = sorted(re.escape(name) for name in names if len(name.strip()) > 1)
    # One name may begin within another.
    return re.compile(rf"(?={'|'.join(parted)}).", re.DOTALL) if parted else None
