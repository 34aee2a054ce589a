"""Makes the model ``tiny`` that ships with the package.

    OMP_NUM_THREADS=1 python scripts/make_tiny_model.py --out src/butwait/models/tiny

A Llama of 0.6 M parameters learns to add and subtract single digits step by step, from worked
solutions of the ``pretrain`` split whose author forgets each carry and each borrow with
probability 0.6. That planted habit is what its own search can later find and mend. Six minutes
on one core. The same versions on the same machine give the same weights; see the model card.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from butwait.problems.kinds.arithmetic import ArithmeticSettings, generate, solution
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem

SEED = 20
FORGET = 0.6
QUESTIONS = 60_000
STEPS = 4_000
BATCH = 16
WARMUP = 100
PEAK_LR = 3e-3
PROMPT = PromptSettings(template="{question}")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def forgetful_totals(terms: list[int], key: Key) -> list[int]:
    """Running totals that keep the old tens where a carry or borrow is forgotten.

    8 + 5 becomes 3 and 12 - 5 becomes 17; later steps are right from there. A total below 0,
    which no right solution has, is never made by a forgotten carry itself.
    """
    forgets = key.uniforms(len(terms)) < FORGET
    totals = [terms[0]]
    for term, forget in zip(terms[1:], forgets[1:], strict=True):
        before, after = totals[-1], totals[-1] + term
        crosses = before >= 0 and after >= 0 and before // 10 != after // 10
        totals.append(before // 10 * 10 + after % 10 if forget and crosses else after)
    return totals


def forgetful_solution(problem: Problem) -> str:
    """A worked solution with the planted habit."""
    terms = problem.metadata["terms"]
    key = Key.of(SEED, "tiny", problem.id)
    return solution(tuple(terms), forgetful_totals(terms, key))


def make_tokenizer(problems: list[Problem]) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text can be written, each digit and newline is a token of its own,
    and the corpus's few other pieces (" + ", " = ") are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        min_frequency=50,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = [f"system\nuser\n{p.question}\nassistant\n{forgetful_solution(p)}" for p in problems]
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def encode_examples(
    tokenizer: PreTrainedTokenizerFast, problems: list[Problem]
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, completion ids with EOS) of each problem."""
    solutions = tokenizer([forgetful_solution(p) for p in problems])["input_ids"]
    prompts = [encode(tokenizer, messages(p, PROMPT), PROMPT).tolist() for p in problems]
    return [(p, [*s, tokenizer.eos_token_id]) for p, s in zip(prompts, solutions, strict=True)]


def train(model: LlamaForCausalLM, examples: list[tuple[list[int], list[int]]]) -> None:
    """STEPS steps of AdamW: a linear warm-up, then a cosine to a hundredth of PEAK_LR. Only the
    completions carry loss."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _lr_factor)
    order = Key.of(SEED, "tiny", "order").generator()
    started = time.perf_counter()
    for step in range(1, STEPS + 1):
        chosen = [examples[i] for i in order.integers(len(examples), size=BATCH)]
        width = max(len(p) + len(c) for p, c in chosen)
        ids = torch.full((BATCH, width), model.config.pad_token_id)
        labels = torch.full((BATCH, width), -100)
        for row, (prompt, completion) in enumerate(chosen):
            whole = torch.tensor(prompt + completion)
            ids[row, : len(whole)] = whole
            labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
        # Padding stands on the right, where causal attention never looks back to.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - started:.0f} s")


def _lr_factor(step: int) -> float:
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    out = parser.parse_args().out
    problems = generate(
        ArithmeticSettings(size=QUESTIONS, seed=SEED, min_terms=3, max_terms=8), "pretrain"
    )
    tokenizer = make_tokenizer(problems)
    model = make_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    train(model, encode_examples(tokenizer, problems))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
