"""Runs the ``grpo`` and ``grpo_direct`` stages."""

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import device_of, load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError
from butwait.reward_models.load import Policy
from butwait.reward_models.settings import RewardModelSettings
from butwait.running.files import atomic_path
from butwait.running.packages import require
from butwait.running.stages import fingerprint
from butwait.synthesis.builder import Prompting
from butwait.synthesis.dataset import quiet_datasets
from butwait.training.arguments import in_precision
from butwait.training.callbacks import Log, Progress
from butwait.training.checkpoints import Marker, WorkFolder
from butwait.training.failures import user_errors
from butwait.training.four_bit import load_four_bit
from butwait.training.grpo.arguments import grpo_arguments
from butwait.training.grpo.callbacks import Facts, StopAtPlateau, TokenBudget
from butwait.training.grpo.devices import GatheredDevices, check_devices, check_whole_model
from butwait.training.grpo.direct import DirectSampler
from butwait.training.grpo.elsewhere import ElsewhereSampler
from butwait.training.grpo.generation import Generation, GroupSampler
from butwait.training.grpo.guide import Guide
from butwait.training.grpo.looks import Evaluate, LookResult, Looks
from butwait.training.grpo.order import question_order
from butwait.training.grpo.policy import live_engine, weights_fingerprint
from butwait.training.grpo.reporting import TensorBoard
from butwait.training.grpo.samples import Samples
from butwait.training.grpo.searches import LoopSearch
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings
from butwait.training.grpo.solved import SearchFolder
from butwait.training.grpo.trainer import PolicyTrainer
from butwait.training.grpo.watch import Habits
from butwait.training.quiet import quiet
from butwait.training.saving import (
    gathered_weights,
    lora_config,
    merge_again,
    policy_of,
    save_merged,
    save_model,
)


@dataclass(frozen=True)
class Material:
    """What a training is made of, beside its settings.

    Attributes:
        model: the policy that it starts from.
        prompt: how questions are put to it.
        prompting: the same, as builders of data take it.
        problems: the questions.
        grader: judges completions.
        habits: phrases to look for in them.
        reward_model: guides the searches of ``grpo_direct``; None where the sampler needs none.
        evaluate: takes looks at held-out questions; None where ``settings.selection`` asks for
            none.
        looked_at: those questions.
        key: of the stage.
    """

    model: ModelSettings
    prompt: PromptSettings
    prompting: Prompting
    problems: Sequence[Problem]
    grader: Grader
    habits: Habits
    reward_model: RewardModelSettings | None
    evaluate: Evaluate | None
    looked_at: Sequence[Problem]
    key: Key


def train_grpo(material: Material, settings: GrpoSettings, output: Path) -> dict[str, Any]:
    """Trains a policy on questions with checkable answers.

    Writes ``output/model`` (of the best look, or the last where there are no looks; with LoRA
    merged, and the adapter in ``output/adapter``), ``log.jsonl``, ``samples.jsonl``, with looks
    ``looks.jsonl``, and for ``grpo_direct`` the trees in ``searches/``. Checkpoints are kept in
    ``output/work`` until the end; the same call after a kill goes on from the last one and searches
    nothing twice. On a CPU the same arguments give the same weights bit for bit, killed or not.

    Returns:
        The figures for ``stage.json``.

    Raises:
        UserError: settings that do not fit the devices, a package that is not installed, a vLLM
            server that cannot be reached, a question that leaves no room, a model that cannot be
            loaded or held in memory, a loss that is no number, a full disk.
    """
    if not material.problems:
        raise UserError("no question is left to train on: widen `subset`, or give other problems")
    for tracker in settings.report_to:
        require(tracker, f"report_to: {tracker}")
    if (kind := settings.generation.kind).startswith("vllm"):
        require("vllm", f"generation.kind: {kind}", "'butwait[vllm]'")
    with quiet(), user_errors(), ExitStack() as stack:
        run = _Run(material, settings, output, stack)
        run.train()
        return run.finish()


