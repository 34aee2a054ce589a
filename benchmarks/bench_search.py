"""The filter against its_hub 1.2.0, on the same vLLM server in the same run.

    make bench-search
    python benchmarks/bench_search.py --only-in-process         # beside its_hub gathered, no more

Both search the same GSM8K-like questions with the same model, the same number of particles, the
same reward (a function of the path's text that costs nothing) and the same ends of steps and
paths. its_hub runs as its documentation shows it, one question after another, and once more with
its coroutines gathered over all questions. Steps end at a blank line, as in its documentation, and
in a second round at every line break, so that steps are short. Written to
``benchmarks/results/search.json``, for each round:

- ``questions_per_hour_ratio``: ours over its_hub's, against both ways of running it. Beside it the
  ratio of CPU seconds, client and server together, which other work on the machine does not change.
- ``in_process_over_gathered``: questions an hour of our filter on the in-process engine, with no
  server, over its_hub's gathered on vLLM: same model, questions, particles and threads. The server
  stands by, without work, while ours runs. Models are loaded and servers started before.
- ``prefilled_tokens``: prompt tokens that the server computed, from the server's own counters.
- ``counted_tokens``: generated tokens by our own count, to hold against the server's.
- ``filter_overhead``: seconds a token of the filter over those of plain sampling; and CPU seconds.
- ``prm_token_ratio``: tokens that a reward model runs when every path is scored from its start,
  over what the incremental one runs, at 32 steps.

Ratios are of means where something ran twice.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from bench_engine import conditions, write_results

from butwait.engines.kinds.openai import OpenAISettings
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.load import load_engine
from butwait.engines.models import load_causal_lm, load_tokenizer, resolve
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.slots import SlotModel
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.problems.sources import load_problems
from butwait.records import Key, Problem
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.reward_model import Step
from butwait.reward_models.score_head import add_score_head
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running.files import write_json
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings
from butwait.search.settings import SamplerSettings

RESULTS = Path(__file__).parent / "results" / "search.json"
SEED = 0
PARTICLES = 16
STEPS, STEP_TOKENS = 8, 64
PLAIN_TOKENS = {"\n\n": 256, "\n": 128}
"""Tokens of a plain path at most, for each delimiter: about as many as the filter's paths have."""
TEMPERATURE = 0.8
TEMPLATE = "{question}\nSolve it in short lines and put the final number in \\boxed{}."
CAPACITY = 1024
"""Tokens a path, prompt included."""
START_S = 600
"""Seconds that the server may take to start."""
CLOCKS = ("seconds", "cpu_seconds")
IN_PROCESS = ("butwait_in_process", "its_hub_gathered", "butwait_in_process")
ORDER = (
    *("butwait_filter", "butwait_plain", *IN_PROCESS),
    *("butwait_plain", "butwait_filter", "its_hub_as_documented"),
)
"""What is compared closely runs twice, in both orders, as the machine's speed drifts."""
LOG = Path(tempfile.gettempdir()) / "butwait-bench-vllm-server.log"


def reward_of(text: str) -> float:
    """A logit in [-2, 2] that differs from path to path and costs nothing."""
    return zlib.crc32(text.encode()) % 101 / 25 - 2


def reward_of_steps(problem: Problem, steps: Sequence[Step]) -> float:
    return reward_of("".join(step.text for step in steps))


