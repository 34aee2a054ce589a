"""The parts of `benchmarks/gpu.py`.

Models have random weights of real shapes, made on the card, except where something is learned:
speed and memory do not depend on what the weights say. Lengths are scripted, EOS is off.
"""

import asyncio
import dataclasses
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
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
from butwait.engines.models import find_gguf
from butwait.engines.slots import SlotModel
from butwait.engines.transformers import TransformersEngine
from butwait.pipeline.run import run_recipe
from butwait.problems.settings import PromptSettings
from butwait.recipe.load import load_recipe
from butwait.records import Key, Problem, UserError
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.score_head import Qwen2ForProcessRewardModel
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running.files import write_json
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings
from butwait.stages.kinds import STAGES

SEED = 0
PROMPT = PromptSettings(style="plain", template="{question}")
GB = 1e9
LETTERS = "abcdefghij"


class SkippedError(Exception):
    """What a part needs is not here."""


class Figures:
    """What a part has measured, in its file at once."""

    def __init__(self, output: Path) -> None:
        self._output, self._all = output, {"seed": SEED}

    def add(self, **figures: Any) -> None:
        self._all |= figures
        write_json(self._output, self._all)
        for name, value in figures.items():
            print(f"  {name}: {json.dumps(value)}", flush=True)


@dataclasses.dataclass(frozen=True)
class Part:
    """Attributes:
    what: in a line.
    seconds: it may take.
    run: measures; the flag asks for tiny sizes.
    """

    what: str
    seconds: int
    run: Callable[[Figures, bool], None]


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


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def touch_card() -> None:
    """Fails in a process that was forked from one that did so before."""
    torch.zeros(1, device="cuda")


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


def memory() -> dict[str, float]:
    """Gigabytes (1e9 bytes) on the card."""
    if device().type == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated": round(torch.cuda.memory_allocated() / GB, 2),
        "peak": round(torch.cuda.max_memory_allocated() / GB, 2),
        "free": round(free / GB, 2),
        "total": round(total / GB, 2),
    }


def busy(work: Callable[[], Any], wall: float) -> dict[str, Any]:
    """How much of a workload's wall time (seconds, measured without this) the card computes, and
    its eight longest kernels in shares of its own time."""
    if device().type == "cpu":
        work()
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    rows = [(e.self_device_time_total, e.key) for e in seen.key_averages()]
    total = sum(t for t, _ in rows) or 1
    top = {key[:90]: round(t / total, 3) for t, key in sorted(rows, reverse=True)[:8]}
    return {"card_busy": round(total / 1e6 / wall, 3), "kernels": top}


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


@torch.inference_mode()
def attention(figures: Figures, small: bool) -> None:
    """Microseconds of one layer's attention while a token is decoded, three ways: keys repeated for
    every head, as transformers does where there is a mask; PyTorch's own grouped heads; and the
    heads of a group as queries that share a mask."""
    rows, columns, heads, groups, size = (2, 16, 4, 2, 8) if small else (256, 512, 40, 10, 128)
    dtype, place = torch.bfloat16, device()
    query = torch.randn(rows, heads, 1, size, dtype=dtype, device=place)
    store = torch.randn(2, rows, columns + 8, groups, size, dtype=dtype, device=place)
    keys, values = (part[:, :columns].transpose(1, 2) for part in store)
    mask = torch.ones(rows, 1, 1, columns, dtype=torch.bool, device=place)
    mask[:, :, :, columns - 3 :] = False
    sdpa, n = torch.nn.functional.scaled_dot_product_attention, heads // groups

    def repeated() -> torch.Tensor:
        k, v = (
            x[:, :, None].expand(-1, -1, n, -1, -1).reshape(rows, heads, columns, size)
            for x in (keys, values)
        )
        return sdpa(query, k, v, attn_mask=mask)

    def own() -> torch.Tensor:
        return sdpa(query, keys, values, attn_mask=mask, enable_gqa=True)

    def as_queries() -> torch.Tensor:
        grouped = query.view(rows, groups, n, size)
        wide = mask.expand(rows, groups, n, columns)
        return sdpa(grouped, keys, values, attn_mask=wide).view(rows, heads, 1, size)

    expected, found = repeated().float(), {}
    for way in (repeated, own, as_queries):
        try:
            off = float((way().float() - expected).abs().max())
            for _ in range(3):
                way()
            synchronise()
            start = time.perf_counter()
            for _ in range(20):
                way()
            synchronise()
            found[way.__name__] = {
                "microseconds": round((time.perf_counter() - start) / 20 * 1e6, 1),
                "largest_difference": off,
            }
        except RuntimeError as error:
            found[way.__name__] = {"failed": str(error)[:200]}
        figures.add(rows=rows, columns=columns, heads=heads, key_heads=groups, ways=found)


def synchronise() -> None:
    if device().type != "cpu":
        torch.cuda.synchronize()


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


EXAMPLES = """\
Question: 4 + 7 + 2 + 5
4 + 7 = 11
11 + 2 = 13
13 + 5 = 18
\\boxed{18}

Question: 6 + 3 + 8 + 1 + 9
6 + 3 = 9
9 + 8 = 17
17 + 1 = 18
18 + 9 = 27
\\boxed{27}

Question: {question}"""


