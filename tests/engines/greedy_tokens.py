"""What the engine draws greedily, for a process of its own."""

import asyncio

from random_models import model, tokenizer

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem


def greedy_tokens() -> list[list[int]]:
    """Of two paths side by side, at most 24 each."""
    settings = TransformersSettings(slots=4, prefill_chunk=8)
    engine = TransformersEngine(model(), tokenizer(), settings, PromptSettings(style="plain"))
    starts = [engine.start(Problem("p", f"What is {n} + 4 - 5?", None)) for n in (3, 7)]
    rule, keys = StepRule(delimiters=(), max_tokens=24), [Key.of(0, n) for n in "ab"]
    steps = asyncio.run(engine.extend(starts, rule, Sampling(temperature=0), keys))
    return [step.token_ids.tolist() for step in steps]