class _Run:
    """One training: what it is made of, and how a generation comes about."""

    def __init__(
        self, material: Material, settings: GrpoSettings, output: Path, stack: ExitStack
    ) -> None:
        self._material = material
        self._settings = settings
        self._output = output
        state = PartialState(cpu=device_of(material.model).type == "cpu")
        processes = state.num_processes
        passes = check_devices(settings, processes)
        self._devices = GatheredDevices(processes)
        self._tokenizer = load_tokenizer(material.model)
        self._loop = stack.enter_context(asyncio.Runner())
        with state.main_process_first():
            self._work = WorkFolder(output / "work", _identity(material, settings, processes))
        self._facts: dict[str, Any] = {}
        """What a checkpoint holds beside weights and optimizer."""
        self._trainer = self._make_trainer(passes)
        check_whole_model(self._trainer, settings)
        self._sampler = self._make_sampler()
        self._looks = self._make_looks()
        self._add_callbacks(stack)

    def train(self) -> None:
        """From the last checkpoint, if there is one, to the end."""
        with PartialState().main_process_first():
            checkpoint = self._work.last()
        if checkpoint is not None:
            self._facts.update(checkpoint[1])
            self._sampler.restore(self._facts["sampler"])
            self._trainer.counted.update(self._facts["counted"])
        self._trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint[0]))

    def finish(self) -> dict[str, Any]:
        """Writes the model, removes the checkpoints, and returns the metrics."""
        gathered = gathered_weights(self._trainer)
        if self._trainer.accelerator.is_main_process:
            self._save(gathered)
            self._work.remove()
            # Behind the checkpoints, which name the best one: a kill in between resumes.
            shutil.rmtree(self._output / "best", ignore_errors=True)
        self._trainer.accelerator.wait_for_everyone()
        return self._metrics()

    # How a generation comes about.

    def _draw(self, trainer: PolicyTrainer, problems: list[Problem]) -> Generation:
        return self._loop.run(self._drawn(problems, trainer.state.global_step))

    async def _drawn(self, problems: list[Problem], step: int) -> Generation:
        if isinstance(self._sampler, ElsewhereSampler):
            return await self._sampler.draw(problems, step, None)
        async with live_engine(self._policy, self._tokenizer, self._engine, self._prompt) as engine:
            return await self._sampler.draw(problems, step, engine)

    def _look(self, step: int) -> LookResult:
        """A look by the first device, for all of them."""
        result = None
        if self._trainer.accelerator.is_main_process:
            result = self._loop.run(self._looked(step))
        seen: LookResult = self._devices.from_first(result)
        if step:  # The log has no line of step 0.
            self._trainer.note("selection/accuracy", seen.accuracy)
        return seen

    async def _looked(self, step: int) -> LookResult:
        evaluate = self._material.evaluate
        assert evaluate is not None
        async with live_engine(self._policy, self._tokenizer, self._engine, self._prompt) as engine:
            return await evaluate(engine, step)

    @property
    def _policy(self) -> Any:
        return policy_of(self._trainer)

    @property
    def _prompt(self) -> PromptSettings:
        return self._material.prompt

    @cached_property
    def _engine(self) -> TransformersSettings:
        """The engine's settings, with room for every question and every path."""
        settings, material = self._settings, self._material
        asked = [*material.problems, *material.looked_at]
        longest = max(len(material.prompting.prompt_ids(problem)) for problem in asked)
        paths = [settings.step.max_tokens]
        if isinstance(settings, GrpoDirectSettings):
            paths.append(settings.sampler.step.max_tokens)
        return TransformersSettings(
            slots=settings.generation.slots,
            prefill_chunk=settings.generation.prefill_chunk,
            deterministic=settings.generation.deterministic,
            capacity=longest + max(paths),
        )

    # What the training is made of.

    def _make_trainer(self, passes: int) -> PolicyTrainer:
        settings, material = self._settings, self._material
        weights = in_precision(material.model, settings)
        four_bit = settings.lora is not None and settings.lora.four_bit
        asked = [material.problems[i] for i in self._order()]
        rows = {
            "prompt": [problem.question for problem in asked],
            "problem_id": [problem.id for problem in asked],
        }
        seed = material.key.derive("train").seed32()
        try:
            with quiet_datasets(), _rollouts_allowed():
                trainer = PolicyTrainer(
                    problems={problem.id: problem for problem in material.problems},
                    draw=self._draw,
                    alone=getattr(settings, "mode", None) == "expert_iteration",
                    model=load_four_bit(weights) if four_bit else load_causal_lm(weights),
                    args=grpo_arguments(settings, material.model, self._work.path, seed, passes),
                    train_dataset=Dataset.from_dict(rows),
                    processing_class=self._tokenizer,
                    peft_config=lora_config(settings.lora) if settings.lora else None,
                )
        except ValueError as error:  # peft and TRL refuse what they cannot adapt or divide
            raise UserError(f"the training cannot be set up: {error}") from error
        except OSError as error:
            # A server that does not answer has no errno; a full disk has.
            if settings.generation.kind != "vllm_server" or error.errno is not None:
                raise
            raise UserError(f"generation.server: {error}") from error
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _order(self) -> Sequence[int]:
        """The questions of all generations, one after another."""
        settings, material = self._settings, self._material
        generations = -(-settings.steps // settings.steps_per_generation)
        order = question_order(
            len(material.problems), settings.questions, generations, material.key.derive("order")
        )
        return [int(i) for i in order.ravel()]

    def _make_sampler(self) -> GroupSampler:
        material, settings = self._material, self._settings
        shared: dict[str, Any] = {
            "prompting": material.prompting,
            "grader": material.grader,
            "habits": material.habits,
            "key": material.key.derive("draw"),
            "devices": self._devices,
        }
        if isinstance(settings, GrpoDirectSettings):
            return self._make_direct_sampler(settings, shared)
        if settings.generation.kind == "engine":
            return GroupSampler(settings, **shared)
        elsewhere = ElsewhereSampler(settings, **shared)
        elsewhere.draws = self._trainer.sample
        elsewhere.eos_token_ids = frozenset(self._trainer.eos_token_ids)
        return elsewhere

    def _make_direct_sampler(
        self, settings: GrpoDirectSettings, shared: dict[str, Any]
    ) -> DirectSampler:
        material, key = self._material, self._material.key
        trees = SearchFolder(self._output / "searches")
        guide = Guide(
            settings,
            material.reward_model,
            Policy(material.model, material.prompt),
            self._tokenizer,
            trees,
            self._output,
            key.derive("prm"),
        )
        search = LoopSearch(
            settings, material.prompting, material.grader, trees, key.derive("search")
        )
        return DirectSampler(
            settings,
            search,
            guide,
            lambda: weights_fingerprint(self._policy.parameters()),
            **shared,
        )

    def _make_looks(self) -> Looks | None:
        selection = self._settings.selection
        if selection is None or self._material.evaluate is None:
            return None
        save = self._trainer.save_weights
        return Looks(self._output, selection.every, self._look, save, self._facts)

    def _add_callbacks(self, stack: ExitStack) -> None:
        trainer, settings = self._trainer, self._settings
        # The budget decides which step is the last, the looks look at it, and the checkpoint has
        # it.
        trainer.add_callback(TokenBudget(self._sampler, self._facts))
        if self._looks is not None:
            trainer.add_callback(self._looks)
        if settings.plateau is not None:
            trainer.add_callback(StopAtPlateau(settings.plateau, self._facts))
        trainer.add_callback(
            Facts(
                self._facts,
                lambda: {"sampler": self._sampler.state(), "counted": trainer.counted},
            )
        )
        trainer.add_callback(Marker(self._facts))
        if trainer.accelerator.is_main_process:
            path, every = self._output / "samples.jsonl", settings.samples_every
            trainer.add_callback(Samples(path, every, settings.group, lambda: trainer.generation))
            trainer.add_callback(Log(self._output / "log.jsonl", every_figure=True))
            if "tensorboard" in settings.report_to:
                trainer.add_callback(TensorBoard(self._output / "tensorboard"))
            trainer.add_callback(Progress("grpo", stack, ("reward", "selection/accuracy", "loss")))

    # What is left of it.

    def _save(self, gathered: dict[str, Any] | None) -> None:
        weights = in_precision(self._material.model, self._settings)
        lora = self._settings.lora
        if self._looks is None:
            if lora is None:
                save_model(self._policy, self._tokenizer, self._output, gathered)
            else:
                save_merged(self._policy, self._tokenizer, lora, weights, self._output)
            return
        best = self._looks.weights(self._looks.best["step"])
        with atomic_path(self._output / ("model" if lora is None else "adapter")) as folder:
            shutil.copytree(best, folder)
            if lora is None:
                self._tokenizer.save_pretrained(folder)
        if lora is not None:
            merge_again(weights, self._tokenizer, self._output)

    def _metrics(self) -> dict[str, Any]:
        trainer, tally = self._trainer, self._sampler.tally
        history = [entry for entry in trainer.state.log_history if "reward" in entry]
        looks = self._looks
        return {
            "questions": len(self._material.problems),
            "steps": trainer.state.global_step,
            "stopped": self._facts.get("stopped", {}).get("reason"),
            **vars(tally),
            **trainer.counted,
            "reward_first": history[0]["reward"] if history else None,
            "reward_last": history[-1]["reward"] if history else None,
            "look_tokens": sum(look["policy_tokens"] for look in looks.past) if looks else 0,
            "best_step": looks.best["step"] if looks else None,
            "best_accuracy": looks.best["accuracy"] if looks else None,
            "first_accuracy": looks.past[0]["accuracy"] if looks else None,
            "last_accuracy": looks.past[-1]["accuracy"] if looks else None,
        }


def _identity(material: Material, settings: GrpoSettings, processes: int) -> str:
    """Of the work whose checkpoints can be gone on from."""
    questions = [[p.id, p.question, p.answer] for p in material.problems]
    model, prompt = material.model.model_dump(), material.prompt.model_dump()
    return fingerprint(
        [settings.model_dump(mode="json"), model, prompt, questions, material.key.words, processes]
    )


@contextmanager
def _rollouts_allowed() -> Iterator[None]:
    """TRL warns of ``rollout_func``, which it calls experimental; a test watches it for us."""
    name = "TRL_EXPERIMENTAL_SILENCE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