@contextmanager
def vllm_server(model: ModelSettings, log: Path, more: Sequence[str] = ()) -> Iterator[str]:
    """vLLM's server on this machine, with ``more`` words of its command line; its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", resolve(model), "--served-model-name", model.name]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", model.dtype, "--max-model-len", str(CAPACITY), "--enforce-eager"]
    # Its cache finds a path's beginning in whole blocks, of 128 tokens on a CPU by default.
    command += ["--block-size", "32"]
    command += ["--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details"]
    # A CPU's vLLM dies of a seeded request whose prompt it runs in parts (docs/how_to/server.md).
    command += ["--no-enable-chunked-prefill", *more]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | quiet | cpu,
            start_new_session=True,
        )
        try:
            base = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_S
            while not _answers(f"{base}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"vLLM did not start; see {log}")
                time.sleep(1)
            yield base
        finally:
            # Its workers too: they outlive a server that ends in the midst of its start.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def server_counters(base: str) -> dict[str, float]:
    """Tokens so far: generated, and prompt tokens that no cache held."""
    with urllib.request.urlopen(f"{base}/metrics", timeout=30) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        return sum(float(v) for v in re.findall(rf"^vllm:{name}_total{{.*}} (\S+)$", text, re.M))

    return {
        "generated": total("generation_tokens"),
        "prefilled": total("prompt_tokens") - total("prefix_cache_hits"),
    }


def cpu_seconds() -> float:
    """Of this process and the server's, so far."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def measured(
    counters: Callable[[], dict[str, float]],
    questions: int,
    name: str,
    work: Callable[[], Awaitable[int | None]],
) -> dict[str, float]:
    """Runs something and says what it took, by this clock and the counters of what runs the model.
    ``work`` returns the tokens that it counted itself, or None."""
    before, cpu, start = counters(), cpu_seconds(), time.perf_counter()
    counted = asyncio.run(work())  # type: ignore[arg-type]
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    after = counters()
    generated = after["generated"] - before["generated"]
    found = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "load_at_end": round(os.getloadavg()[0], 1),
        "questions_per_hour": round(questions / seconds * 3600, 1),
        "generated_tokens": generated,
        "prefilled_tokens": after["prefilled"] - before["prefilled"],
        "tokens_per_second": round(generated / seconds, 1),
    }
    if counted is not None:
        found["counted_tokens"] = counted
    print(name, found, flush=True)
    return found


def its_hub(base: str, model: str, problems: list[Problem], delimiter: str, together: bool) -> Any:
    """its_hub's particle filter on all problems, one after another or gathered."""
    from its_hub.api import AbstractProcessRewardModel
    from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
    from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
    from its_hub.core.lms.step_generation import StepGeneration

    class Reward(AbstractProcessRewardModel):
        def score(self, prompt: Any, steps: list[str]) -> list[float]:
            return [1 / (1 + float(np.exp(-reward_of(text)))) for text in steps]

        async def ascore(self, prompt: Any, steps: list[str]) -> list[float]:
            return self.score(prompt, steps)

    language_model = OpenAICompatibleLanguageModel(
        endpoint=f"{base}/v1", api_key="none", model_name=model, max_tokens=STEP_TOKENS
    )
    # Its limit of n steps makes n + 1.
    steps = StepGeneration(
        max_steps=STEPS - 1,
        step_token=delimiter,
        stop_token=r"\boxed",
        temperature=TEMPERATURE,
    )
    filtering = ParticleFiltering(steps, Reward())

    async def work() -> int | None:
        prompts = [TEMPLATE.replace("{question}", p.question) for p in problems]
        if together:
            await asyncio.gather(
                *(filtering.ainfer(language_model, prompt, PARTICLES) for prompt in prompts)
            )
        else:
            for prompt in prompts:
                await filtering.ainfer(language_model, prompt, PARTICLES)
        return None

    return work


def ours(
    base: str, model: ModelSettings, problems: list[Problem], settings: SamplerSettings
) -> Any:
    """A sampler of ours on all problems at once, over the same server."""
    # its_hub sends no seeds either. How log-probabilities are meant was said when the server was
    # started; to ask it is no good where two tokens share the first place, as in bfloat16.
    engine_settings = OpenAISettings(
        kind="openai",
        base_url=f"{base}/v1",
        capacity=CAPACITY,
        seeds=False,
        any_logprobs=True,
    )
    prompt = PromptSettings(template=TEMPLATE)
    reward_model = ScriptedRewardModel(reward_of_steps)

    async def work() -> int | None:
        loaded = load_engine(engine_settings, model, prompt, problems, [settings.step])
        try:
            trees = await asyncio.gather(
                *(
                    run_sampler(p, loaded.engine, reward_model, settings, Key.of(SEED, p.id))
                    for p in problems
                )
            )
        finally:
            await loaded.engine.close()
        return sum(tree.counts.policy_tokens for tree in trees)

    return work


