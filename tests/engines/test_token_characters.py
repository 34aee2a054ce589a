"""Which characters of a text each token adds."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_models import EOS, tokenizer

from butwait.engines.detokenizer import UNFINISHED, WINDOW, Detokenizer, text_tokens
from butwait.engines.engine import KnowsTokens, token_characters
from butwait.engines.gate import GatedEngine, TokenGate
from butwait.engines.load import PluginEngine
from butwait.engines.scripted import ScriptedEngine
from butwait.records import UserError
from tokenizer_layouts import sentencepiece

DETOKENIZER = Detokenizer(tokenizer())


def ids_of(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def characters(ids: list[int], text: str, by: Detokenizer = DETOKENIZER) -> list[int] | None:
    found = by.token_characters(np.array(ids, np.int32), text)
    return None if found is None else found.tolist()


def cut(counts: list[int], text: str) -> list[str]:
    ends = np.cumsum([0, *counts]).tolist()
    return [text[a:b] for a, b in pairwise(ends)]


def test_a_character_of_several_tokens_is_the_last_ones() -> None:
    text = "a\U0001f600é=ü7."
    ids = [*ids_of(text), EOS]
    parts = cut(characters(ids, text) or [], text)
    assert parts == ["a", "", "", "", "\U0001f600", "", "é", "=", "", "ü", "7", ".", ""]


def test_a_merge_is_one_token() -> None:
    text = "The answer is \\boxed{7}\n\n"
    parts = cut(characters(ids_of(text), text) or [], text)
    assert parts == [DETOKENIZER.decode([i]) for i in ids_of(text)]
    assert max(map(len, parts)) > 1


@given(st.lists(st.integers(0, len(tokenizer()) - 1), max_size=60))
def test_the_cuts_of_any_bytes_are_the_text(ids: list[int]) -> None:
    """Each cut lies where a decoder of the tokens before it stands, but in a long run of bytes that
    are no text."""
    text = DETOKENIZER.decode(ids)
    counts = characters(ids, text)
    assert counts is not None
    assert "".join(cut(counts, text)) == text
    assert min(counts, default=0) >= 0
    rest, strange = ids[: WINDOW - 1], 0
    for place in range(len(rest)):
        known = DETOKENIZER.decode(rest[: place + 1])
        strange = strange + 1 if known.endswith(UNFINISHED) else 0
        if not strange and place + 1 < len(ids):
            assert text[: sum(counts[: place + 1])] == known


def test_a_long_run_of_broken_bytes_is_cut_once_and_soon() -> None:
    broken = ids_of("é")[1:] * 200_000
    ids = [*ids_of("ab"), *broken, *ids_of("cd")]
    text = DETOKENIZER.decode(ids)
    counts = characters(ids, text)
    assert counts is not None
    assert "".join(cut(counts, text)) == text
    assert counts[:2] == counts[-1:] * 2 == [1, 1]


def test_an_unfinished_character_at_the_end_may_be_left_out() -> None:
    ids = ids_of("ab\U0001f600")[:-1]
    assert characters(ids, "ab") == [1, 1, 0, 0, 0]
    shown = DETOKENIZER.decode(ids)
    assert shown == f"ab{UNFINISHED}"
    assert characters(ids, shown) == [1, 1, 0, 0, 1]


@pytest.mark.parametrize("text", ["", "ac", "abc", "xab"])
def test_another_text_is_not_cut(text: str) -> None:
    assert characters(ids_of("ab"), text) is None


def test_ids_beyond_the_tokenizer_add_nothing() -> None:
    assert characters([*ids_of("a"), 5_000], "a") == [1, 0]
    assert characters([], "") == []


@pytest.mark.parametrize("kind", ["first", "every", "never"])
def test_spaces_of_sentencepiece(kind: str) -> None:
    """The first token of a text lacks its space, and only that one."""
    layout = sentencepiece(kind)
    by = Detokenizer(layout)
    text = "a  is in   é\n\n is a \U0001f600 a  \n"
    ids = text_tokens(layout, text).tolist()
    counts = characters(ids, text, by)
    assert counts is not None
    parts = cut(counts, text)
    assert "".join(parts) == text
    assert " is" in parts
    middle = characters(ids[1:], text[len(parts[0]) :], by)
    assert middle == counts[1:]


class Plain:
    """An engine that says nothing of its tokens."""

    counters = start = extend = release = close = turn = score = encode = None


class Wrong(Plain):
    def token_characters(self, token_ids: np.ndarray, text: str) -> Any:
        return np.full(len(token_ids), 1)


def test_what_stands_before_an_engine_asks_it() -> None:
    ids, scripted = np.array([1], np.int32), ScriptedEngine({"": {"abc": 1.0}})
    for engine in (
        scripted,
        PluginEngine("mine:it", scripted),
        GatedEngine(PluginEngine("mine:it", scripted), TokenGate(None)),
    ):
        assert isinstance(engine, KnowsTokens)
        assert token_characters(engine, ids, "abc").tolist() == [3]
        assert token_characters(engine, ids, "abd") is None
    plain: Any = Plain()
    assert token_characters(plain, ids, "abc") is None
    assert token_characters(GatedEngine(plain, TokenGate(None)), ids, "abc") is None
    assert token_characters(PluginEngine("mine:it", plain), ids, "abc") is None


def test_a_plugin_whose_characters_are_not_those_of_the_text_is_told() -> None:
    engine = PluginEngine("mine:it", Wrong())
    with pytest.raises(UserError, match=r"in token_characters; it must return int32 \(1,\)"):
        engine.token_characters(np.array([1], np.int32), "abc")
