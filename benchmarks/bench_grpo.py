"""What searching inside of GRPO costs beside plain GRPO at equal generated tokens, and what the
in-process engine costs beside ``generate()``, in one run.

    python benchmarks/bench_grpo.py [--threads 1]

The product's own trainer on the tiny model. Plain GRPO samples groups of twice the size, so that
it generates about as many tokens a step as GRPO-Direct (mode ``mixed``) does in groups and
searches; seconds a generated token are compared. Every question is searched in every step. The
reward model is once a script, which costs nothing, and once a real one of the policy's size. What a
training costs before its first step is measured by a training of one step and taken off. Results
go to ``benchmarks/results/grpo.json``.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_engine import write_results

from butwait.engines.detokenizer import Detokenizer, text_tokens
from butwait.engines.models import load_tokenizer, tokenizer_fingerprint
from butwait.engines.settings import ModelSettings, StepRule
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.problems.sources import load_problems
from butwait.profile.patterns import shipped_patterns
from butwait.records import Key, Problem
from butwait.reward_models.kinds.custom import CustomSettings
from butwait.reward_models.kinds.trained import TrainedSettings, write_note
from butwait.reward_models.score_head import add_score_head
from butwait.reward_models.settings import RewardModelSettings
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.synthesis.builder import Prompting
from butwait.training.grpo.settings import GenerationSettings, GrpoDirectSettings, GrpoSettings
from butwait.training.grpo.train import GrpoMaterial, train_grpo

RESULTS = Path(__file__).parent / "results" / "grpo.json"
MODEL = ModelSettings(name="tiny", device="cpu")
PROMPT = PromptSettings(template="{question}")
QUESTIONS, GROUP, PARTICLES, STEPS = 32, 8, 8, 6
ENGINE = GenerationSettings(slots=256, prefill_chunk=16)
SHARED: dict[str, Any] = {
    "questions": QUESTIONS,
    "batch_size": 128,
    # The weights stay as they are, and with them the lengths.
    "learning_rate": 1e-9,
    "step": StepRule(delimiters=(), max_tokens=64),
    "generation": ENGINE,
    "save_steps": None,
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of wall and CPU time, and policy tokens."""

    wall: float
    cpu: float
    tokens: int


def prompting() -> Prompting:
    tokenizer = load_tokenizer(MODEL)
    return Prompting(
        messages=lambda p: messages(p, PROMPT),
        eos_token_id=tokenizer.eos_token_id,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        prompt_ids=lambda p: encode(tokenizer, messages(p, PROMPT), PROMPT),
        encode=lambda text: text_tokens(tokenizer, text),
        decode=Detokenizer(tokenizer).decode,
    )


def trained(
    problems: list[Problem],
    grader: Grader,
    settings: GrpoSettings,
    reward_model: RewardModelSettings | None,
) -> Cost:
    """A whole training."""
    material = GrpoMaterial(
        MODEL,
        PROMPT,
        prompting(),
        problems,
        grader,
        shipped_patterns(),
        reward_model,
        None,
        (),
        Key.of(0, "bench"),
    )
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        metrics = train_grpo(material, settings, Path(folder))
        return Cost(time.perf_counter() - wall, time.process_time() - cpu, metrics["policy_tokens"])


def per_token(
    problems: list[Problem],
    grader: Grader,
    settings: GrpoSettings,
    reward_model: RewardModelSettings | None = None,
) -> dict[str, float]:
    """Microseconds a generated token of the steps behind the first."""
    costs = [
        trained(problems, grader, settings.model_copy(update={"steps": n}), reward_model)
        for n in (1, 1 + STEPS)
    ]
    tokens = costs[1].tokens - costs[0].tokens
    return {
        "tokens_per_step": round(tokens / STEPS),
        "wall_us": round((costs[1].wall - costs[0].wall) / tokens * 1e6, 1),
        "cpu_us": round((costs[1].cpu - costs[0].cpu) / tokens * 1e6, 1),
    }


def real_reward_model(folder: Path) -> TrainedSettings:
    """A reward model of the policy's size, untrained: training would not change what it costs."""
    tokenizer = load_tokenizer(MODEL)
    add_score_head(MODEL, 0.0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_note(folder, tokenizer, PROMPT)
    return TrainedSettings(model=str(folder), device="cpu", slots=256, prefill_chunk=16)


def ratios(row: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    return {clock: round(row[f"{clock}_us"] / base[f"{clock}_us"], 3) for clock in ("wall", "cpu")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = ProblemSetSettings(source="arithmetic", split="search", limit=1024)
    problems = load_problems(source)
    step = StepRule(delimiters=("\n",), max_tokens=64)
    plain = GrpoSettings(group=2 * GROUP, **SHARED)
    same = GrpoSettings(group=GROUP, **SHARED)
    mixed = GrpoDirectSettings(
        group=GROUP,
        sampler=ParticleFilterSettings(particles=PARTICLES, step=step),
        search_below=1.0,
        # The weight falls a little over the whole training and never reaches 0.
        mu_until=1.0,
        **SHARED,
    )
    script = CustomSettings(kind="custom", factory="butwait.reward_models.arithmetic:oracle")
    generate = GenerationSettings(kind="generate")
    with Grader() as grader, tempfile.TemporaryDirectory() as folder:
        rows = {
            "plain": per_token(problems, grader, plain),
            "mixed_scripted": per_token(problems, grader, mixed, script),
            "mixed_real": per_token(problems, grader, mixed, real_reward_model(Path(folder))),
            "engine": per_token(problems, grader, same),
            "generate": per_token(
                problems, grader, same.model_copy(update={"generation": generate})
            ),
        }
    result = {
        "model": "tiny",
        "questions": QUESTIONS,
        "group": GROUP,
        "particles": PARTICLES,
        "steps": STEPS,
        "us_per_token": rows,
        "mixed_over_plain": {
            "scripted": ratios(rows["mixed_scripted"], rows["plain"]),
            "real": ratios(rows["mixed_real"], rows["plain"]),
        },
        "generate_over_engine": ratios(rows["generate"], rows["engine"]),
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    write_results(options.output, options.threads, [result])


if __name__ == "__main__":
    main()
