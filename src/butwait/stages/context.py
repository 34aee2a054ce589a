"""What a stage runs with: its model, its engine, its reward model."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from butwait.engines.detokenizer import Detokenizer, text_tokens
from butwait.engines.engine import Engine
from butwait.engines.load import ENGINES, load_engine
from butwait.engines.scheduling.rows import Concurrency
from butwait.engines.servers.figures import merged, told
from butwait.engines.settings import ModelSettings, SlotSettings, StepRule
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages, turn_end
from butwait.recipe.recipe import Recipe
from butwait.recipe.stages import StageSettings
from butwait.records import Key, Problem, UserError
from butwait.reward_models.kinds.trained import TrainedSettings
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.settings import RewardModelSettings
from butwait.running.files import write_json
from butwait.running.log import say
from butwait.running.shards import set_aside
from butwait.running.stages import WORKERS, Stage
from butwait.stages.problem_sets import LoadedSet
from butwait.synthesis.builder import Prompting
from butwait.workers.crew import Crew, at_work
from butwait.workers.host import Figures
from butwait.workers.job import Job, Work
from butwait.workers.loading import loaded

VERDICTS = "verdicts"
"""In a data stage's folder: what its verifier says. No workers have a part in it."""


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
        folder = str(self.done[trained[0]].path / self.recipe.trained_folder(stage))
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
        recipe, judge = self.recipe, self._judge(paths) if rewards else None
        given = (recipe.engine, self.model, recipe.prompt, judge, problems, rules, paths)
        async with loaded(*given) as both:
            try:
                yield both
            finally:
                self._keep_figures([Figures.of(*both)])

    def _keep_figures(self, figures: Sequence[Figures]) -> None:
        """Adds what servers did to the stage's record (``servers``), and what is known of the rows
        of each worker's engine (``scheduling``): no part of its results."""
        record, servers = self.stage.record, merged(*(each.servers for each in figures))
        rows = [each.scheduling for each in figures if each.scheduling]
        if servers:
            record["servers"] = merged(record.get("servers", {}), servers)
        if rows:
            record["scheduling"] = rows[0] if len(rows) == 1 else {"workers": rows}
        if len(servers) > 1:
            say(f"  {told(servers)}")
        with suppress(UserError):  # what ended the stage is what to tell
            self.stage.save()

    @asynccontextmanager
    async def crew(
        self,
        work: Work,
        problems: Sequence[Problem],
        rules: Iterable[StepRule],
        concurrency: Concurrency,
        *,
        rewards: bool = True,
        paths: int | None = None,
    ) -> AsyncIterator[Crew]:
        """Those who do the stage's work (the recipe's ``workers``): each has what ``searching``
        gives, and is at so many items at a time. How they fared is kept in ``workers.json``."""
        job = Job(
            work,
            self.recipe.engine,
            self.model,
            self.recipe.prompt,
            self._judge(paths) if rewards else None,
            problems,
            tuple(rules),
            paths,
            self.grader,
            threads=self.recipe.threads,
            concurrency=concurrency,
        )
        kept = chain(self.folder.rglob("shard-*"), self.folder.rglob(".spool/*"))
        proven = any(VERDICTS not in file.relative_to(self.folder).parts for file in kept)
        run = self.folder.parent
        async with at_work(job, self.recipe.workers, run=run, proven=proven) as crew:
            try:
                yield crew
            finally:
                self._keep_figures(crew.figures)
                if crew.health is not None:
                    with suppress(UserError):  # what ended the stage is what to tell
                        write_json(self.folder / WORKERS, asdict(crew.health))

    def instead(self, given: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
        """What stands for a problem that ended its workers, in a run that goes on without such
        (``map_shards``)."""
        return given if self.recipe.workers.skip_failed else None

    def without(self, *folders: Path) -> dict[str, list[str]]:
        """For metrics: the problems that folders of shards are complete without, if any."""
        names = [name for folder in folders for name, *_ in set_aside(folder).values()]
        return {"set_aside": names} if names else {}

    def _judge(self, paths: int | None) -> RewardModelSettings | None:
        judge = self.reward_model
        if self.inputs("reward model") and isinstance(judge, TrainedSettings):
            return with_slots_for(judge, paths)
        return judge


def told_without(metrics: Mapping[str, Any]) -> Iterator[str]:
    """A line about problems that a stage is complete without (``StageRun.without``)."""
    if names := metrics.get("set_aside"):
        yield f"without {', '.join(names)}, set aside: each ended two workers"


def with_slots_for(judge: TrainedSettings, paths: int | None) -> TrainedSettings:
    """The settings of a reward model that has the engine's slots, where these are too few for the
    paths in flight."""
    few = judge.slots != "auto" and paths is not None and judge.slots < paths
    return judge.model_copy(update={"slots": "auto"}) if few and not judge.deterministic else judge
