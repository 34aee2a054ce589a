"""Qwen2.5-Math-PRM's architecture with tiny random weights, against plain forward passes."""

import asyncio
import json
from pathlib import Path as Folder
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config

from butwait.engines.slots import SlotModel
from butwait.records import Problem, UserError
from butwait.reward_models.kinds.qwen_math_prm import QwenMathPrm, QwenMathPrmSettings
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.reward_model import Path, RewardModel, Step
from butwait.reward_models.score_head import Qwen2ForProcessRewardModel

PROBLEM = Problem("q", "What is 1 + 2?", "3")
STEPS = ("First we add.\n\n", "1 + 2 = 3.\n\n", "So \\boxed{3}")
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
# As Qwen2's: words, then punctuation with the line breaks after it, then line breaks.
SPLIT = r"[A-Za-z]+|\d| ?[^\sA-Za-z\d]+[\r\n]*|\s*[\r\n]+|\s+"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder as on the hub: weights, config with remote-code hooks, tokenizer."""
    hooks = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    return save_checkpoint(tmp_path_factory.mktemp("qwen"), hidden_size=16, auto_map=hooks)


def save_checkpoint(folder: Folder, hidden_size: int, **written: Any) -> Folder:
    """A tiny random checkpoint of the architecture, with further entries in its config."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    Qwen2ForProcessRewardModel(config).save_pretrained(folder)
    as_saved = json.loads((folder / "config.json").read_text())
    named = {"architectures": ["Qwen2ForProcessRewardModel"]}
    (folder / "config.json").write_text(json.dumps(as_saved | named | written))
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the one merge that matters: "." and "\\n\\n" become one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, "ĊĊ", ".ĊĊ"]
    bpe = models.BPE({p: i for i, p in enumerate(pieces)}, [("Ċ", "Ċ"), (".", "ĊĊ")])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<extra_0>")]
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.pad_token = "<|im_end|>"
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="module")
def load(checkpoint):
    def load(aggregation, **more):
        settings = QwenMathPrmSettings(
            name=str(checkpoint), aggregation=aggregation, dtype="float32", device="cpu", **more
        )
        return load_reward_model(settings, None)

    return load


def rewards(checkpoint, answer: str) -> list[float]:
    """The model card's recipe: the whole chat in one forward pass by the plain modules, and the
    probability of class 1 at every <extra_0>."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    chat = [("system", SYSTEM), ("user", PROBLEM.question), ("assistant", answer)]
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in chat], tokenize=False
    )
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    weights = load_file(checkpoint / "model.safetensors")
    model = Qwen2ForProcessRewardModel.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state
        inner = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
        logits = inner @ weights["score.2.weight"].T + weights["score.2.bias"]
    marks = ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>")
    return torch.softmax(logits, dim=-1)[0, marks, 1].double().tolist()


def logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))


def as_steps(*texts: str) -> tuple[Step, ...]:
    # The policy's token ids are none of this model's business.
    return tuple(Step(np.zeros(1, np.int32), text) for text in texts)


def grown_logits(grow, model, texts=STEPS):
    return [s.logit for s in asyncio.run(grow(model, PROBLEM, as_steps(*texts)))]


@pytest.mark.parametrize(("how", "combine"), [("prod", np.prod), ("min", min), ("last", None)])
def test_aggregations_over_marks_after_every_step(checkpoint, load, grow, how, combine):
    combine = combine or (lambda values: values[-1])
    answer = "".join(f"{step.strip()}<extra_0>" for step in STEPS)
    each = rewards(checkpoint, answer)
    expected = [logit(float(combine(each[: n + 1]))) for n in range(len(STEPS))]
    assert grown_logits(grow, load(how)) == pytest.approx(expected, abs=1e-4)


def test_model_aggregation_shows_the_path_as_one_step(checkpoint, load, grow):
    """Its one mark follows the text without the last line breaks, which are a part of the last
    token and stand in the text again when the path goes on."""
    texts = ["".join(STEPS[:n]).rstrip() for n in (1, 2, 3)]
    expected = [logit(rewards(checkpoint, f"{text}<extra_0>")[0]) for text in texts]
    assert grown_logits(grow, load("model")) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("how", ["prod", "min", "last", "model"])
def test_whole_paths_score_like_growing_ones(load, grow, how):
    whole = asyncio.run(load(how).score(PROBLEM, [Path(as_steps(*STEPS))]))
    assert whole[0].logit == pytest.approx(grown_logits(grow, load(how))[-1], abs=1e-5)


@pytest.mark.parametrize("how", ["prod", "model"])
def test_forks_and_lost_handles(load, how):
    """Two ways on from one prefix, with fewer slots than paths."""

    async def run(slots):
        model = load(how, slots=slots)
        (root,) = await model.score(PROBLEM, [Path(as_steps(STEPS[0]))])
        ends = [as_steps(STEPS[0], last) for last in ("No.\n\n", "Yes.\n\n", "Maybe.\n\n")]
        return [s.logit for s in await model.score(PROBLEM, [Path(e, root.handle) for e in ends])]

    assert asyncio.run(run(2)) == pytest.approx(asyncio.run(run(16)), abs=1e-6)


@pytest.mark.parametrize("how", ["prod", "model"])
def test_a_step_without_text_changes_nothing(load, grow, how):
    logits = grown_logits(grow, load(how), (STEPS[0], "\n\n", ""))
    assert logits == pytest.approx([logits[0]] * 3, abs=1e-6)
    assert grown_logits(grow, load(how), ("",)) == [0.0]


def test_it_keeps_the_contract(load):
    assert isinstance(load("model"), RewardModel)


def test_another_architecture_is_a_user_error():
    with pytest.raises(UserError, match=r"no Qwen2\.5-Math-PRM"):
        load_reward_model(QwenMathPrmSettings(name="tiny", device="cpu"), None)


def test_a_checkpoint_without_its_head_is_a_user_error(checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    kept = {name: w for name, w in weights.items() if not name.startswith("score.2")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = QwenMathPrmSettings(name=str(tmp_path), device="cpu")
    with pytest.raises(UserError, match=r"lacks score\.2"):
        load_reward_model(settings, None)


def test_a_tokenizer_without_the_mark_is_a_user_error(checkpoint, tokenizer):
    model = Qwen2ForProcessRewardModel.from_pretrained(checkpoint).eval()
    with pytest.raises(UserError, match="<extra_0>"):
        QwenMathPrm(SlotModel(model, 2, 64), tokenizer, "prod")
