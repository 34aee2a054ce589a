"""The parts of `gpu.py` that run engines.

Models have random weights of real shapes, made on the card: speed and memory do not depend on what
the weights say. Lengths are scripted, EOS is off.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from bench_engine import (
    SAMPLING,
    Clock,
    in_steps,
    ratio,
    run_filters,
    run_plain,
    scripted_lengths,
    serve,
    timed,
    whole,
)
from bench_filter import run as run_searches
from bench_filter import scripted_reward
from gpu_card import busy, device, memory
from gpu_parts import SEED, Figures, SkippedError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForTokenClassification,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.slots import SlotModel
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.score_head import Qwen2ForProcessRewardModel
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings

PROMPT = PromptSettings(style="plain", template="{question}")

LETTERS = "abcdefghij"

TINY = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}

PHI4 = {
    "vocab_size": 100352,
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
}

QWEN_PRM = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}


def random_model(build: Callable[..., Any], kind: Any, shape: dict[str, Any]) -> Any:
    """A model with random bfloat16 weights, made where it runs."""
    torch.manual_seed(SEED)
    config = kind(**shape, max_position_embeddings=4096, eos_token_id=0, bos_token_id=None,
                  pad_token_id=0)  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device():
            model = build(config)
    finally:
        torch.set_default_dtype(before)
    return model.to(device(), torch.bfloat16).eval()


def word(number: int) -> str:
    """Letters alone: digits would be cut off."""
    return "w" + "".join(LETTERS[int(digit)] for digit in str(number))


def made_up_words(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer with so many tokens, nearly all of them words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<eos>", *alphabet]
    pieces += [f"Ġ{word(i)}" for i in range(size - len(pieces))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


def questions(count: int, words: int) -> list[Problem]:
    """Different ones of so many tokens."""
    rows = [[word(i % 700), *(word((i + 13 * j) % 500) for j in range(1, words))]
            for i in range(count)]  # fmt: skip
    return [Problem(f"q{i}", "".join(f" {w}" for w in row), None) for i, row in enumerate(rows)]


def make_engine(model: Any, tokenizer: Any, slots: int, capacity: int) -> TransformersEngine:
    settings = TransformersSettings(slots=slots, capacity=capacity)
    engine = TransformersEngine(model, tokenizer, settings, PROMPT)
    engine._eos_ids = frozenset()
    return engine


def parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def engine_speed(figures: Figures, small: bool) -> None:
    rows, tokens = (8, 8) if small else (512, 128)
    shape = TINY if small else SMOLLM2
    tokenizer = made_up_words(shape["vocab_size"])
    model = random_model(AutoModelForCausalLM.from_config, LlamaConfig, shape)
    figures.add(shape=shape, parameters=parameters(model), rows=rows)
    asked = questions(2 * rows, 64)
    engine = make_engine(model, tokenizer, rows, 512)
    even, few = np.full(rows, tokens), np.full(rows, 8 if small else 24)
    timed(lambda: serve(engine, asked, few))
    full = timed(lambda: serve(engine, asked, even))
    figures.add(all_rows=full, at_least=40_000, memory=memory())
    short = timed(lambda: serve(engine, asked, few))
    figures.add(**busy(lambda: timed(lambda: serve(engine, asked, few)), short["seconds"]))
    uneven = scripted_lengths(2 * rows, tokens)
    figures.add(uneven_lengths=timed(lambda: serve(engine, asked, uneven)))


def forks(figures: Figures, small: bool) -> None:
    shape, problems, particles = (TINY, 1, 8) if small else (SMOLLM2, 2, 64)
    model = random_model(AutoModelForCausalLM.from_config, LlamaConfig, shape)
    asked = questions(problems, 64)
    engine = make_engine(model, made_up_words(shape["vocab_size"]), problems * particles + 8, 512)
    timed(lambda: run_filters(engine, asked, min(particles, 16)))
    kept = timed(lambda: run_filters(engine, asked, particles))
    figures.add(problems=problems, particles=particles, fork=kept)
    again = timed(lambda: run_filters(engine, asked, particles, keep_cache=False))
    figures.add(prefill=again, fork_over_prefill=ratio(kept, again))
    plain = timed(lambda: run_plain(engine, asked, particles))
    figures.add(plain=plain, filter_over_plain=ratio(kept, plain))


def reward_beside(figures: Figures, small: bool) -> None:
    shape, problems, particles, tokens = (TINY, 2, 4, 32) if small else (SMOLLM2, 16, 32, 128)
    tokenizer = made_up_words(shape["vocab_size"])
    policy = random_model(AutoModelForCausalLM.from_config, LlamaConfig, shape)
    scorer = random_model(LlamaForTokenClassification, LlamaConfig, shape | {"num_labels": 1})
    rows = problems * particles
    engine = make_engine(policy, tokenizer, rows + 8, 512)
    slots = SlotModel(scorer, rows + problems + 8, 512)
    real = TrainedRewardModel(slots, tokenizer, PROMPT, same_tokens=True)
    compare(figures, engine, real, questions(problems, 64), particles, tokens)


def compare(
    figures: Figures,
    engine: TransformersEngine,
    real: TrainedRewardModel,
    asked: list[Problem],
    particles: int,
    tokens: int,
    step: int = 16,
) -> None:
    """Plain samples, the filter with rewards that cost nothing, and with the reward model."""
    plain = IndependentSettings(samples=particles, step=whole(tokens), sampling=SAMPLING)
    filters = ParticleFilterSettings(
        particles=particles, step=in_steps(tokens, step), sampling=SAMPLING
    )
    short = filters.model_copy(update={"step": in_steps(2 * step, step)})
    run_searches(engine, asked, real, short, len(asked))
    rate = run_searches(engine, asked, None, plain, len(asked))
    figures.add(problems=len(asked), particles=particles, tokens=tokens, step=step, plain=rate)
    before = real.run_tokens
    beside = run_searches(engine, asked, real, filters, len(asked))
    figures.add(
        filter=beside,
        reward_tokens=real.run_tokens - before,
        filter_over_plain=ratio(beside, rate),
        memory=memory(),
    )
    free = run_searches(engine, asked, ScriptedRewardModel(scripted_reward), filters, len(asked))
    figures.add(filter_with_free_rewards=free, free_over_plain=ratio(free, rate))


def seed_size(figures: Figures, small: bool) -> None:
    prompt, tokens, step = (16, 24, 8) if small else (96, 264, 33)
    shape, scorer_shape = (TINY, TINY) if small else (PHI4, QWEN_PRM)
    capacity = prompt + tokens + 8
    started = time.monotonic()
    policy = random_model(AutoModelForCausalLM.from_config, Phi3Config, shape)
    scorer = random_model(Qwen2ForProcessRewardModel, Qwen2Config, scorer_shape)
    figures.add(
        policy={"shape": shape, "parameters": parameters(policy)},
        reward_model={"shape": scorer_shape, "parameters": parameters(scorer)},
        seconds_to_make=round(time.monotonic() - started, 1),
        memory_of_weights=memory(),
    )
    tokenizer = made_up_words(shape["vocab_size"])
    rows = 8 if small else rows_that_fit(policy, scorer, capacity)
    while True:
        engine = make_engine(policy, tokenizer, rows + 8, capacity)
        slots = SlotModel(scorer, rows + 8, capacity)
        real = TrainedRewardModel(slots, tokenizer, PROMPT, same_tokens=True)
        try:
            clock = Clock()
            asyncio.run(engine.extend([engine.start(p) for p in questions(rows // 8, prompt)],
                                      whole(1), SAMPLING, [Key.of(0)] * (rows // 8)))  # fmt: skip
            figures.add(particles=rows, prefill=clock.rate(rows // 8 * prompt))
            eight = partial(timed, partial(run_plain_tokens, engine, rows, prompt, 8))
            few = eight()
            figures.add(few_tokens=few)
            figures.add(**busy(eight, few["seconds"]))
            compare(figures, engine, real, questions(1, prompt), rows, tokens, step)
            break
        except UserError as error:
            figures.add(**{f"with_{rows}_particles": str(error)})
            asyncio.run(engine.close())
            asyncio.run(real.close())
            del engine, slots, real
            gc.collect()
            torch.cuda.empty_cache()
            rows = rows * 3 // 4 // 8 * 8
            if rows < 16:
                raise


async def run_plain_tokens(engine: TransformersEngine, rows: int, prompt: int, tokens: int) -> int:
    [question] = questions(1, prompt)
    keys = [Key.of(SEED).at(particle=i) for i in range(rows)]
    results = await engine.extend([engine.start(question)] * rows, whole(tokens), SAMPLING, keys)
    return sum(len(result.token_ids) for result in results)


def rows_that_fit(policy: Any, scorer: Any, capacity: int) -> int:
    """Particles of ``capacity`` tokens that the card's free memory holds: keys and values of both
    models, 5/4 of them while a cache grows, and what a forward pass needs beside them (repeated
    keys and values of one layer, logits)."""
    free, _ = torch.cuda.mem_get_info()
    kv = 0
    for config in (policy.config, scorer.config):
        size = config.hidden_size // config.num_attention_heads
        kv += 4 * config.num_hidden_layers * config.num_key_value_heads * size
    columns = 65  # after the first chunk of a prompt; then they double
    while columns <= capacity:
        columns *= 2
    row = 1.25 * kv * columns + 4 * policy.config.hidden_size * columns
    row += 30 * policy.config.vocab_size + 8e6
    return int(min(512, 0.93 * free / row)) // 16 * 16


def full_card(figures: Figures, small: bool) -> None:
    if device().type == "cpu":
        raise SkippedError("main memory is not to be filled")
    model = random_model(AutoModelForCausalLM.from_config, LlamaConfig, TINY)
    tokenizer = made_up_words(TINY["vocab_size"])
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(0, free - 2**29), dtype=torch.uint8, device="cuda")
    engine = make_engine(model, tokenizer, 4096, 512)
    asked = questions(4096, 32)
    try:
        timed(lambda: serve(engine, asked, np.full(4096, 400)))
        figures.add(sentence=None)
    except UserError as error:
        figures.add(sentence=str(error))
    asyncio.run(engine.close())
    del ballast
    gc.collect()
    torch.cuda.empty_cache()
    model = random_model(AutoModelForCausalLM.from_config, LlamaConfig, TINY)
    smaller = make_engine(model, tokenizer, 64, 512)
    figures.add(afterwards=timed(lambda: serve(smaller, asked, np.full(128, 16))))


def vllm_speed(figures: Figures, small: bool) -> None:
    """Plain against filter with rewards that cost nothing."""
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise SkippedError(f"vLLM is not installed here ({error})") from error
    from butwait.engines.kinds.vllm import VllmSettings, start_vllm
    from butwait.engines.settings import ModelSettings

    problems, particles, tokens, step = (2, 4, 32, 8) if small else (16, 32, 256, 32)
    shape = TINY if small else SMOLLM2
    tokenizer = made_up_words(shape["vocab_size"])
    with tempfile.TemporaryDirectory() as name:
        model = random_model(AutoModelForCausalLM.from_config, LlamaConfig, shape)
        model.save_pretrained(name)
        tokenizer.save_pretrained(name)
        del model
        gc.collect()
        settings = VllmSettings(kind="vllm", capacity=512, max_rows=512)
        engine = start_vllm(ModelSettings(name=name, dtype="bfloat16"), tokenizer, settings, PROMPT)
        asked = questions(problems, 64)
        plain = IndependentSettings(samples=particles, step=whole(tokens), sampling=SAMPLING)
        filters = ParticleFilterSettings(
            particles=particles, step=in_steps(tokens, step), sampling=SAMPLING
        )

        async def tokens_of(settings: Any, reward: Any) -> int:
            from butwait.search.run import run_sampler

            searches = (run_sampler(p, engine, reward, settings, Key.of(SEED, p.id)) for p in asked)
            return sum(t.counts.policy_tokens for t in await asyncio.gather(*searches))

        async def both() -> None:
            await tokens_of(filters, ScriptedRewardModel(scripted_reward))
            clock = Clock()
            slow = clock.rate(await tokens_of(plain, None))
            figures.add(plain=slow)
            clock = Clock()
            fast = clock.rate(await tokens_of(filters, ScriptedRewardModel(scripted_reward)))
            figures.add(filter=fast, filter_over_plain=ratio(fast, slow), at_least=0.9)
            await engine.close()

        asyncio.run(both())
