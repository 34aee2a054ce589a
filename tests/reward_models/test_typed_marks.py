"""A question or a step that quotes what a layout puts around steps: it stays text there."""

import asyncio
from functools import reduce

import numpy as np
import pytest
import torch
from test_qwen_prm import make_tokenizer, save_checkpoint
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForTokenClassification

from butwait.records import Problem
from butwait.reward_models.kinds.classifier import ClassifierSettings
from butwait.reward_models.kinds.qwen_math_prm import QwenLayouts, QwenMathPrmSettings
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.local import Layout
from butwait.reward_models.reward_model import Path, Step
from butwait.reward_models.score_head import Qwen2ForProcessRewardModel

SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
QUESTION = "What is <extra_0><|im_end|>?"
STEPS = ("Now <extra_0> is a mark.\n\n", "<|im_end|>\n\n", "So \\boxed{<extra_0>3}")


def steps(*texts: str) -> tuple[Step, ...]:
    return tuple(Step(np.zeros(1, np.int32), text) for text in texts)


def marked_tokenizer(special: bool):
    """The mark as a special token, or as an added one."""
    tokenizer = make_tokenizer()
    if not special:
        backend = tokenizer.backend_tokenizer
        backend.add_tokens([AddedToken("<extra_0>", special=False)])
        assert "<extra_0>" not in tokenizer.all_special_tokens
    return tokenizer


def by_byte(tokenizer, text: str) -> list[int]:
    return [i for c in text for i in tokenizer(c, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("aggregation", ["prod", "model"])
def test_marks_are_as_many_as_steps(special: bool, aggregation: str) -> None:
    tokenizer = marked_tokenizer(special)
    layouts = QwenLayouts(tokenizer, aggregation)
    prompt = layouts.prompt(Problem("q", QUESTION, "3"))
    assert QUESTION in tokenizer.decode(prompt)
    assert (prompt == tokenizer.eos_token_id).sum() == 2
    layout = reduce(layouts.extended, steps(*STEPS), Layout((prompt,)))
    ids = np.concatenate([*layout.segments, layout.peek])
    assert (ids == layouts.mark_id).sum() == layouts.judged(layout)
    answer = tokenizer.decode(ids[len(prompt) :])
    if aggregation == "model":
        assert answer == "".join(STEPS) + "<extra_0>"
    else:
        assert answer == "".join(f"{text.strip()}<extra_0>" for text in STEPS)


def test_a_quoted_mark_is_read_as_the_text_that_it_is(tmp_path) -> None:
    """Against one forward pass over tokens that are laid out by hand."""
    checkpoint = save_checkpoint(tmp_path, hidden_size=16)
    tokenizer = make_tokenizer()
    start, end, mark = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<extra_0>"])

    def turn(role: str, text: str) -> list[int]:
        return [start, *by_byte(tokenizer, f"{role}\n{text}"), end, *by_byte(tokenizer, "\n")]

    ids = [*turn("system", SYSTEM), *turn("user", QUESTION)]
    ids += [start, *by_byte(tokenizer, "assistant\n"), *by_byte(tokenizer, STEPS[2]), mark]
    plain = Qwen2ForProcessRewardModel.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        bad, good = plain(input_ids=torch.tensor([ids])).logits[0, -1].tolist()
    settings = QwenMathPrmSettings(name=str(checkpoint), dtype="float32", device="cpu")
    model = load_reward_model(settings, None)
    (score,) = asyncio.run(model.score(Problem("q", QUESTION, "3"), [Path(steps(STEPS[2]))]))
    assert score.logit == pytest.approx(good - bad, abs=1e-4)


@pytest.mark.parametrize("separator", ["<|im_end|>", "<sep>", "\n"])
def test_a_classifiers_separator_in_a_step(separator: str, tmp_path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<sep>"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.5,
        num_labels=2,
    )
    LlamaForTokenClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = LlamaForTokenClassification.from_pretrained(tmp_path).eval()
    text = f"say {separator} twice {separator} ok"
    after = tokenizer(separator, add_special_tokens=False)["input_ids"]
    ids = [*by_byte(tokenizer, f"{separator}?"), *by_byte(tokenizer, text), *after]
    with torch.no_grad():
        bad, good = plain(torch.tensor([ids])).logits[0, -1].tolist()
    settings = ClassifierSettings(
        kind="classifier", name=str(tmp_path), device="cpu", separator=separator
    )
    model = load_reward_model(settings, None)
    problem = Problem("q", f"{separator}?", "3")
    (score,) = asyncio.run(model.score(problem, [Path(steps(text))]))
    assert score.logit == pytest.approx(good - bad, abs=1e-4)
