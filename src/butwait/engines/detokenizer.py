"""Text to token ids, and token ids to text, a piece at a time, without breaking a character that
spans tokens."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from butwait.problems.tokens import special_tokens, tags, text_ids

UNFINISHED = "\ufffd"
"""What a decoder gives for bytes that are no whole character (yet)."""

WINDOW = 16
"""Tokens before the new ones that are decoded along with them: enough for a decoder that treats
the first token of a text differently (SentencePiece drops its space)."""


def text_tokens(tokenizer: Any, text: str) -> np.ndarray:
    """int32 (n,): the tokens of ``text`` by a ``transformers`` tokenizer, none added around it.

    They are the tokenizer's for the text alone: nothing is merged with the tokens before, which
    stay as they were sampled. Names of special tokens in it are text, but for tags
    (``problems.tokens.tags``).
    """
    return np.array(text_ids(tokenizer, text), np.int32)


class Detokenizer:
    """Text of completions, special tokens left out, but for tags (``problems.tokens.tags``).

    Args:
        tokenizer: a ``transformers`` tokenizer, or anything with its ``decode`` and
            ``batch_decode`` and a length.

    Attributes:
        left_out: the special tokens that no text shows, by id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tags = tags(tokenizer)
        self.left_out = {
            i: name for i, name in special_tokens(tokenizer).items() if i not in self._tags
        }
        # The library's own wrapper takes four times as long as the tokenizer behind it, and every
        # step of every particle is decoded.
        self._backend = (
            tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a whole completion. Spaces stay as they are, so that the text of a longer
        completion begins with the text of a shorter one."""
        leave_out = True
        if self._tags and not self._tags.keys().isdisjoint(token_ids):
            leave_out, token_ids = False, [i for i in token_ids if i not in self.left_out]
        if self._backend is not None:
            return self._backend.decode(token_ids, skip_special_tokens=leave_out)
        return self._tokenizer.decode(
            token_ids, skip_special_tokens=leave_out, clean_up_tokenization_spaces=False
        )

    @cached_property
    def pieces(self) -> list[str]:
        """What each token id adds to a text, for every id of the tokenizer.

        An id is decoded after another one, as a decoder may strip the first token. A token that
        holds part of a character shows as ``UNFINISHED``.
        """
        alone = (self.decode([i]) for i in range(len(self._tokenizer)))
        anchor = next(([i] for i, t in enumerate(alone) if t.isascii() and t.isalnum()), [])
        start = len(self.decode(anchor))
        texts = self._tokenizer.batch_decode(
            [[*anchor, i] for i in range(len(self._tokenizer))],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        pieces = [text[start:] for text in texts]
        for tag in self._tags:
            pieces[tag] = self.decode([*anchor, tag])[start:]
        return pieces

    def token_characters(self, token_ids: np.ndarray, text: str) -> np.ndarray | None:
        """See ``KnowsTokens``."""
        ids = token_ids.tolist()
        added = [self.pieces[i] if i < len(self.pieces) else "" for i in ids]
        return token_characters(self.decode, added, ids, text)


def token_characters(
    decode: Callable[[list[int]], str], pieces: Sequence[str], token_ids: list[int], text: str
) -> np.ndarray | None:
    """How many characters of ``text`` each token adds: int32 (n,), None where they are not its
    tokens. A character of several tokens is its last one's.

    Args:
        decode: the text of tokens.
        pieces: what each of the tokens adds to a text, by itself (``Detokenizer.pieces``).
        token_ids: (n,), one after another, from a text's beginning or from its middle.
        text: theirs. An unfinished character at its end may be left out.
    """
    counts = np.zeros(len(token_ids), np.int32)
    at = begin = 0  # characters and tokens that are dealt with
    shown = 0  # characters after those, of tokens of which the last is unfinished
    for place, piece in enumerate(pieces):
        if begin == place and UNFINISHED not in piece:
            if not text.startswith(piece, at):
                piece = decode(token_ids[place : place + 1])  # which may lack a space in front
            if not text.startswith(piece, at):
                return None
            counts[place] = len(piece)
            at, begin = at + len(piece), place + 1
            continue
        last = place == len(pieces) - 1
        if place - begin >= WINDOW and (UNFINISHED in piece or not piece) and not last:
            continue  # no characters for long: they are those of the token that ends this
        whole = decode(token_ids[begin : place + 1])
        known = whole.rstrip(UNFINISHED)
        if last and len(text) - at > len(known):
            known = whole
        if len(known) < shown or not text.startswith(known, at):
            return None
        counts[place], shown = len(known) - shown, len(known)
        if known == whole:
            at, begin, shown = at + shown, place + 1, 0
    return counts if at + shown == len(text) else None


class GrowingText:
    """The text of a completion that grows, decoded in a window at its end.

    The text held here leaves out a character that is unfinished; it is whole again once its last
    token is there. So texts taken at any two moments differ by exactly what came between, and
    all of them together are the text of the whole completion.

    Args:
        detokenizer: decodes.
        token_ids: int (n,), the completion so far.
        text: its text, as an earlier ``GrowingText`` gave it.
    """

    def __init__(self, detokenizer: Detokenizer, token_ids: np.ndarray, text: str) -> None:
        self._detokenizer = detokenizer
        self._ids: list[int] = token_ids.tolist()
        self.text = text

    def __len__(self) -> int:
        """Tokens whose text is held."""
        return len(self._ids)

    def append(self, token_ids: Sequence[int], *, last: bool = False) -> None:
        """Adds tokens; with ``last`` an unfinished character is shown as it is."""
        first, offset = self._window()
        self._ids.extend(token_ids)
        text = self._detokenizer.decode(self._ids[first:])
        self.text += (text if last else text.rstrip(UNFINISHED))[offset:]

    def _window(self) -> tuple[int, int]:
        """Where to decode from, and how many characters of that are known already."""
        first = max(0, len(self._ids) - WINDOW)
        if first == 0:
            return 0, len(self.text)
        known = self._detokenizer.decode(self._ids[first:])
        # Cut characters at either end of the window: only the whole text is sure to fit.
        if not known or known[0] == UNFINISHED or known[-1] == UNFINISHED:
            return 0, len(self.text)
        return first, len(known)
