"""Rows for the trainer: ids and labels token for token, nothing cut."""

import numpy as np
import pytest
from sft_cases import make_example, make_tokenizer, sums

from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.training.encode import NO_LOSS, make_rows

PROMPT = PromptSettings()
MISTAKE = [
    ("mistake", "2+2=5\n\n", False),
    ("doubt", "wait.\n\n", True),
    ("solution", "2+2=4\n\n\\boxed{4}", True),
]


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_labels_are_exactly_the_mask_and_eos_has_loss(pad_is_eos: bool) -> None:
    tokenizer = make_tokenizer(pad_is_eos)
    example = make_example(tokenizer, "2+2?", MISTAKE)
    rows = make_rows([example], tokenizer, PROMPT, None, "error")
    prompt, completion = example.prompt_ids.tolist(), example.completion_ids.tolist()
    mistake = len("2+2=5\n\n")
    assert rows.input_ids == [prompt + completion]
    assert rows.labels == [[NO_LOSS] * (len(prompt) + mistake) + completion[mistake:]]
    assert rows.labels[0][-1] == tokenizer.eos_token_id
    assert (rows.encoded_again, rows.dropped_too_long) == (0, 0)


def test_a_long_example_is_an_error_or_dropped_and_never_cut() -> None:
    tokenizer = make_tokenizer()
    short = sums(tokenizer, 1)[0]
    long = make_example(tokenizer, "?", [("solution", "1" * 90, True)])
    with pytest.raises(UserError, match=r"1 of 2 examples are longer than 60 tokens .* 95\)"):
        make_rows([short, long], tokenizer, PROMPT, 60, "error")
    rows = make_rows([short, long], tokenizer, PROMPT, 60, "drop")
    assert rows.dropped_too_long == 1
    assert rows.input_ids == [[*short.prompt_ids.tolist(), *short.completion_ids.tolist()]]
    exact = make_rows([long], tokenizer, PROMPT, 95, "error")
    assert len(exact.input_ids[0]) == 95
    with pytest.raises(UserError, match="1 of 1"):
        make_rows([long], tokenizer, PROMPT, 60, "drop")


def test_examples_of_another_tokenizer_are_encoded_again() -> None:
    theirs, ours = make_tokenizer(), make_tokenizer(reverse=True)
    foreign = make_example(theirs, "2+2?", MISTAKE)
    native = make_example(ours, "2+2?", MISTAKE)
    assert foreign.completion_ids.tolist() != native.completion_ids.tolist()
    rows = make_rows([foreign], ours, PROMPT, None, "error")
    expected = make_rows([native], ours, PROMPT, None, "error")
    assert rows.input_ids == expected.input_ids
    assert rows.labels == expected.labels
    assert (rows.encoded_again, expected.encoded_again) == (1, 0)


def test_what_cannot_be_encoded_again_is_refused() -> None:
    theirs, ours = make_tokenizer(), make_tokenizer(reverse=True)
    half = make_example(theirs, "2+2?", [("solution", "2+2=4", True)])
    half.loss_mask[:2] = False
    with pytest.raises(UserError, match="on a part of its span 'solution'"):
        make_rows([half], ours, PROMPT, None, "error")
    unknown = make_example(theirs, "2+2?", [("solution", "2×2=4", True)])
    with pytest.raises(UserError, match="cannot write the example"):
        make_rows([unknown], ours, PROMPT, None, "error")


def test_nothing_to_learn_is_refused() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(UserError, match="no examples to train on"):
        make_rows([], tokenizer, PROMPT, None, "error")
    masked = sums(tokenizer, 1)[0]
    masked.loss_mask[:] = np.False_
    with pytest.raises(UserError, match="masks are all False"):
        make_rows([masked], tokenizer, PROMPT, None, "error")
