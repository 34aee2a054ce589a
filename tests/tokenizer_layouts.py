"""Tokenizers of the layouts that models come with, a token a byte or a character."""

from collections.abc import Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GRANITE = (
    "{% for m in messages %}<|start_of_role|>{{ m['role'] }}<|end_of_role|>{{ m['content'] }}"
    "<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} "
    "{{ eos_token }}{% else %}[INST] {{ m['content'] | trim }} [/INST]{% endif %}{% endfor %}"
)


def bytewise(
    special: list[Any], added: Sequence[Any] = (), **roles: Any
) -> PreTrainedTokenizerFast:
    """A token a byte, as in Qwen, Phi-4, Granite and Llama 3. ``special`` and ``added`` are names
    or ``AddedToken``; ``roles`` go to the tokenizer."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    backend.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path="bytes", **roles)


def sentencepiece(
    kind: str = "first", special: Sequence[str] = (), **roles: Any
) -> PreTrainedTokenizerFast:
    """A token a character, "▁" for a space, as in Llama 2, Mistral and Gemma.

    kind: a space is put before the ``first`` text, before ``every`` text between special tokens,
    or ``never``. ``special``: further special tokens.
    """
    characters = ["▁", *map(chr, range(33, 127))]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *characters]
    words = ["▁a", "in", "▁is"]
    merges = [("▁", "a"), ("i", "n"), ("▁", "i"), ("▁i", "s")]
    vocabulary = {name: i for i, name in enumerate([*names, *words, "▁i"])}
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    space = normalizers.Replace(" ", "▁")
    if kind == "every":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    elif kind == "never":
        backend.normalizer = space
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [] if kind == "never" else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([*parts, *strip])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    named = [*names[:3], *special]
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in named])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path="sentencepiece",
        **{"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | roles,
    )


def unigram(**roles: Any) -> PreTrainedTokenizerFast:
    """A token a character, whose model would make the names of special tokens of plain text too."""
    characters = ["▁", *map(chr, range(33, 127))]
    scores = [("<unk>", 0.0), ("</s>", 0.0), *((c, -5.0) for c in characters)]
    backend = Tokenizer(models.Unigram(scores, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="</s>",
        name_or_path="unigram",
        **roles,
    )
