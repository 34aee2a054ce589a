"""Examples that are encoded again: special tokens that a text quotes, and tokenizers that put a
space before every text."""

from functools import partial

import numpy as np
import pytest

from butwait.problems.settings import PromptSettings
from butwait.records import Example, Span
from butwait.training.encode import NO_LOSS, make_rows
from tokenizer_layouts import bytewise, sentencepiece

PROMPT = PromptSettings(template="{question}")
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
SPANS = [
    ("mistake", "Is <|end|> 5.\n", False),
    ("doubt", " But wait, </think>", True),
    ("solution", "is </think> 4.", True),
]


SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "</think>"]


def example() -> Example:
    """Of a tokenizer of letters."""
    ends = np.cumsum([len(text) for _, text, _ in SPANS])
    starts = [0, *ends[:-1].tolist()]
    return Example(
        problem_id="q",
        prompt_ids=np.zeros(3, np.int32),
        completion_ids=np.zeros(int(ends[-1]), np.int32),
        loss_mask=np.repeat([loss for *_, loss in SPANS], [len(text) for _, text, _ in SPANS]),
        spans=tuple(
            Span(role, int(start), int(end), text)
            for (role, text, _), start, end in zip(SPANS, starts, ends, strict=True)
        ),
        prompt=[{"role": "user", "content": "What is <|end|>?"}],
        text="".join(text for _, text, _ in SPANS),
        tokenizer_fingerprint="another",
        provenance={},
    )


@pytest.mark.parametrize("make", [bytewise, partial(sentencepiece, "first")])
def test_rows_say_what_the_spans_say(make) -> None:
    tokenizer = make(SPECIAL, eos_token="<|end|>", chat_template=TEMPLATE)
    rows = make_rows([example()], tokenizer, PROMPT, None, "error")
    ids, labels = rows.input_ids[0], rows.labels[0]
    assert rows.encoded_again == 1
    user, end, begin, tag = tokenizer.convert_tokens_to_ids(
        ["<|user|>", "<|end|>", "<|assistant|>", "</think>"]
    )
    start = ids.index(begin) + 1
    assert tokenizer.decode(ids[:start]) == "<|user|>What is <|end|>?<|end|><|assistant|>"
    assert tokenizer.decode(ids[start:]) == example().text + "<|end|>"
    assert [ids.count(i) for i in (user, end, begin, tag)] == [1, 2, 1, 2]
    learned = [label for label in labels if label != NO_LOSS]
    assert labels[len(ids) - len(learned) :] == learned
    assert tokenizer.decode(learned).strip() == "But wait, </think>is </think> 4.<|end|>"
