"""What the training of a process reward model takes. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.engines.settings import Sampling, StepRule
from butwait.records.settings import Settings
from butwait.training.settings import OptimizationSettings


class RolloutSettings(Settings):
    """The Monte-Carlo rollouts that label prefixes."""

    solutions: Annotated[int, Field(gt=0)] = 8
    """Solutions sampled per question; the outcome of each labels all its own prefixes."""
    prefixes: Annotated[int, Field(ge=0)] = 1
    """Prefixes of each solution, drawn uniformly among its unfinished step ends, from which
    further completions are sampled; 0: the solutions' own outcomes are the only labels."""
    completions: Annotated[int, Field(gt=0)] = 4
    """Completions (K) sampled from each such prefix."""
    sampling: Sampling = Sampling(temperature=1.0)
    """How tokens are drawn; best as in the search that the model will guide."""
    steps: StepRule = StepRule()
    """Where steps end; must be as in the search that the model will guide."""
    concurrency: Annotated[int, Field(gt=0)] = 32
    """Questions that are in flight at a time."""
    shard_size: Annotated[int, Field(gt=0)] = 64
    """Questions per file."""


class PrmSettings(OptimizationSettings):
    """Training a process reward model from the policy's own rollouts."""

    rollouts: RolloutSettings = RolloutSettings()
    """Where the labels come from."""
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the questions that is kept from training, for the audit."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the rollouts; ``max_steps`` overrides it."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Rollouts per forward pass and device."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """The learning rate after warm-up: down to 0, or constant."""
    max_length: Annotated[int, Field(gt=0)] | None = None
    """Tokens of prompt and rollout together; a longer rollout is dropped and counted, never cut.
    None: what the model's positions allow."""
    logging_steps: Annotated[int, Field(gt=0)] = 10
    """Steps between lines of ``log.jsonl``; a line is their mean."""
