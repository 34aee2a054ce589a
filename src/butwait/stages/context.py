"""What a stage runs with: its model, its engine, its reward model."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from butwait.engines.detokenizer import Detokenizer, text_tokens
from butwait.engines.engine import Engine
from butwait.engines.load import ENGINES, load_engine
from butwait.engines.settings import ModelSettings, SlotSettings, StepRule
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages, turn_end
from butwait.recipe.recipe import Recipe
from butwait.recipe.stages import StageSettings
from butwait.records import Key, Problem
from butwait.reward_models.kinds.trained import TrainedSettings
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.settings import RewardModelSettings
from butwait.running.stages import Stage
from butwait.stages.problem_sets import LoadedSet
from butwait.stages.searching import loaded
from butwait.synthesis.builder import Prompting


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
        launched: whether this is one of the processes that do the stage together.
    """

    recipe: Recipe
    name: str
    stage: Stage
    done: dict[str, Stage]
    problem_sets: dict[str, LoadedSet]
    grader: Grader
    launched: bool = False

    @property
    def settings(self) -> StageSettings:
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

    def inputs(self, gives: str) -> list[Stage]:
        """The stages it takes from that give this (``StageKind.gives``)."""
        return [self.done[source] for source in self.recipe.inputs(self.name, gives)]

    @property
    def model(self) -> ModelSettings:
        """The stage's policy."""
        return self.model_of(self.name)

    def model_of(self, stage: str) -> ModelSettings:
        """The policy of a stage: of the model stage that it takes from, else the recipe's."""
        trained = self.recipe.inputs(stage, "model")
        if not trained:
            return self.recipe.model
        epoch = getattr(self.recipe.stages[stage], "checkpoint", None)
        kept = "model" if epoch is None else f"epochs/{epoch}/model"
        folder = str(self.done[trained[0]].path / kept)
        return self.recipe.model.model_copy(update={"name": folder, "revision": None})

    def prompting(self, stage: str) -> Prompting:
        """How the policy of a stage is prompted, and what its tokenizer does."""
        prompt = self.recipe.prompt
        if not ENGINES.of(self.recipe.engine).runs_model:
            engine, tokenizer, _ = load_engine(self.recipe.engine, self.model, prompt, (), ())
            return Prompting(
                messages=lambda p: messages(p, prompt),
                eos_token_id=tokenizer.eos_token_id,
                tokenizer_fingerprint=self.recipe.engine.kind,
                prompt_ids=lambda p: engine.start(p).token_ids,
                encode=engine.encode,
                decode=tokenizer.decode,
            )
        from butwait.engines.models import load_tokenizer, tokenizer_fingerprint

        tokenizer = load_tokenizer(self.model_of(stage))
        return Prompting(
            messages=lambda p: messages(p, prompt),
            eos_token_id=turn_end(tokenizer, prompt),
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            prompt_ids=lambda p: encode(tokenizer, messages(p, prompt), prompt),
            encode=lambda text: text_tokens(tokenizer, text),
            decode=Detokenizer(tokenizer).decode,
        )

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
        if not isinstance(engine, SlotSettings):
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
        self,
        problems: Sequence[Problem],
        rules: Iterable[StepRule],
        *,
        rewards: bool = True,
        paths: int | None = None,
    ) -> AsyncIterator[tuple[Engine, RewardModel | None]]:
        """The engine and the reward model of the stage, with room for these problems' prompts and
        for paths by these rules, so many of them at a time. They are freed when the block ends."""
        recipe, model, judge = self.recipe, self.model, self.reward_model if rewards else None
        if self.inputs("reward model") and isinstance(judge, TrainedSettings):
            judge = with_slots_for(judge, paths)
        given = (recipe.engine, model, recipe.prompt, judge, problems, rules, paths)
        async with loaded(*given) as both:
            yield both


def with_slots_for(judge: TrainedSettings, paths: int | None) -> TrainedSettings:
    """The settings of a reward model that has the engine's slots, where these are too few for the
    paths in flight."""
    few = judge.slots != "auto" and paths is not None and judge.slots < paths
    return judge.model_copy(update={"slots": "auto"}) if few and not judge.deterministic else judge
