"""What a stage runs with: its model, its engine, its reward model."""

import gc
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from butwait.engines.engine import Engine
from butwait.engines.settings import ModelSettings, ScriptedSettings, StepRule, TransformersSettings
from butwait.pipeline.problem_sets import LoadedSet
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages
from butwait.recipe.recipe import AnyStage, Recipe
from butwait.records import Key, Problem
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.settings import RewardModelSettings, TrainedSettings
from butwait.running.plugins import load_plugin
from butwait.running.stages import Stage
from butwait.synthesis.built import Prompting


@dataclass(frozen=True)
class StageRun:
    """One stage about to run.

    Attributes:
        recipe: the whole recipe.
        name: the stage's name.
        stage: its folder and record.
        done: the finished stages before it, by name.
        problem_sets: the recipe's problem sets, by name.
        grader: judges answers.
    """

    recipe: Recipe
    name: str
    stage: Stage
    done: dict[str, Stage]
    problem_sets: dict[str, LoadedSet]
    grader: Grader

    @property
    def settings(self) -> AnyStage:
        return self.recipe.stages[self.name]

    @property
    def folder(self) -> Path:
        return self.stage.path

    @property
    def key(self) -> Key:
        """Of this stage in this run."""
        return Key.of(self.recipe.seed, self.name)

    def problems(self, name: str) -> list[Problem]:
        return self.problem_sets[name].problems

    def inputs(self, provides: str) -> list[Stage]:
        """The stages it takes from that give this (see ``recipe.PROVIDES``)."""
        return [self.done[source] for source in self.recipe.inputs(self.name, provides)]

    @property
    def model(self) -> ModelSettings:
        """The stage's policy."""
        return self.model_of(self.name)

    def model_of(self, stage: str) -> ModelSettings:
        """The policy of a stage: of the model stage that it takes from, else the recipe's."""
        trained = self.recipe.inputs(stage, "model")
        if not trained:
            return self.recipe.model
        folder = str(self.done[trained[0]].path / "model")
        return self.recipe.model.model_copy(update={"name": folder, "revision": None})

    def prompting(self, stage: str) -> Prompting:
        """How the policy of a search stage was prompted, and how its completions end."""
        prompt = self.recipe.prompt
        if isinstance(self.recipe.engine, ScriptedSettings):
            tokenizer, name = self._engine((), ())[1], "scripted"
        else:
            from butwait.engines.models import load_tokenizer, tokenizer_fingerprint

            tokenizer = load_tokenizer(self.model_of(stage))
            name = tokenizer_fingerprint(tokenizer)
        return Prompting(lambda p: messages(p, prompt), tokenizer.eos_token_id, name)

    @property
    def reward_model(self) -> RewardModelSettings | None:
        """Of the ``prm`` stage it takes from, else its own ``reward_model``."""
        trained = self.inputs("reward model")
        if not trained:
            return getattr(self.settings, "reward_model", None)
        folder = str(trained[0].path / "model")
        policy = self.recipe.model
        settings = TrainedSettings(model=folder, device=policy.device, dtype=policy.dtype)
        engine = self.recipe.engine
        if not isinstance(engine, TransformersSettings):
            return settings
        return settings.model_copy(
            update={
                "slots": engine.slots,
                "prefill_chunk": engine.prefill_chunk,
                "deterministic": engine.deterministic,
            }
        )

    @asynccontextmanager
    async def searching(
        self, problems: Sequence[Problem], rules: Iterable[StepRule], *, rewards: bool = True
    ) -> AsyncIterator[tuple[Engine, RewardModel | None]]:
        """The engine and the reward model of the stage, with room for these problems' prompts and
        for paths by these rules. They are freed when the block ends."""
        engine, tokenizer, capacity = self._engine(problems, rules)
        reward_model = None
        if rewards and self.reward_model is not None:
            from butwait.reward_models.load import load_reward_model

            settings = self.reward_model
            if isinstance(settings, TrainedSettings):
                settings = settings.model_copy(update={"capacity": capacity})
            reward_model = load_reward_model(settings, tokenizer)
        # A search makes many small objects, and the collector would look at all of the libraries'
        # objects again and again.
        gc.collect()
        gc.freeze()
        try:
            yield engine, reward_model
        finally:
            gc.unfreeze()
            await engine.close()

    def _engine(
        self, problems: Sequence[Problem], rules: Iterable[StepRule]
    ) -> tuple[Engine, Any, int | None]:
        """The engine, the policy's tokenizer, and the tokens of its longest path."""
        settings = self.recipe.engine
        if isinstance(settings, ScriptedSettings):
            engine = load_plugin(settings.script, "engine.script")()
            return engine, engine.tokenizer, None
        from butwait.engines.models import load_causal_lm, load_tokenizer
        from butwait.engines.transformers import TransformersEngine

        tokenizer, prompt = load_tokenizer(self.model), self.recipe.prompt
        capacity = settings.capacity
        if capacity is None:
            longest = max(len(encode(tokenizer, messages(p, prompt), prompt)) for p in problems)
            capacity = longest + max(rule.max_tokens for rule in rules)
        settings = settings.model_copy(update={"capacity": capacity})
        engine = TransformersEngine(load_causal_lm(self.model), tokenizer, settings, prompt)
        return engine, tokenizer, capacity
