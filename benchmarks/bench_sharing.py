"""What sharing keys and values is worth: memory of a population, prompts that begin alike, and a
reward model that reads paths as they grow.

    python benchmarks/bench_sharing.py [--before COMMIT] [--particles 512]

- ``kv_ratio_policy``, ``kv_ratio_reward_model``: tokens whose keys and values are there, in whole
  blocks, over the tokens on living paths with the prompt once, at the peak of a filter of 512
  particles and 20 steps of 33 tokens on average. It resamples as the product's does, by what steps
  added to the logit of a recorded reward model (``recorded_steps.json``), and steps have recorded
  lengths, scaled to that mean. ``dense`` is the same for a row of the longest path's length for
  each path. ``allocated`` counts what the tensors have room for.
- ``reward_tokens_ratio``: tokens run over those that are new, in a filter of 16 particles; beside
  it 17 paths within the memory of 16 whole ones, and CPU seconds a token over those of a bare
  forward pass of 64 tokens.
- ``few_shot_speedup``: 64 questions of 15 to 40 tokens behind 130 that are common, 2 samples of 30
  tokens each, over the same work with the package of ``--before`` (its ``src`` is taken from git).
- ``prefill_over_forward``: prefilling 64 prompts of 160 tokens over a bare forward pass.

Models: a random one of two layers for memory, SmolLM2-135M in bfloat16 for time; one thread. Times
are CPU seconds, the least of two or three runs, taken in turn. Results go to
``benchmarks/results/sharing.json``.
"""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_engine import conditions
from transformers import LlamaConfig, LlamaForCausalLM

from butwait.engines.engine import Prefix
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings
from butwait.records import Key
from butwait.running.files import write_json
from butwait.search.resampling import RESAMPLERS
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.weights import effective_sample_size, normalise, reweight

RESULTS = Path(__file__).parent / "results" / "sharing.json"
SEED = 0
PROMPT, STEPS, STEP_TOKENS = 100, 20, 33
VOCABULARY = 297
"""Of the tiny model's tokenizer."""
COMMON, QUESTIONS, SAMPLES, TOKENS = 130, 64, 2, 30


def recorded_steps() -> Any:
    """Imported late: the package of ``--before`` has not all that it takes."""
    from simulated import recorded

    return recorded(STEP_TOKENS)


def small_model() -> Any:
    """Random weights: what is held does not depend on them."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def smollm2() -> Any:
    return load_causal_lm(ModelSettings(name="smollm2", dtype="bfloat16", device="cpu"))


def make_engine(model: Any, name: str, slots: int) -> TransformersEngine:
    """An engine that nothing but lengths stops, with the tokenizer of a named model."""
    tokenizer = load_tokenizer(ModelSettings(name=name))
    engine = TransformersEngine(
        model, tokenizer, TransformersSettings(slots=slots), PromptSettings()
    )
    engine._eos_ids = frozenset()
    return engine


def path_of(tokens: np.ndarray) -> Prefix:
    return Prefix(token_ids=tokens.astype(np.int32), prompt_length=len(tokens))


def lengths_of(generator: np.random.Generator, particles: int) -> np.ndarray:
    """int64: tokens of a step each."""
    return generator.choice(recorded_steps().lengths, particles)


class Resampling:
    """The filter's weights, whose rewards are recorded ones."""

    def __init__(self, generator: np.random.Generator, particles: int) -> None:
        self._generator, self._gains = generator, recorded_steps().gains
        self._settings = ParticleFilterSettings(particles=particles)
        self._log_weights, self._logits = np.zeros(particles), np.zeros(particles)
        self.times = 0
        """It resampled."""

    def ancestors(self, step: int) -> np.ndarray:
        """int32 (particles,), after so many steps."""
        particles = len(self._logits)
        before = self._logits * self._settings.alpha_at(step - 1)
        self._logits = self._logits + self._generator.choice(self._gains, particles)
        after = self._logits * self._settings.alpha_at(step)
        self._log_weights = reweight(self._log_weights, before, after)
        threshold = self._settings.ess_threshold * particles
        if effective_sample_size(self._log_weights) >= threshold:
            return np.arange(particles, dtype=np.int32)
        self.times += 1
        weights = np.exp(normalise(self._log_weights))
        found = RESAMPLERS[self._settings.resampling](weights, self._generator)
        self._logits, self._log_weights = self._logits[found], np.zeros(particles)
        return found


class Held:
    """The peak of what a model's slots hold, against what the paths have."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.figures: dict[str, float] = {"held": 0}

    def look(self, paths: list[np.ndarray]) -> None:
        """``paths``: those that live, each the numbers of its nodes' tokens."""
        held = self._model.held_tokens
        if held > self.figures["held"]:
            unique = len(np.unique(np.concatenate(paths)))
            dense = len(paths) * max(map(len, paths))
            self.figures = {
                "held": held,
                "unique": unique,
                "ratio": round(held / unique, 3),
                "dense": round(dense / unique, 3),
                "allocated": round(self._model.allocated_tokens / unique, 3),
            }