def in_process(model: ModelSettings, problems: list[Problem], settings: SamplerSettings) -> Any:
    """The filter on all problems at once, on the in-process engine; and the engine's counters."""
    prompt = PromptSettings(template=TEMPLATE)
    engine_settings = TransformersSettings(slots=len(problems) * PARTICLES, capacity=CAPACITY)
    engine = load_engine(engine_settings, model, prompt, problems, [settings.step]).engine
    reward_model = ScriptedRewardModel(reward_of_steps)

    async def work() -> int | None:
        trees = await asyncio.gather(
            *(run_sampler(p, engine, reward_model, settings, Key.of(SEED, p.id)) for p in problems)
        )
        return sum(tree.counts.policy_tokens for tree in trees)

    def counters() -> dict[str, float]:
        counted = engine.counters
        return {"generated": counted.policy_tokens, "prefilled": counted.prefilled_tokens}

    return work, counters


def prm_token_ratio() -> dict[str, float]:
    """Reward-model tokens of a filter with 32 steps of 16 tokens, 8 particles, tiny model."""
    model, prompt = ModelSettings(name="tiny"), PromptSettings(template="{question}")
    problem = load_problems(ProblemSetSettings(source="arithmetic", params={"size": 1}))[0]
    tokenizer = load_tokenizer(model)
    slots = TransformersSettings(slots=16, capacity=640)
    engine = TransformersEngine(_without_eos(load_causal_lm(model)), tokenizer, slots, prompt)
    scorer = SlotModel(add_score_head(model, 0.0).eval(), 16, 640)
    settings = ParticleFilterSettings(
        particles=8,
        step=StepRule(delimiters=(), max_step_tokens=16, max_tokens=512, stop_at_box=False),
        sampling=Sampling(temperature=1.0),
    )
    reward_model = TrainedRewardModel(scorer, tokenizer, prompt, same_tokens=True)
    key = Key.of(SEED, problem.id)
    tree = asyncio.run(run_sampler(problem, engine, reward_model, settings, key))
    whole = sum(
        len(tree.prompt_ids) + len(tree.path_tokens(node)) for node in range(1, len(tree.nodes))
    )
    return {
        "steps": len(tree.populations),
        "incremental_tokens": tree.counts.reward_tokens,
        "whole_path_tokens": whole,
        "ratio": round(whole / tree.counts.reward_tokens, 2),
        "at_least": 5,
    }


def _without_eos(model: Any) -> Any:
    """The model with a head that never ends a text, so that every path has all its steps."""
    for token in {model.generation_config.eos_token_id, model.config.eos_token_id}:
        original = model.lm_head.forward

        def forward(hidden: Any, original: Any = original, token: Any = token) -> Any:
            logits = original(hidden)
            logits[..., token] = -1e4
            return logits

        model.lm_head.forward = forward
    return model


