"""Models with random weights, one of each kind the in-process engine has to run, and a small
byte-level tokenizer."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

EOS = 0
VOCABULARY = 320
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Random weights of the usual size give nearly uniform logits: nothing would be tested.
    "initializer_range": 0.4,
    "eos_token_id": EOS,
    "bos_token_id": None,
    "pad_token_id": EOS,
}
WINDOWED = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGURATIONS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**COMMON),
    "qwen2": lambda: Qwen2Config(**COMMON),
    "phi3": lambda: Phi3Config(**COMMON),
    "granite": lambda: GraniteConfig(**COMMON),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=512,
        eos_token_id=EOS,
        bos_token_id=None,
        initializer_range=0.2,
    ),
    "mistral, window of 8": lambda: MistralConfig(**COMMON, sliding_window=8),
    "qwen2, full and window of 8": lambda: Qwen2Config(
        **COMMON, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "gemma3, full and window of 8": lambda: Gemma3TextConfig(
        **COMMON, head_dim=16, sliding_window=8, layer_types=WINDOWED
    ),
    "gemma2, eager attention": lambda: Gemma2Config(**COMMON, head_dim=16, sliding_window=8),
}


@cache
def model(kind: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    """A model of ``CONFIGURATIONS`` with seeded random weights."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGURATIONS[kind]()).to(dtype).eval()


@cache
def tokenizer() -> Any:
    """Byte-level BPE with 320 tokens: EOS, 256 bytes and a few merges, so that every character
    outside of ASCII spans tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = ["So 3 + 4 = 7.\n\nThe answer is \\boxed{7}\n\n"] * 9
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", name_or_path="random"
    )
