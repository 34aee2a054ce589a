"""Tags of a thought that are special tokens, as in DeepSeek's, Magistral's and Phi-4's tokenizers:
they are seen where a thought ends and in texts, and no other special token is."""

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from butwait.engines.detokenizer import Detokenizer, GrowingText, text_tokens
from butwait.engines.engine import Prefix
from butwait.engines.settings import StepRule, StoppedRule
from butwait.engines.steps import ArrivingStep, StepDetector, StepEndError
from tokenizer_layouts import bytewise, sentencepiece

EOS = "<|im_end|>"
OTHERS = [EOS, "<|im_start|>", "<|fim|>"]


def tokenizer_of(*tags: str, special: bool = True, **flags: bool) -> PreTrainedTokenizerFast:
    """A token a byte, and the tags."""
    added = [AddedToken(tag, special=special, normalized=False, **flags) for tag in tags]
    named = (OTHERS + added, []) if special else (OTHERS, added)
    return bytewise(*named, eos_token=EOS, pad_token=EOS)


def steps_of(tokenizer, text: str, **rule) -> list[tuple[str, str]]:
    """(text, finish) of the steps of a completion whose special tokens ``text`` names."""
    made = StoppedRule(**rule) if "stop" in rule else StepRule(**rule)
    detector = StepDetector(Detokenizer(tokenizer), made, [tokenizer.eos_token_id])
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    prefix, steps = Prefix(np.zeros(0, np.int32), 0), []
    while len(prefix.token_ids) < len(ids):
        step = ArrivingStep(detector, prefix)
        for token in ids[len(prefix.token_ids) :]:
            if step.add([token], [0.0]) is not None:
                break
        if step.finish is None:
            break
        made = step.continuation(0)
        steps.append((made.text, made.finish))
        prefix = made.prefix
        if made.finish != "step":
            break
    return steps


@pytest.mark.parametrize("special", [True, False])
def test_a_box_in_a_thought_ends_nothing(special: bool) -> None:
    tokenizer = tokenizer_of("<think>", "</think>", special=special)
    thought = "<think>2+2 \\boxed{5} wait</think>"
    assert steps_of(tokenizer, f"{thought}So \\boxed{{4}}.{EOS}") == [
        (f"{thought}So \\boxed{{4}}", "box")
    ]
    assert steps_of(tokenizer, f"{thought}So \\boxed{{4}}.{EOS}", think_end="</think>") == [
        (thought, "step"),
        ("So \\boxed{4}", "box"),
    ]


@pytest.mark.parametrize(
    "tag", ["</think>", "[/THINK]", "</seed:think>", "<|end_of_thought|>", "</reasoning>"]
)
@pytest.mark.parametrize("special", [True, False])
def test_a_thought_that_the_prompt_opened(tag: str, special: bool) -> None:
    text = f"a\n\n\\boxed{{5}} b{tag}\n\nis \\boxed{{4}}!"
    assert steps_of(tokenizer_of(tag, special=special), text, think_end=tag) == [
        ("a\n\n", "step"),
        (f"\\boxed{{5}} b{tag}", "step"),
        ("\n\nis \\boxed{4}", "box"),
    ]


def test_a_tag_that_takes_white_space_in() -> None:
    tokenizer = tokenizer_of("</think>", lstrip=True, rstrip=True)
    assert steps_of(tokenizer, "a \n</think>\n\n\\boxed{4}", think_end="</think>") == [
        ("a</think>", "step"),
        ("\\boxed{4}", "box"),
    ]


def test_texts_show_the_tags_and_no_other_special_token() -> None:
    tokenizer = tokenizer_of("<think>", "</think>")
    detokenizer = Detokenizer(tokenizer)
    whole = f"<|im_start|><think>é{OTHERS[2]}x</think>\U0001f600{EOS}"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert detokenizer.decode(ids) == "<think>éx</think>\U0001f600"
    for start in range(0, len(ids), 3):
        growing = GrowingText(detokenizer, np.array(ids[:0], np.int32), "")
        growing.append(ids[:start])
        for token in ids[start:]:
            growing.append([token])
        assert growing.text == "<think>éx</think>\U0001f600"
    pieces = detokenizer.pieces
    tags = tokenizer.convert_tokens_to_ids(["<think>", "</think>", *OTHERS])
    assert [pieces[i] for i in tags] == ["<think>", "</think>", "", "", ""]
    assert len(pieces) == len(tokenizer)


def test_without_such_tags_texts_are_the_tokenizers_own() -> None:
    tokenizer = tokenizer_of()
    ids = tokenizer(f"<think>a{OTHERS[2]}</think>{EOS}", add_special_tokens=False)["input_ids"]
    own = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert Detokenizer(tokenizer).decode(ids) == own == "<think>a</think>"


def test_an_eos_that_is_named_like_a_tag_is_not_shown() -> None:
    tokenizer = tokenizer_of("<|end_of_thought|>")
    tokenizer.eos_token = "<|end_of_thought|>"
    ids = tokenizer("a<|end_of_thought|>", add_special_tokens=False)["input_ids"]
    assert Detokenizer(tokenizer).decode(ids) == "a"


@pytest.mark.parametrize(
    "rule",
    [
        {"think_end": "<|fim|>\n"},
        {"delimiters": ("\n", "<|fim|>")},
        {"stop": ("a", "<|fim|>")},
    ],
)
def test_a_step_cannot_end_with_a_token_that_texts_leave_out(rule: dict) -> None:
    told = r"'<\|fim\|>' is a special token of the tokenizer"
    with pytest.raises(StepEndError, match=told) as found:
        steps_of(tokenizer_of(), "a", **rule)
    assert found.value.end == rule.get("think_end", "<|fim|>")


def test_inserted_tags_are_the_tokens_that_a_model_writes() -> None:
    tokenizer = tokenizer_of("</think>")
    tag = tokenizer.convert_tokens_to_ids("</think>")
    assert text_tokens(tokenizer, "</think>").tolist() == [tag]
    assert tokenizer.eos_token_id not in text_tokens(tokenizer, f"a{EOS}b")


@pytest.mark.parametrize("kind", ["first", "every", "never"])
@pytest.mark.parametrize("chunk", [1, 3, 40])
def test_spaces_of_a_growing_text(kind: str, chunk: int) -> None:
    """Decoders of SentencePiece strip a space that a text begins with, also in a window."""
    tokenizer = sentencepiece(kind)
    detokenizer = Detokenizer(tokenizer)
    text = "a  is in   é\n\n is a \n in  a in is a in is a in is \U0001f600 a  \n"
    ids = text_tokens(tokenizer, text).tolist()
    growing = GrowingText(detokenizer, np.array(ids[:0], np.int32), "")
    for start in range(0, len(ids), chunk):
        growing.append(ids[start : start + chunk])
    assert growing.text == detokenizer.decode(ids) == text