def bench(
    model: ModelSettings,
    problems: list[Problem],
    delimiter: str,
    log: Path,
    order: Sequence[str] = ORDER,
) -> dict[str, Any]:
    """What is in ``order``, and what of it there is to compare."""
    step = StepRule(
        delimiters=(delimiter,), max_step_tokens=STEP_TOKENS, max_tokens=STEPS * STEP_TOKENS
    )
    sampling = Sampling(temperature=TEMPERATURE)
    filters = ParticleFilterSettings(
        particles=PARTICLES, max_steps=STEPS, step=step, sampling=sampling
    )
    whole = StepRule(delimiters=(), max_tokens=PLAIN_TOKENS[delimiter])
    plain = IndependentSettings(samples=PARTICLES, step=whole, sampling=sampling)
    n = len(problems)

    def hub(base: str, together: bool) -> Any:
        return its_hub(base, model.name, problems, delimiter, together)

    local, local_counters = in_process(model, problems, filters)
    with vllm_server(model, log) as base:
        ways = {
            "butwait_filter": ours(base, model, problems, filters),
            "butwait_plain": ours(base, model, problems, plain),
            "butwait_in_process": local,
            "its_hub_gathered": hub(base, together=True),
            "its_hub_as_documented": hub(base, together=False),
        }
        asyncio.run(ours(base, model, problems[:1], filters)())  # warm-up
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways if name in order}
        for name in order:
            counters = partial(server_counters, base)
            if name == "butwait_in_process":
                counters = local_counters
            runs[name].append(measured(counters, n, name, ways[name]))
    return {
        "model": model.name,
        "dtype": model.dtype,
        "questions": n,
        "particles": PARTICLES,
        "delimiter": delimiter,
        "runs": runs,
    } | compared(runs)


def compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The ratios of what was run."""

    def mean(name: str, figure: str) -> float:
        return float(np.mean([run[figure] for run in runs[name]]))

    def faster(name: str, over: str) -> list[float]:
        return [round(mean(over, clock) / mean(name, clock), 2) for clock in CLOCKS]

    seconds, cpu = faster("butwait_in_process", "its_hub_gathered")
    found: dict[str, Any] = {
        "in_process_over_gathered": seconds,
        "in_process_over_gathered_in_cpu_seconds": cpu,
    }
    if "its_hub_as_documented" not in runs:
        return found
    documented = faster("butwait_filter", "its_hub_as_documented")
    gathered = faster("butwait_filter", "its_hub_gathered")
    a_token = {
        name: [mean(name, clock) / mean(name, "generated_tokens") for clock in CLOCKS]
        for name in ("butwait_filter", "butwait_plain")
    }
    overhead = np.divide(a_token["butwait_filter"], a_token["butwait_plain"]).round(2).tolist()
    return found | {
        "questions_per_hour_ratio": documented[0],
        "questions_per_hour_ratio_gathered": gathered[0],
        "cpu_seconds_ratio": documented[1],
        "cpu_seconds_ratio_gathered": gathered[1],
        "filter_overhead": overhead[0],
        "filter_overhead_in_cpu_seconds": overhead[1],
        "prm_token_ratio": prm_token_ratio(),
    }


def beside(output: Path, new: dict[str, Any], threads: int) -> None:
    """Puts what was run of a round beside what is in the file of it, with its own conditions."""
    told = json.loads(output.read_text()) if output.exists() else {"models": []}
    this = new["model"], new["delimiter"]
    known = [old for old in told["models"] if (old["model"], old["delimiter"]) == this]
    if not known:
        told["models"].append(new | conditions(threads))
    for old in known:
        runs = {"questions": new["questions"], "dtype": new["dtype"], "runs": new["runs"]}
        old |= compared(new["runs"])
        old["in_process"] = conditions(threads) | runs
    write_json(output, told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    # A CPU without instructions for bfloat16 takes three times as long for it as for float32.
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    parser.add_argument("--dtype", default="bfloat16" if fast else "float32")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--problems", help="JSONL of GSM8K questions; default: the hub's test set")
    parser.add_argument("--only-in-process", action="store_true")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    source = arguments.problems or "gsm8k"
    problems = load_problems(ProblemSetSettings(source=source, limit=arguments.questions))
    model = ModelSettings(name=arguments.model, dtype=arguments.dtype)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    order = IN_PROCESS if arguments.only_in_process else ORDER
    results = []
    for delimiter in PLAIN_TOKENS:
        results.append(bench(model, problems, delimiter, arguments.log, order))
        print(results[-1], flush=True)
        if arguments.only_in_process:
            beside(arguments.output, results[-1], threads)
        else:
            write_results(arguments.output, threads, results)


if __name__ == "__main__":
    main()
