"""Tiny models of the recipes' architectures, with tokenizers of bytes in their chat formats."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
CHATS = {
    # architecture: (what opens a turn, what closes it, EOS, what opens the conversation)
    "Phi3": ("<|im_start|>ROLE<|im_sep|>", "<|im_end|>", "<|im_end|>", ""),
    "Granite": ("<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>\n", "<|end_of_text|>", ""),
    "Llama": (
        "<|start_header_id|>ROLE<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "Qwen2": ("<|im_start|>ROLE\n", "<|im_end|>\n", "<|im_end|>", ""),
}
"""The formats of Phi-4, Granite 3, Llama 3 and Qwen2.5. None has generation marks."""


def chat_tokenizer(architecture: str) -> PreTrainedTokenizerFast:
    """A token a byte, and one for each tag of the format."""
    opening, closing, eos, start = CHATS[architecture]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tags = {part + ">" for part in (start + opening + closing).split(">") if part.startswith("<|")}
    before, after = (part.replace("\n", "\\n") for part in opening.split("ROLE"))
    end = closing.replace("\n", "\\n")
    # Granite has one token for all roles.
    others = ("bos_token", "pad_token", "unk_token") if architecture == "Granite" else ()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos,
        **{"pad_token": "<|pad|>"} | dict.fromkeys(others, eos),
        additional_special_tokens=[
            *sorted({tag[tag.index("<|") :] for tag in tags} - {eos}),
            "<extra_0>",
        ],
        chat_template=(
            f"{start}{{% for m in messages %}}{{{{ '{before}' + m['role'] + '{after}' "
            f"+ m['content'] + '{end}' }}}}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{{{{ '{before}assistant{after}' }}}}{{% endif %}}"
        ),
    )


def save_chat_model(folder: Path, architecture: str) -> PreTrainedTokenizerFast:
    """A model of random weights as on the hub; returns its tokenizer."""
    tokenizer = chat_tokenizer(architecture)
    config = getattr(transformers, f"{architecture}Config")(
        **SHAPE,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