async def run_filter(particles: int, grow: Callable[..., Any], held: Held) -> int:
    """Particles that grow and die; ``grow(step, lengths, ancestors, numbers)`` runs a step. Returns
    the unique tokens."""
    generator = np.random.default_rng(SEED)
    resampling = Resampling(generator, particles)
    numbers = [np.arange(PROMPT) for _ in range(particles)]
    ancestors, new = np.zeros(particles, np.int64), PROMPT
    for step in range(STEPS):
        lengths = lengths_of(generator, particles)
        parents = [numbers[i] for i in ancestors] if step else numbers
        ends = new + np.cumsum(lengths)
        numbers = [
            np.r_[p, np.arange(e - n, e)] for p, e, n in zip(parents, ends, lengths, strict=True)
        ]
        new = int(ends[-1])
        await grow(step, lengths, ancestors, lambda seen=numbers: held.look(seen))
        ancestors = resampling.ancestors(step + 1)
    held.figures["resampled"] = resampling.times
    return new


def policy_memory(particles: int) -> dict[str, float]:
    """Of the engine, over a filter."""
    engine = make_engine(small_model(), "tiny", particles)
    held = Held(engine._batcher._model)
    start = path_of(np.random.default_rng(SEED).integers(1, VOCABULARY, PROMPT))
    paths: list[Prefix] = [start] * particles

    async def grow(step: int, lengths: np.ndarray, ancestors: np.ndarray, look: Any) -> None:
        nonlocal paths
        alive = set(ancestors.tolist())
        engine.release([p for i, p in enumerate(paths) if step and i not in alive])
        parents = [paths[i] for i in ancestors]

        async def one(i: int) -> Prefix:
            rule = StepRule(
                delimiters=(), max_tokens=4000, max_step_tokens=int(lengths[i]), stop_at_box=False
            )
            key = Key.of(SEED, "bench").at(step=step, particle=i)
            [made] = await engine.extend([parents[i]], rule, Sampling(), [key])
            return made.prefix

        paths = list(await asyncio.gather(*(one(i) for i in range(particles))))
        engine.release(parents)
        look()

    asyncio.run(run_filter(particles, grow, held))
    return held.figures


def reward_memory(particles: int, slots: int) -> dict[str, float]:
    """Of a reward model, over a filter; and how often a token was run."""
    from butwait.engines.slots import SlotModel
    from butwait.reward_models.incremental import IncrementalScorer, Request

    model = SlotModel(small_model(), slots)
    scorer, held = IncrementalScorer(model), Held(model)
    generator = np.random.default_rng(SEED)
    prompt, nothing = (
        generator.integers(1, VOCABULARY, PROMPT).astype(np.int32),
        np.zeros(0, np.int32),
    )
    paths: list[Any] = []

    async def grow(step: int, lengths: np.ndarray, ancestors: np.ndarray, look: Any) -> None:
        nonlocal paths
        alive = set(ancestors.tolist())
        scorer.release([handle for i, (_, handle) in enumerate(paths) if i not in alive])
        parents = [paths[i] for i in ancestors] if step else [((prompt,), None)] * particles
        grown = [
            ((*segments, generator.integers(1, VOCABULARY, n).astype(np.int32)), handle)
            for (segments, handle), n in zip(parents, lengths, strict=True)
        ]
        results = await scorer.run([Request(s, handle, nothing) for s, handle in grown])
        scorer.release([handle for _, handle in parents])
        paths = [(s, r.handle) for (s, _), r in zip(grown, results, strict=True)]
        look()

    unique = asyncio.run(run_filter(particles, grow, held))
    whole = PROMPT + STEPS * STEP_TOKENS
    return held.figures | {
        "run_over_unique": round(scorer.run_tokens / unique, 3),
        "held_over_16_whole_paths": round(held.figures["held"] / (16 * whole), 3),
    }


