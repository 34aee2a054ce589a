"""Steps that arrive in chunks end where the same tokens end one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_models import EOS, tokenizer

from butwait.engines.detokenizer import Detokenizer
from butwait.engines.engine import Prefix
from butwait.engines.settings import StepRule
from butwait.engines.steps import ArrivingStep, GrowingStep, StepDetector, cut

DETOKENIZER = Detokenizer(tokenizer())
PROMPT = np.array([5, 6, 7], np.int32)
BOX = StepRule(delimiters=("\n\n",), max_step_tokens=12, max_tokens=20)


def ids(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def detector(rule: StepRule = BOX) -> StepDetector:
    return StepDetector(DETOKENIZER, rule, [EOS])


def after(completion: str = "") -> Prefix:
    token_ids = np.concatenate([PROMPT, np.array(ids(completion), np.int32)])
    return Prefix(token_ids, len(PROMPT), completion)


def length(tokens: list[int], text: str) -> int:
    """How many of the tokens make up the text."""
    return next(n for n in range(len(tokens) + 1) if tokenizer().decode(tokens[:n]) == text)


def arrive(step: ArrivingStep, tokens: list[int], sizes: list[int]) -> ArrivingStep:
    """Hands over tokens in chunks of these sizes (then the rest), with -0.5, -1.5, ... nats."""
    begin = 0
    for size in [*sizes, len(tokens)]:
        chunk = range(begin, min(begin + size, len(tokens)))
        step.add([tokens[i] for i in chunk], [-i - 0.5 for i in chunk])
        begin += size
    return step


@pytest.mark.parametrize(
    ("text", "eos", "taken", "finish"),
    [
        ("So 3.\n\nThe", False, "So 3.\n\n", "step"),
        ("abcdefghijklmno", False, None, "step_limit"),
        ("\\boxed{7} so", False, "\\boxed{7}", "box"),
        ("7", True, "7", "eos"),
    ],
)
def test_a_chunk_is_cut_where_the_step_ends(text, eos, taken, finish) -> None:
    tokens = [*ids(text), *([EOS, EOS] if eos else [])]
    step = arrive(ArrivingStep(detector(), after()), tokens, [])
    n = 12 if taken is None else length(tokens, taken) + eos
    result = step.continuation(prefilled_tokens=3)
    assert result.finish == finish
    assert result.token_ids.tolist() == tokens[:n]
    assert result.logprobs.tolist() == [-i - 0.5 for i in range(n)]
    assert result.text == tokenizer().decode(tokens[: n - eos])
    assert result.overshoot_tokens == len(tokens) - n
    assert (result.prefilled_tokens, result.prefix.handle) == (3, None)
    assert result.prefix.token_ids.tolist() == [*PROMPT, *tokens[:n]]
    assert result.token_ids.dtype == result.prefix.token_ids.dtype == np.int32
    assert result.logprobs.dtype == np.float32


def test_a_box_may_open_in_the_step_before() -> None:
    step = ArrivingStep(detector(), after("So \\boxed{"))
    assert step.add(ids("7} so"), [0.0] * len(ids("7} so"))) == "box"
    result = step.continuation(0)
    assert (result.text, result.prefix.text) == ("7}", "So \\boxed{7}")


def test_a_character_may_span_chunks() -> None:
    first, *rest = ids("½\n\n")
    step = ArrivingStep(detector(), after())
    assert step.add([first], [0.0]) is None
    assert step.add(rest, [0.0] * len(rest)) == "step"
    assert step.continuation(0).text == "½\n\n"


def test_room_is_what_rule_and_context_leave() -> None:
    prefix = after("So 3")
    used = len(prefix.token_ids) - len(PROMPT)
    assert ArrivingStep(detector(), prefix).room == min(12, 20 - used)
    step = ArrivingStep(detector(), prefix, context_room=5)
    assert step.room == 5
    step.add(ids("x"), [0.0])
    assert step.room == 4


def test_a_path_without_room_has_ended() -> None:
    step = ArrivingStep(detector(), after(), context_room=0)
    assert step.finish == "length"
    result = step.continuation(0)
    assert (len(result.token_ids), result.text, result.prefix.text) == (0, "", "")


def test_a_context_that_ends_early_truncates_the_path() -> None:
    """Its text is whole, an unfinished character shown as it is."""
    step = ArrivingStep(detector(), after())
    tokens = ids("x½")[:-1]
    step.add(tokens, [0.0] * len(tokens))
    assert step.finish is None
    step.end_of_context()
    result = step.continuation(0)
    assert (result.finish, result.text) == ("length", "x\ufffd")
    assert result.token_ids.tolist() == tokens


def test_chunks_after_the_end_are_overshoot() -> None:
    tokens = ids("a\n\nbcd")
    n = length(tokens, "a\n\n")
    step = arrive(ArrivingStep(detector(), after()), tokens, [n, 1])
    result = step.continuation(0)
    assert (len(result.token_ids), result.overshoot_tokens) == (n, len(tokens) - n)


def test_cut_goes_on_with_all_of_a_chunk_that_ends_nothing() -> None:
    a_detector = detector()
    tokens = np.array(ids("So 3\n"), np.int32)
    growing = GrowingStep(a_detector, Prefix(np.zeros(0, np.int32), 0))
    assert cut(a_detector, growing, tokens, read=1) == (len(tokens), None)


PIECES = st.sampled_from(["So ", "3", "½", "\n", "\\boxed{", "}", "<think>", "</think>", "é}\n"])


@given(
    texts=st.lists(PIECES, min_size=1, max_size=12),
    sizes=st.lists(st.integers(1, 5), max_size=12),
    ends=st.booleans(),
)
def test_any_chunks_give_what_single_tokens_give(texts, sizes, ends) -> None:
    tokens = [*ids("".join(texts)), *([EOS] if ends else []), *ids("\n\n" * 12)]
    rule = BOX.model_copy(update={"delimiters": ("\n\n", "3"), "max_step_tokens": 15})
    one_by_one = arrive(ArrivingStep(detector(rule), after("b ")), tokens, [1] * len(tokens))
    chunked = arrive(ArrivingStep(detector(rule), after("b ")), tokens, sizes)
    a, b = one_by_one.continuation(0), chunked.continuation(0)
    assert (a.finish, a.text, a.prefix.text) == (b.finish, b.text, b.prefix.text)
    assert a.token_ids.tolist() == b.token_ids.tolist()
    assert a.logprobs.tolist() == b.logprobs.tolist()
    assert a.overshoot_tokens == b.overshoot_tokens == len(tokens) - len(a.token_ids)
