"""What searching inside of GRPO costs beside plain GRPO at equal generated tokens, and what the
in-process engine costs beside ``generate()``, in one run; and what a step costs a real model whose
prompts are run once, beside whole rows.

    python benchmarks/bench_grpo.py [--threads 1]
    python benchmarks/bench_grpo.py --step [--steps 8] [--precision float32]

The product's own trainer on the tiny model. Plain GRPO samples groups of twice the size, so that
it generates about as many tokens a step as GRPO-Direct (mode ``mixed``) does in groups and
searches; seconds a generated token are compared. Every question is searched in every step. The
reward model is once a script, which costs nothing, and once a real one of the policy's size. What a
training costs before its first step is measured by a training of one step and taken off. Results
go to ``benchmarks/results/grpo.json``.

``--step``: SmolLM2 with adapters on the sums of ``small/base``, 8 questions by 8 completions of at
most 40 tokens behind two worked examples. Steps are taken by turns with whole rows and the output
head in tiles, as TRL runs them, and with shared prompts (docs/grpo.md) and a CPU's head, in one
training whose weights stay as they are; the first of either is not counted. CPU seconds of a whole
step and of what is not the drawing of completions, the ratio
of each pair of neighbours, and how far the losses of the same completions lie apart. Results go to
``benchmarks/results/grpo_step.json``.
"""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_engine import write_results
from transformers import TrainerCallback

from butwait.engines.detokenizer import Detokenizer, text_tokens
from butwait.engines.models import load_tokenizer, tokenizer_fingerprint
from butwait.engines.settings import ModelSettings, StepRule
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.problems.sources import load_problems
from butwait.profile.patterns import shipped_patterns
from butwait.recipe.load import load_recipe
from butwait.records import Key, Problem
from butwait.reward_models.kinds.custom import CustomSettings
from butwait.reward_models.kinds.trained import TrainedSettings, write_note
from butwait.reward_models.score_head import add_score_head
from butwait.reward_models.settings import RewardModelSettings
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.stages.kinds import STAGES
from butwait.synthesis.builder import Prompting
from butwait.training import on_cpu
from butwait.training.grpo import train
from butwait.training.grpo.settings import GenerationSettings, GrpoDirectSettings, GrpoSettings
from butwait.training.grpo.train import GrpoMaterial, train_grpo
from butwait.training.grpo.trainer import PolicyTrainer
from butwait.training.on_cpu import ROOM
from butwait.training.settings import LoraSettings

RESULTS = Path(__file__).parent / "results" / "grpo.json"
STEP_RESULTS = RESULTS.with_name("grpo_step.json")
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


def prompting(model: ModelSettings = MODEL, prompt: PromptSettings = PROMPT) -> Prompting:
    tokenizer = load_tokenizer(model)
    return Prompting(
        messages=lambda p: messages(p, prompt),
        eos_token_id=tokenizer.eos_token_id,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        prompt_ids=lambda p: encode(tokenizer, messages(p, prompt), prompt),
        encode=lambda text: text_tokens(tokenizer, text),
        decode=Detokenizer(tokenizer).decode,
    )