def cpu(work: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turn(*works: Callable[[], Any], rounds: int = 3) -> list[float]:
    """CPU seconds of each, the least of several."""
    return [
        min(times) for times in zip(*([cpu(w) for w in works] for _ in range(rounds)), strict=True)
    ]


@torch.inference_mode()
def prefill_over_forward() -> dict[str, float]:
    """Prompts with nothing in common, of one length."""
    from butwait.engines.slots import SlotModel

    model, rows, length = smollm2(), 64, 160
    ids = np.random.default_rng(SEED).integers(1, 40_000, (rows, length))
    slots = SlotModel(model, rows)
    taken = [slots.acquire() for _ in range(rows)]

    def prefill() -> None:
        slots.prefill([(slot, 0, row) for slot, row in zip(taken, ids, strict=True)])

    def forward() -> None:
        for first in range(0, rows, 8):
            model(torch.from_numpy(ids[first : first + 8]), use_cache=False, logits_to_keep=1)

    prefill()
    ours, bare = in_turn(prefill, forward)
    return {"ratio": round(ours / bare, 2), "prefill": round(ours, 2), "forward": round(bare, 2)}


@torch.inference_mode()
def reward_cpu() -> dict[str, float]:
    """16 steps of 1 to 65 tokens, run as one batch after a prompt, against passes of 64 tokens."""
    from butwait.engines.slots import SlotModel
    from butwait.reward_models.incremental import IncrementalScorer, Request

    model = smollm2()
    generator = np.random.default_rng(SEED)
    scorer = IncrementalScorer(SlotModel(model, 40))
    prompt = generator.integers(1, 40_000, PROMPT).astype(np.int32)
    steps = [generator.integers(1, 40_000, n).astype(np.int32) for n in lengths_of(generator, 16)]
    tokens = sum(map(len, steps))

    def score(segments: list[np.ndarray]) -> None:
        requests = [Request((prompt, s), None, np.zeros(0, np.int32)) for s in segments]
        scorer.release([r.handle for r in asyncio.run(scorer.run(requests))])

    score(steps[:1])  # the prompt is held from here on
    ids = torch.from_numpy(generator.integers(1, 40_000, (1, 64)))
    ours, bare = in_turn(
        lambda: score(steps), lambda: model(ids, use_cache=False, logits_to_keep=1)
    )
    return {"ratio": round(ours / tokens / (bare / 64), 2), "tokens": tokens}


def few_shot_seconds() -> float:
    """CPU seconds of the few-shot work with the package that is imported."""
    engine = make_engine(smollm2(), "smollm2", QUESTIONS * SAMPLES)
    generator = np.random.default_rng(SEED)
    common = generator.integers(100, 40_000, COMMON)
    prompts = [np.r_[common, generator.integers(100, 40_000, n)]
               for n in generator.integers(15, 41, QUESTIONS)]  # fmt: skip
    rule = StepRule(delimiters=(), max_tokens=TOKENS, stop_at_box=False)

    async def one(i: int) -> None:
        keys = [Key.of(SEED, str(i)).at(particle=j) for j in range(SAMPLES)]
        made = await engine.extend([path_of(prompts[i])] * SAMPLES, rule, Sampling(), keys)
        assert all(len(step.token_ids) == TOKENS for step in made)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(i) for i in range(QUESTIONS)))

    return cpu(lambda: asyncio.run(all_of_them()))


def few_shot_speedup(before: str, rounds: int = 2) -> dict[str, float]:
    """Each run in a process of its own, in turn."""
    root = Path(__file__).parents[1]
    archive = subprocess.run(
        ["git", "archive", before, "src"], cwd=root, check=True, capture_output=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        times: dict[Path, list[float]] = {Path(folder) / "src": [], root / "src": []}
        for _ in range(rounds):
            for source, taken in times.items():
                words = [sys.executable, __file__, "--few-shot-only"]
                environment = os.environ | {"PYTHONPATH": str(source)}
                done = subprocess.run(
                    words, env=environment, capture_output=True, text=True, check=True
                )
                taken.append(float(done.stdout.splitlines()[-1]))
    old, new = (min(taken) for taken in times.values())
    return {"speedup": round(old / new, 2), "before": round(old, 1), "now": round(new, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", help="a commit to compare the few-shot work with")
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--few-shot-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.few_shot_only:
        print(few_shot_seconds())
        return
    from butwait.engines.kv.blocks import BLOCK

    particles = arguments.particles
    policy = policy_memory(particles)
    reward = reward_memory(particles, particles + 1)
    sixteen, seventeen = reward_memory(16, 17), reward_memory(17, 18)
    prefill, a_token = prefill_over_forward(), reward_cpu()
    few_shot = few_shot_speedup(arguments.before) if arguments.before else None
    figures = {
        "kv_ratio_policy": policy["ratio"],
        "kv_ratio_reward_model": reward["ratio"],
        "block": BLOCK,
        "few_shot_speedup": few_shot and few_shot["speedup"],
        "prefill_over_forward": prefill["ratio"],
        "reward_tokens_ratio": sixteen["run_over_unique"],
        "reward_cpu_over_forward": a_token["ratio"],
        "particles": particles,
        "policy": policy,
        "reward_model": reward,
        "seventeen_paths": seventeen,
        "few_shot": few_shot,
        "prefill": prefill,
    }
    for name, value in figures.items():
        print(f"{name:24} {value}", flush=True)
    write_json(arguments.output, conditions(1) | figures)


if __name__ == "__main__":
    main()
