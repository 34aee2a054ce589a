r"""Ends a thought before it states its answer.

A path of the trained model ends at its first closed ``\boxed``: a mistake that keeps its box would
teach the model to answer before it doubts.
"""

import re

from butwait.synthesis.built import Prompting
from butwait.synthesis.pieces import Piece

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_SENTENCE_END = re.compile(r"[.!?]\s+|\n")
_OPENED = re.compile(r"(?:\\\[|\$\$|\\begin\{[a-z]+\*?\})\s*$")


def before_box(piece: Piece, prompting: Prompting, context: Piece | None = None) -> Piece | None:
    """The piece up to the sentence (or line) that its first box stands in, cut between tokens.

    Args:
        piece: a stretch of a path.
        prompting: its tokenizer.
        context: the path before the piece; None where it begins the path.

    Returns:
        The piece itself where it has no box; None where nothing would be left.
    """
    box = BOX.search(piece.text)
    if box is None:
        return piece
    room = _last_sentence_end(piece.text, box.start())
    while opened := _OPENED.search(piece.text, 0, room):  # the formula that the box stands in
        room = _last_sentence_end(piece.text, opened.start())
    tokens, characters = _fit(piece, room, prompting, context)
    return piece.kept(tokens, characters) if piece.text[:characters].strip() else None


def _last_sentence_end(text: str, before: int) -> int:
    ends = [end.end() for end in _SENTENCE_END.finditer(text, 0, before)]
    return ends[-1] if ends else 0


def _fit(piece: Piece, room: int, prompting: Prompting, context: Piece | None) -> tuple[int, int]:
    """(tokens, characters): the most tokens of the piece whose text is whole and within ``room``
    characters. Found by bisection, as decoding is the only way from tokens to characters."""
    ids, before = ([], "") if context is None else (context.token_ids.tolist(), context.text)
    own, text = piece.token_ids.tolist(), before + piece.text

    def decoded(tokens: int) -> str:
        return prompting.decode([*ids, *own[:tokens]])

    low, high = 0, len(own)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decoded(middle)) <= len(before) + room:
            low = middle
        else:
            high = middle - 1
    while low and not text.startswith(decoded(low)):  # part of a character
        low -= 1
    return low, len(decoded(low)) - len(before) if low else 0
