"""Tiny random models of real architectures, and examples for them."""

from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from butwait.engines.models import load_tokenizer, tokenizer_fingerprint
from butwait.engines.settings import ModelSettings
from butwait.records import Example, Span

CHARACTERS = "0123456789+-= \n\\{}abcdefghijklmnopqrstuvwxyzBW.?"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}


def make_tokenizer(pad_is_eos: bool = False, reverse: bool = False) -> PreTrainedTokenizerFast:
    """One token a character; ``reverse`` gives the same characters other ids."""
    special = ["<|user|>", "<|assistant|>", "<|end|>", "<|unk|>", "<|pad|>"]
    alphabet = CHARACTERS.replace(" ", "Ġ").replace("\n", "Ċ")  # as byte-level BPE writes them
    pieces = special + list(alphabet[::-1] if reverse else alphabet)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<|unk|>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|end|>" if pad_is_eos else "<|pad|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
    )


def save_model(
    folder: Path, architecture: str = "Llama", pad_is_eos: bool = False
) -> tuple[ModelSettings, PreTrainedTokenizerFast]:
    """A random model, saved as an ordinary checkpoint, and its tokenizer as transformers loads
    it (which for Qwen2 is not the class that was saved)."""
    tokenizer = make_tokenizer(pad_is_eos)
    options = {"logits_scaling": 4.0} if architecture == "Granite" else {}
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **SIZES,
        **options,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = ModelSettings(name=str(folder), device="cpu")
    return settings, load_tokenizer(settings)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Those of a saved model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.state_dict()


def make_example(
    tokenizer: PreTrainedTokenizerFast,
    question: str,
    parts: list[tuple[str, str, bool]],
) -> Example:
    """An example whose spans are (role, text, carries loss)."""
    chat = [{"role": "user", "content": question}]
    prompt_ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    ids: list[int] = []
    mask: list[bool] = []
    spans = []
    for i, (role, text, loss) in enumerate(parts):
        start = len(ids)
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += [tokenizer.eos_token_id] if i == len(parts) - 1 else []
        mask += [loss] * (len(ids) - start)
        spans.append(Span(role, start, len(ids), text))
    return Example(
        problem_id=question,
        prompt_ids=np.array(prompt_ids, dtype=np.int32),
        completion_ids=np.array(ids, dtype=np.int32),
        loss_mask=np.array(mask),
        spans=tuple(spans),
        prompt=chat,
        text="".join(text for _, text, _ in parts),
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        provenance={},
    )


def sums(tokenizer: PreTrainedTokenizerFast, n: int, seed: int = 0) -> list[Example]:
    """``n`` additions with solutions of one or two steps."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        a, b, c = (int(x) for x in rng.integers(0, 10, 3))
        steps = f"{a}+{b}={a + b}\n\n" + (f"{a + b}+{c}={a + b + c}\n\n" if c else "")
        answer = f"\\boxed{{{a + b + c}}}"
        question = f"{a}+{b}+{c}?"
        examples.append(make_example(tokenizer, question, [("solution", steps + answer, True)]))
    return examples
