"""What a fine-tuning learns to end with is what the chat template ends a turn with, and the saved
model stops there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from sft_cases import CHARACTERS, SIZES, make_example
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.engines.transformers import TransformersEngine
from butwait.problems.prompts import turn_end
from butwait.problems.settings import PromptSettings
from butwait.training.settings import SftSettings
from butwait.training.sft import train_sft
from butwait.training.weights import Start

LOOP = "{% for m in messages %}"
END = "{% endfor %}"
CHATML = (
    LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + END
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # fmt: skip
HEADERS = (
    LOOP + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>" + END
    + "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)  # fmt: skip
INST = (
    "{{ bos_token }}" + LOOP + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}" + END
)
FORMATS: dict[str, tuple[str, str, str, list[str]]] = {
    # name: (template, EOS of the tokenizer, what ends a turn, other special tokens)
    "Qwen2.5 (base)": (CHATML, "<|endoftext|>", "<|im_end|>", ["<|im_start|>"]),
    "Qwen2.5 (instruct)": (CHATML, "<|im_end|>", "<|im_end|>", ["<|im_start|>", "<|endoftext|>"]),
    "SmolLM2": (CHATML, "<|im_end|>", "<|im_end|>", ["<|im_start|>"]),
    "Phi-4": (
        LOOP + "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>" + END
        + "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        "<|endoftext|>", "<|im_end|>", ["<|im_start|>", "<|im_sep|>"],
    ),
    "Phi-3.5": (
        LOOP + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" + END
        + "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|>", "<|end|>", ["<|user|>", "<|assistant|>"],
    ),
    "Gemma": (
        "{{ bos_token }}" + LOOP
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n" + END
        + "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<eos>", "<end_of_turn>", ["<bos>", "<start_of_turn>"],
    ),
    "Llama 3": (
        HEADERS, "<|end_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"],
    ),
    "Llama 2": (INST, "</s>", "</s>", ["<s>"]),
    "Mistral": (INST, "</s>", "</s>", ["<s>", "[INST]", "[/INST]"]),
    "Granite 3": (
        LOOP + "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n" + END
        + "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "<|end_of_text|>", "<|end_of_text|>", ["<|start_of_role|>", "<|end_of_role|>"],
    ),
    "OLMo 2": (
        LOOP + "<|{{ m.role }}|>\n{{ m.content }}{% if loop.last and m.role == 'assistant' %}"
        "{{ eos_token }}{% else %}\n{% endif %}" + END
        + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>", "<|endoftext|>", [],
    ),
    "DeepSeek": (
        "{{ bos_token }}" + LOOP + "{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}"
        "<｜end▁of▁sentence｜>{% endif %}"
        + END + "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
        "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ["<｜User｜>", "<｜Assistant｜>"],
    ),
    "Command R": (
        LOOP + "<|START_OF_TURN_TOKEN|>{{ m.role }}: {{ m.content }}<|END_OF_TURN_TOKEN|>" + END
        + "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|>assistant: {% endif %}",
        "<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", ["<|START_OF_TURN_TOKEN|>"],
    ),
}  # fmt: skip
PROMPT = PromptSettings(template="{question}")
QUICK = ("Qwen2.5 (base)", "Phi-3.5", "OLMo 2")


def save_chat_model(folder: Path, name: str) -> tuple[ModelSettings, PreTrainedTokenizerFast]:
    """A random model and a tokenizer of one character a token, in the format of ``name``."""
    template, eos, turn, others = FORMATS[name]
    special = list(dict.fromkeys([eos, turn, *others, "<|unk|>", "<|pad|>"]))
    letters = CHARACTERS + "CDEFGHIJKLMNOPQRSTUVXYZ:<>|_[]/"
    pieces = [*special, *dict.fromkeys(letters.replace(" ", "Ġ").replace("\n", "Ċ"))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<|unk|>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        bos_token=next((t for t in others if t in ("<s>", "<bos>")), None),
        additional_special_tokens=[t for t in (turn, *others) if t != eos],
        chat_template=template,
    )
    config = transformers.LlamaConfig(
        vocab_size=len(pieces),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **SIZES,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = ModelSettings(name=str(folder), device="cpu")
    return model, load_tokenizer(model)


@pytest.mark.parametrize("name", FORMATS)
def test_the_template_ends_the_turn(name: str, tmp_path: Path) -> None:
    model, tokenizer = save_chat_model(tmp_path, name)
    end = tokenizer.convert_tokens_to_ids(FORMATS[name][2])
    assert turn_end(tokenizer, PROMPT) == end
    plain = PromptSettings(style="plain", template="{question}")
    assert turn_end(tokenizer, plain) == tokenizer.eos_token_id
    settings = TransformersSettings(kind="transformers", slots=1, capacity=64)
    engine = TransformersEngine(load_causal_lm(model), tokenizer, settings, PROMPT)
    assert engine._eos_ids == {end, tokenizer.eos_token_id}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FORMATS]
)
def test_what_is_learned_is_where_the_saved_model_stops(name: str, tmp_path: Path) -> None:
    model, tokenizer = save_chat_model(tmp_path / "base", name)
    end = tokenizer.convert_tokens_to_ids(FORMATS[name][2])
    example = make_example(tokenizer, "1+1?", [("solution", "it is 2", True)])
    # Of another tokenizer: its end is that of this one's turn.
    foreign = [replace(example, tokenizer_fingerprint="another")]
    settings = SftSettings(
        learning_rate=1e-2, max_steps=40, batch_size=1, save_steps=None, schedule="constant"
    )
    train_sft(model, foreign, settings, tmp_path / "out", 0, PROMPT)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model")
    said = saved.generate(
        torch.tensor([example.prompt_ids.tolist()]), max_new_tokens=20, do_sample=False
    )[0, len(example.prompt_ids) :].tolist()
    assert said == [*tokenizer("it is 2", add_special_tokens=False)["input_ids"], end]
    ends = json.loads((tmp_path / "out/model/generation_config.json").read_text())["eos_token_id"]
    assert end in (ends if isinstance(ends, list) else [ends])


def test_a_template_of_ones_own_is_saved_with_what_it_trained(tmp_path: Path) -> None:
    model, tokenizer = save_chat_model(tmp_path / "base", "Qwen2.5 (base)")
    own = LOOP + "{{ m.role }}: {{ m.content }}<|endoftext|>" + END + "assistant: "
    prompt = PromptSettings(template="{question}", template_options={"chat_template": own})
    assert turn_end(tokenizer, prompt) == tokenizer.eos_token_id
    example = make_example(tokenizer, "1+1?", [("solution", "it is 2", True)])
    settings = SftSettings(max_steps=2, warmup_ratio=0.0, save_steps=None)
    train_sft(model, [example], settings, tmp_path / "out", 0, prompt)
    saved = ModelSettings(name=str(tmp_path / "out/model"), device="cpu")
    assert load_tokenizer(saved).chat_template == own
    train_sft(model, [example], settings, tmp_path / "plain", 0, PROMPT)
    kept = ModelSettings(name=str(tmp_path / "plain/model"), device="cpu")
    assert load_tokenizer(kept).chat_template == CHATML


def test_the_sampling_of_the_base_is_saved_and_not_trained_with(tmp_path: Path) -> None:
    model, tokenizer = save_chat_model(tmp_path / "base", "Phi-3.5")
    habits = {"do_sample": True, "min_p": 0.3, "repetition_penalty": 1.3, "min_new_tokens": 5}
    GenerationConfig(eos_token_id=0, **habits).save_pretrained(tmp_path / "base")
    start = Start(model, None, tokenizer, PROMPT)
    policy = start.load()
    neutral = GenerationConfig()
    for name in habits:
        assert getattr(policy.generation_config, name) == getattr(neutral, name)
    ends = sorted({0, turn_end(tokenizer, PROMPT)})
    assert policy.generation_config.eos_token_id == ends
    start.save(policy, tmp_path / "out")
    saved = json.loads((tmp_path / "out/model/generation_config.json").read_text())
    assert {name: saved[name] for name in habits} == habits
    assert saved["eos_token_id"] == ends
    assert policy.generation_config.min_p is None