def trained(
    problems: list[Problem],
    grader: Grader,
    settings: GrpoSettings,
    reward_model: RewardModelSettings | None,
    model: ModelSettings = MODEL,
    prompt: PromptSettings = PROMPT,
) -> Cost:
    """A whole training."""
    material = GrpoMaterial(
        model,
        prompt,
        prompting(model, prompt),
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


class Clock(TrainerCallback):
    """CPU seconds of every optimiser step; of drawing its completions too."""

    def __init__(self, trainer: "Alternating") -> None:
        self.trainer = trainer
        self.apart = 0.0
        self.steps: list[tuple[float, float]] = []
        self.drawing = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._began, self.drawing = time.process_time(), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.steps.append((time.process_time() - self._began, self.drawing))

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.apart = self.trainer.losses_apart()


class Alternating(PolicyTrainer):
    """Whole rows in its even steps, shared prompts in its odd ones."""

    last: "Alternating"

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.clock = Clock(self)
        self.add_callback(self.clock)
        self.whole: bool | None = None
        Alternating.last = self

    def rollout(self, prompts: list[Any], trainer: PolicyTrainer) -> dict[str, Any]:
        began = time.process_time()
        drawn = super().rollout(prompts, trainer)
        self.clock.drawing += time.process_time() - began
        return drawn

    def _shares(self, model: Any, longest: int) -> bool:
        whole = self.state.global_step % 2 == 0 if self.whole is None else self.whole
        on_cpu.ROOM = 0 if whole else ROOM
        return not whole and super()._shares(model, longest)

    @torch.no_grad()
    def losses_apart(self) -> float:
        """Of the passes of the last step, each both ways, with ratios to one fixed probability: to
        the policy itself they are 1, whatever it says."""
        found = []
        for whole in (True, False):
            self.whole, losses = whole, []
            for batch in self._buffered_inputs or ():
                signs = torch.arange(len(batch["advantages"])) % 3 - 0.5
                old = torch.full(batch["completion_ids"].shape, -0.5)
                changed = {"advantages": signs, "old_per_token_logps": old}
                loss = super()._compute_loss(self.model, batch | changed)
                losses.append(loss.item())
            found.append(sum(losses))
        return abs(found[0] - found[1])


@contextlib.contextmanager
def alternating() -> Iterator[None]:
    usual = train.PolicyTrainer
    train.PolicyTrainer = Alternating  # type: ignore[misc]
    try:
        yield
    finally:
        train.PolicyTrainer = usual  # type: ignore[misc]


def spread(values: list[float]) -> dict[str, float]:
    rounded = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in rounded.items()}


def step(steps: int, precision: Any) -> dict[str, Any]:
    """A step of a real model with whole rows, and with shared prompts."""
    recipe = load_recipe("small/base", STAGES)
    model = recipe.model.model_copy(update={"device": "cpu"})
    settings = GrpoSettings(
        steps=2 * steps + 2,
        questions=8,
        group=8,
        batch_size=16,
        learning_rate=1e-9,
        step=StepRule(delimiters=(), max_tokens=40),
        lora=LoraSettings(rank=16, alpha=32),
        precision=precision,
        generation=GenerationSettings(slots=64, prefill_chunk=64),
        save_steps=None,
    )
    problems = load_problems(recipe.problems["limo"])
    with Grader() as grader, alternating():
        trained(problems, grader, settings, None, model, recipe.prompt)
    clock = Alternating.last.clock
    whole, shared = clock.steps[2::2], clock.steps[3::2]
    pairs = list(zip(whole, shared, strict=True))
    return {
        "model": "smollm2",
        "precision": precision,
        "pairs": len(pairs),
        "cpu_seconds": {
            "whole_rows": spread([a for a, _ in whole]),
            "shared_prompts": spread([b for b, _ in shared]),
            "drawing": spread([drawing for _, drawing in [*whole, *shared]]),
        },
        "ratio_of_steps": spread([a / b for (a, _), (b, _) in pairs]),
        "ratio_of_learning": spread([(a - c) / (b - d) for (a, c), (b, d) in pairs]),
        "losses_apart": clock.apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--steps", type=int, default=8, help="of either kind, with --step")
    parser.add_argument(
        "--precision", default="bfloat16", help="of the frozen weights, with --step"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.step:
        result = step(options.steps, options.precision)
        for name, value in result.items():
            print(f"{name}: {value}")
        write_results(options.output or STEP_RESULTS, options.threads, [result])
        return
    source = ProblemSetSettings(source="arithmetic", split="search", limit=1024)
    problems = load_problems(source)
    rule = StepRule(delimiters=("\n",), max_tokens=64)
    plain = GrpoSettings(group=2 * GROUP, **SHARED)
    same = GrpoSettings(group=GROUP, **SHARED)
    mixed = GrpoDirectSettings(
        group=GROUP,
        sampler=ParticleFilterSettings(particles=PARTICLES, step=rule),
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
    write_results(options.output or RESULTS, options.threads, [result])


if __name__ == "__main__":
    main()
