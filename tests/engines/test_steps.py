"""Where a step ends, and its text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_models import EOS, tokenizer

from butwait.engines.detokenizer import Detokenizer, GrowingText
from butwait.engines.engine import Prefix
from butwait.engines.settings import StepRule, StoppedRule
from butwait.engines.steps import GrowingStep, StepDetector, ends_sentence

DETOKENIZER = Detokenizer(tokenizer())


def encode(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def path(token_ids: list[int], text: str) -> Prefix:
    """A completion without a prompt."""
    return Prefix(np.array(token_ids, np.int32), 0, text)


def steps_of(
    token_ids: list[int], context_room: int | None = None, **rule: object
) -> list[tuple[str, str]]:
    """The (text, finish) of all steps of a path, as an engine would ask for them: only at
    candidates and at limits."""
    made = StoppedRule(**rule) if "stop" in rule else StepRule(**rule)
    detector = StepDetector(DETOKENIZER, made, [EOS])
    done, text, steps = 0, "", []
    while done < len(token_ids):
        room = None if context_room is None else context_room - done
        step = GrowingStep(detector, path(token_ids[:done], text), room)
        finish = None
        for end in range(done + 1, len(token_ids) + 1):
            new = np.array(token_ids[done:end], np.int32)
            if detector.may_end(new[-1:])[0] or len(new) >= step.room:
                finish = step.finish(new)
            if finish is not None:
                break
        if finish is None:
            break
        steps.append((step.text, finish))
        text += step.text
        done = end
        if finish not in ("step", "step_limit"):
            break
    return steps


def test_a_step_ends_with_its_delimiter() -> None:
    ids = encode("So 3 + 4 = 7.\n\nThen\n\nend")
    assert steps_of(ids) == [("So 3 + 4 = 7.\n\n", "step"), ("Then\n\n", "step")]


def test_delimiters_may_overlap_tokens_and_be_several() -> None:
    rule = {"delimiters": ("ab;", "?")}
    one_byte_each = [token for c in "xab;y?" for token in encode(c)]
    assert steps_of(one_byte_each, **rule) == [("xab;", "step"), ("y?", "step")]


def test_a_delimiter_lies_in_one_step() -> None:
    """Text before the step does not count: the second line break alone ends nothing."""
    ids = encode("a\n") + encode("\n") + encode("b")
    steps = steps_of(ids, max_step_tokens=len(encode("a\n")))
    assert steps == [("a\n", "step_limit"), ("\nb", "step_limit")]


def test_no_delimiter_means_one_step() -> None:
    assert steps_of([*encode("a\n\nb\n\n"), EOS], delimiters=()) == [("a\n\nb\n\n", "eos")]


def test_eos_ends_the_path_and_is_no_text() -> None:
    assert steps_of([*encode("done"), EOS]) == [("done", "eos")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is \\boxed{7}", [("It is \\boxed{7}", "box")]),
        ("\\boxed{\\frac{1}{2}} x", [("\\boxed{\\frac{1}{2}}", "box")]),
        ("\\boxed{1\n\n2}", [("\\boxed{1\n\n", "step"), ("2}", "box")]),
        ("<think>\\boxed{1}\n\n</think>\\boxed{2}",
         [("<think>\\boxed{1}\n\n", "step"), ("</think>\\boxed{2}", "box")]),
        ("a } b", []),
    ],
)  # fmt: skip
def test_a_closed_box_ends_the_path(text: str, expected: list[tuple[str, str]]) -> None:
    assert steps_of(encode(text)) == expected


def test_the_box_stop_can_be_off() -> None:
    ids = encode("\\boxed{7}\n\n")
    assert steps_of(ids, stop_at_box=False) == [("\\boxed{7}\n\n", "step")]


def test_a_path_made_to_go_on_ends_at_its_next_box() -> None:
    detector = StepDetector(DETOKENIZER, StepRule(), [EOS])
    before = encode("\\boxed{7}")
    step = GrowingStep(detector, path(before, "\\boxed{7}"))
    again = encode(" But wait, {8} is \\boxed{8}")
    finishes = [step.finish(np.array(again[: n + 1], np.int32)) for n in range(len(again))]
    assert finishes == [None] * (len(again) - 1) + ["box"]


def test_limits() -> None:
    ids = [encode(c)[0] for c in "abcdefg"]
    assert steps_of(ids, max_step_tokens=3, max_tokens=5) == [
        ("abc", "step_limit"),
        ("de", "length"),
    ]
    assert steps_of(ids, context_room=4) == [("abcd", "length")]


@pytest.mark.parametrize(
    ("last", "finish"),
    [([EOS], "eos"), (encode("}"), "box"), (encode("?"), "length"), (encode("x"), "length")],
)
def test_what_wins_at_the_last_token(last: list[int], finish: str) -> None:
    ids = encode("\\boxed{7") + last
    steps = steps_of(ids, delimiters=("?",), max_tokens=len(ids), max_step_tokens=len(ids))
    assert [f for _, f in steps] == [finish]


def test_a_delimiter_wins_over_the_limit_of_the_step() -> None:
    ids = encode("ab?")
    assert steps_of(ids, delimiters=("?",), max_step_tokens=len(ids)) == [("ab?", "step")]


def test_no_room_is_a_length() -> None:
    detector = StepDetector(DETOKENIZER, StepRule(max_tokens=2), [EOS])
    step = GrowingStep(detector, path(encode("ab"), "ab"))
    assert step.room == 0
    assert step.finish(np.zeros(0, np.int32)) == "length"


def test_a_character_across_a_step_goes_to_the_later_one() -> None:
    ids = encode("a€b")  # the euro sign has three bytes, a token each
    assert len(ids) == 5
    steps = steps_of(ids, max_step_tokens=2, max_tokens=5)
    assert steps == [("a", "step_limit"), ("€", "step_limit"), ("b", "length")]


def test_a_character_cut_off_at_the_end_is_shown_as_it_is() -> None:
    ids = encode("a€")[:2]
    assert steps_of(ids, max_tokens=2) == [("a\ufffd", "length")]


def test_ids_beyond_the_tokenizer_end_nothing() -> None:
    detector = StepDetector(DETOKENIZER, StepRule(), [EOS])
    assert detector.may_end(np.array([EOS, 5_000, 1_000_000])).tolist() == [True, False, False]


def test_candidates_are_never_missed() -> None:
    """Every token that completes a delimiter, in any context of one token, is a candidate."""
    rule = StepRule(delimiters=("\n\n", "é"), stop_at_box=False)
    detector = StepDetector(DETOKENIZER, rule, [EOS])
    candidates = detector.may_end(np.arange(len(tokenizer())))
    for before in [*encode("\n"), encode("é")[0], *encode("x")]:
        for token in range(len(tokenizer())):
            text = DETOKENIZER.decode([before, token])
            completes = any(d in text for d in rule.delimiters) and not any(
                d in DETOKENIZER.decode([before]) for d in rule.delimiters
            )
            assert candidates[token] or not completes


@given(
    st.lists(st.integers(0, len(tokenizer()) - 1), max_size=60),
    st.lists(st.integers(1, 9), min_size=1, max_size=60),
)
def test_texts_of_pieces_join_to_the_text_of_the_whole(
    token_ids: list[int], sizes: list[int]
) -> None:
    """Whatever the bytes and however they are cut."""
    text, done = "", 0
    for size in sizes:
        part = GrowingText(DETOKENIZER, np.array(token_ids[:done], np.int32), text)
        part.append(token_ids[done : done + size])
        done, text = min(done + size, len(token_ids)), part.text
    part = GrowingText(DETOKENIZER, np.array(token_ids[:done], np.int32), text)
    part.append(token_ids[done:], last=True)
    assert part.text == DETOKENIZER.decode(token_ids)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("We add them.", True),
        ("Is it so?", True),
        ("Is it 5?", True),
        ('He said "yes."', True),
        ("(It holds.)", True),
        ("So it is!", True),
        ("We add them. ", False),  # the sentence ended before the space
        ("x = 3.", False),  # 3.5?
        ("so 5!", False),  # a factorial
        ("n!", False),
        ("e.g.", False),
        ("by Eq.", False),
        ("Mr.", False),
        ("D.", False),
        ("...", False),
        ("let $a = b.", False),
        ("let $a = b$ hold.", True),
        (r"\text{as above.", False),
        (r"\text{as above} again.", True),
        ("", False),
    ],
)
def test_where_a_sentence_ends(text: str, ends: bool) -> None:
    assert ends_sentence(text) is ends


def test_sentences_are_steps_beside_delimiters() -> None:
    ids = encode("We add 2. The sum grows. Then x\nis it? Yes")
    rule = {"delimiters": ("\n",), "sentences": True}
    assert steps_of(ids, **rule) == [
        ("We add 2. The sum grows.", "step"),
        (" Then x\n", "step"),
        ("is it?", "step"),
    ]


def test_a_thought_has_steps_and_the_answer_is_one() -> None:
    ids = encode("<think>\na\n\nb\n\n</think>\n\nSo\n\n") + encode("\\boxed{3}") + encode(" x")
    steps = steps_of(ids, think_end="</think>")
    assert steps[:2] == [("<think>\na\n\n", "step"), ("b\n\n", "step")]
    assert steps[2][0].startswith("</think>")
    assert steps[2][1] == "step"
    assert steps[3][1] == "box"
    assert "".join(text for text, _ in steps).endswith("So\n\n\\boxed{3}")
    assert len(steps) == 4


def test_a_box_in_a_thought_that_the_prompt_opened_ends_nothing() -> None:
    ids = encode("maybe \\boxed{1}\n\n") + encode("</think>") + encode("\\boxed{2}")
    assert [finish for _, finish in steps_of(ids, think_end="</think>")] == ["step", "step", "box"]
    assert [finish for _, finish in steps_of(ids)] == ["box"]


def test_a_thought_may_end_with_another_mark() -> None:
    ids = encode("\\boxed{1}") + encode("[/T]") + encode("\\boxed{2}")
    assert steps_of(ids, think_end="[/T]", delimiters=()) == [
        ("\\boxed{1}[/T]", "step"),
        ("\\boxed{2}", "box"),
    ]


def test_a_server_can_stop_at_every_end_that_text_makes() -> None:
    rule = StepRule(delimiters=("\n\n", ";"), sentences=True, think_end="</think>")
    assert rule.stop_strings("so far") == ("\n\n", ";", ".", "!", "?", "</think>")
    assert rule.stop_strings("a thought</think> and") == ()
    assert StepRule(delimiters=()).stop_strings("") == ()
    stopped = StoppedRule(think_end="</think>", stop=("END",))
    assert stopped.stop_strings("so far") == ("\n\n", "</think>", "END")
    assert stopped.stop_strings("a thought</think> and") == ("END",)


def test_a_stop_ends_a_step_in_a_thought_and_in_the_answer_behind_it() -> None:
    rule = {"think_end": "</think>", "stop": ("END",)}
    ids = encode("a\n\nb</think>") + encode("So\n\nEND") + encode(" x\n\n")
    assert steps_of(ids, **rule)[:3] == [
        ("a\n\n", "step"),
        ("b</think>", "step"),
        ("So\n\nEND", "step"),
    ]
    assert steps_of(encode("aEND") + encode("b</think>"), **rule)[0] == ("aEND", "step")
    assert steps_of(encode("aEND") + encode("b"), delimiters=(), stop=("END",)) == [
        ("aEND", "step")
    ]


def test_a_stop_may_begin_in_the_step_before() -> None:
    ids = encode("a\n\n") + encode("Q:") + encode(" b\n\n")
    assert steps_of(ids, stop=("\n\nQ:",))[:2] == [("a\n\n", "step"), ("Q:", "step")]
    assert steps_of(ids)[1] == ("Q: b\n\n", "step")