def write_sums(file: Path, count: int, seed: int, seen: set[str]) -> None:
    """Different sums of four or five digits; none of ``seen``, which they join."""
    draw, lines = np.random.default_rng(seed), []
    while len(lines) < count:
        terms = draw.integers(1, 10, draw.integers(4, 6)).tolist()
        question = " + ".join(map(str, terms))
        if question not in seen:
            seen.add(question)
            lines.append({"id": f"{file.stem}-{len(lines)}", "question": question,
                          "answer": str(sum(terms))})  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def problem_sets(folder: Path, small: bool) -> dict[str, Any]:
    """Of the loop: sums of digits; where it is rehearsed, what the tiny model knows."""
    if small:
        splits = {"test": "test", "prm": "train", "hunt": "search"}
        return {
            name: {"source": "arithmetic", "split": splits[name], "limit": 8} for name in splits
        }
    seen: set[str] = set()
    for seed, (name, size) in enumerate({"test": 100, "prm": 48, "hunt": 192}.items()):
        write_sums(folder / f"{name}.jsonl", size, seed, seen)
    return {name: {"source": f"{name}.jsonl"} for name in ("test", "prm", "hunt")}


def loop_recipe(folder: Path, small: bool) -> Path:
    """Reward model, search, fine-tuning and GRPO-Direct on sums, as small as they still learn."""
    limit = 48 if small else 72
    whole_path = {"delimiters": [], "max_tokens": limit}
    lines = {"delimiters": ["\n"], "max_tokens": limit}
    sampling = {"temperature": 0.8}
    sample = {"sample": {"k": 2, "sampler": {"kind": "independent", "step": whole_path,
                                             "sampling": sampling}}}  # fmt: skip
    evaluate = {"kind": "evaluate", "problems": ["test"], "methods": sample, "concurrency": 64}
    search = {"kind": "particle_filter", "particles": 4 if small else 16, "step": lines}
    batch, rate = 4 if small else 32, 5e-5
    content = {
        "model": {"name": "tiny", "device": "cpu"}
        if small
        else {"name": "smollm2", "dtype": "bfloat16"},
        "engine": {"kind": "transformers", "slots": 16 if small else 512},
        "prompt": {"template": "{question}"}
        if small
        else {"style": "plain", "template": EXAMPLES},
        "problems": problem_sets(folder, small),
        "stages": {
            "base": evaluate,
            "prm": {
                "kind": "prm",
                "problems": "prm",
                "rollouts": {"solutions": 8, "prefixes": 0, "steps": lines, "sampling": sampling,
                             "concurrency": 64},
                "epochs": 1, "batch_size": batch, "learning_rate": rate, "precision": "mixed",
            },
            "search": {"kind": "search", "from": ["prm"], "problems": "hunt",
                       "sampler": search | {"sampling": sampling}, "concurrency": 32},
            "verified": {"kind": "verified", "from": ["search"], "per_question": 2},
            "sft": {"kind": "sft", "from": ["verified"], "epochs": 2, "batch_size": batch,
                    "learning_rate": rate, "precision": "mixed"},
            "after": evaluate | {"from": ["sft"]},
            "direct": {
                "kind": "grpo_direct", "from": ["prm"], "problems": "hunt",
                "steps": 2 if small else 8, "questions": 2 if small else 32, "group": 4 if small
                else 8, "batch_size": 8 if small else 64, "learning_rate": 1e-5,
                "precision": "mixed", "step": whole_path, "sampler": search,
                "generation": {"slots": 16 if small else 512}, "save_steps": None,
            },
            "after_direct": evaluate | {"from": ["direct"]},
        },
    }  # fmt: skip
    recipe = folder / "sums.yaml"
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    return recipe


def training(figures: Figures, small: bool) -> None:
    """The loop, then what the card still holds, and what another process may take of it."""
    if not small:
        try:
            find_gguf()
        except UserError as error:
            raise SkippedError(str(error)) from error
    start = memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        recipe = load_recipe(str(loop_recipe(folder, small)), STAGES)
        try:
            run_recipe(recipe, folder / "run")
        finally:
            for file in sorted((folder / "run").glob("*/stage.json"), key=os.path.getmtime):
                stage = json.loads(file.read_text())
                kept = ("status", "seconds", "metrics", "cost")
                figures.add(**{file.parent.name: {key: stage.get(key) for key in kept}})
        os.chdir("/")
    left = memory()
    figures.add(before=start, afterwards=left)
    if left:
        figures.add(left_on_the_card_gb=round(start["free"] - left["free"], 2))


def vllm_speed(figures: Figures, small: bool) -> None:
    """Plain against filter with rewards that cost nothing, in a process that trained before."""
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


PARTS = {
    "seed_size": Part("Phi-4's shape beside a 7B reward model: tokens/s, memory", 170, seed_size),
    "engine": Part("tokens/s of SmolLM2's shape with 512 rows", 50, engine_speed),
    "attention": Part("one layer's attention of a decoded token, three ways", 20, attention),
    "full_card": Part("a full card is one sentence, and the next engine runs", 30, full_card),
    "training": Part("reward model, search, SFT, GRPO-Direct; memory goes back", 150, training),
    "reward_beside": Part("the filter with a reward model of the policy's size", 50, reward_beside),
    "forks": Part("forking a cache against running paths again", 40, forks),
    "vllm": Part("vLLM: filter against plain sampling", 90, vllm_speed),
}
"""In the order of their worth."""
