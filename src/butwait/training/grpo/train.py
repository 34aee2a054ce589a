"""Runs the ``grpo`` and ``grpo_direct`` stages."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from butwait.engines.engine import Engine
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError
from butwait.reward_models.load import Policy
from butwait.reward_models.settings import RewardModelSettings
from butwait.running.files import atomic_path
from butwait.running.identity import content, identity
from butwait.running.packages import require
from butwait.search.settings import in_flight
from butwait.synthesis.builder import Prompting
from butwait.synthesis.dataset import quiet_datasets
from butwait.training.arguments import in_precision
from butwait.training.checkpoints import Marker, WorkFolder
from butwait.training.devices import Devices, is_sharded
from butwait.training.fit import Log, Progress, TensorBoard, quiet, resume, user_errors
from butwait.training.grpo.callbacks import Samples, StopAtPlateau, TokenBudget
from butwait.training.grpo.completions import live_engine, weights_fingerprint
from butwait.training.grpo.direct import DirectSampler, Guide
from butwait.training.grpo.generation import (
    ElsewhereSampler,
    Generation,
    GroupSampler,
    question_order,
)
from butwait.training.grpo.looks import Evaluate, LookResult, Looks
from butwait.training.grpo.rewards import Habits
from butwait.training.grpo.searches import LoopSearch, SearchFolder
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings
from butwait.training.grpo.trainer import (
    PolicyTrainer,
    check_devices,
    check_whole_model,
    grpo_arguments,
)
from butwait.training.saved import ROWS, Probe, check_saved, release
from butwait.training.weights import Start, gathered_weights, lora_config, policy_of, save_trained


@dataclass(frozen=True)
class GrpoMaterial:
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


def train_grpo(material: GrpoMaterial, settings: GrpoSettings, output: Path) -> dict[str, Any]:
    """Trains a policy on questions with checkable answers.

    Writes ``output/model`` (of the best look, or the last where there are no looks; with LoRA
    merged, and the adapter in ``output/adapter``), ``log.jsonl``, ``samples.jsonl``, with looks
    ``looks.jsonl``, and for ``grpo_direct`` the trees in ``searches/``. Checkpoints are kept in
    ``output/work`` until the stage is complete; the same call after a kill goes on from the last
    one and searches nothing twice. On a CPU the same arguments give the same weights bit for bit,
    killed or not.

    Returns:
        The figures for ``stage.json``.

    Raises:
        UserError: settings that do not fit the devices, a package that is not installed, a vLLM
            server that cannot be reached, a question that leaves no room, a model that cannot be
            loaded or held in memory, a loss that is no number, a full disk, a saved model that is
            not the one that was trained.
    """
    if not material.problems:
        raise UserError("no question is left to train on: widen `subset`, or give other problems")
    for tracker in settings.report_to:
        require(tracker, f"report_to: {tracker}")
    if (kind := settings.generation.kind).startswith("vllm"):
        require("vllm", f"generation.kind: {kind}", "'butwait[vllm]'")
    with quiet(), user_errors(output), ExitStack() as stack:
        return _Run(material, settings, output, stack).run()


class _Run:
    """One training: what it is made of, and how a generation comes about."""

    def __init__(
        self, material: GrpoMaterial, settings: GrpoSettings, output: Path, stack: ExitStack
    ) -> None:
        self._material = material
        self._settings = settings
        self._output = output
        self._stack = stack
        self._devices = Devices.of(material.model)
        processes = self._devices.processes
        passes = check_devices(settings, processes)
        self._tokenizer = load_tokenizer(material.model)
        weights = in_precision(material.model, settings)
        self._start = Start(weights, settings.lora, self._tokenizer, material.prompt)
        self._loop = stack.enter_context(asyncio.Runner())
        with PartialState().main_process_first():
            self._work = WorkFolder(output / "work", _identity(material, settings, processes))
        self._facts: dict[str, Any] = {}
        """What a checkpoint holds beside weights and optimizer, but for what is counted."""
        self._trainer = self._make_trainer(passes)
        check_whole_model(self._trainer, settings)
        self._sampler = self._make_sampler()
        self._looks = self._make_looks()
        self._add_callbacks(stack)

    def run(self) -> dict[str, Any]:
        """From the last checkpoint, if there is one, to the end; then writes the model and returns
        the metrics."""
        try:
            self._moved = resume(self._trainer, self._settings, self._work, self._restore)
        except AttributeError as error:
            # vLLM's CPU build packs weights on processors with matrix tiles (AMX).
            if "weight_loader" not in str(error):
                raise
            raise UserError(
                "generation.kind: vllm_colocate: vLLM packs its weights on this processor and "
                "takes no new ones; take generation.kind: engine or generate"
            ) from error
        gathered, metrics = gathered_weights(self._trainer), self._metrics()
        if self._trainer.accelerator.is_main_process:
            trained = self._save(gathered)
            release(self._trainer)
            if trained is not None:
                folder = self._output / "model"
                check_saved(folder, self._start.weights, self._probe, trained)
        self._trainer.accelerator.wait_for_everyone()
        return metrics

    # How a generation comes about.

    def _draw(self, trainer: PolicyTrainer, problems: list[Problem]) -> Generation:
        sampler, step = self._sampler, trainer.state.global_step
        if isinstance(sampler, ElsewhereSampler):
            return self._loop.run(sampler.draw(problems, step, None))
        return self._on_engine(lambda engine: sampler.draw(problems, step, engine))

    def _look(self, step: int) -> LookResult:
        """A look by the first device, for all of them."""
        result, evaluate = None, self._material.evaluate
        if evaluate is not None and self._trainer.accelerator.is_main_process:
            # By the weights too: a killed session may have looked at others after as many steps.
            name = f"{step:08d}-{self._fingerprint()}"
            result = self._on_engine(lambda engine: evaluate(engine, name))
        seen: LookResult = self._devices.from_first(result)
        if step:  # The log has no line of step 0.
            self._trainer.note("selection/accuracy", seen.accuracy)
        return seen

    def _on_engine(self, work: Callable[[Engine], Awaitable[Any]]) -> Any:
        """What a piece of work does on the weights as they are."""

        async def done() -> Any:
            prompt = self._material.prompt
            async with live_engine(self._policy, self._tokenizer, self._engine, prompt) as engine:
                return await work(engine)

        return self._loop.run(done())

    @property
    def _policy(self) -> Any:
        return policy_of(self._trainer)

    def _fingerprint(self) -> str:
        return weights_fingerprint(self._policy.parameters())

    @cached_property
    def _engine(self) -> TransformersSettings:
        """The engine's settings, with room for every question and every path."""
        drawing, material = self._settings.generation, self._material
        asked = [*material.problems, *material.looked_at]
        longest = max(len(material.prompting.prompt_ids(problem)) for problem in asked)
        return TransformersSettings(
            slots=drawing.slots,
            prefill_chunk=drawing.prefill_chunk,
            deterministic=drawing.deterministic,
            capacity=longest + self._settings.longest_path,
        )

    @cached_property
    def _probe(self) -> Probe:
        """The first questions, as they are put to the policy."""
        prompts = map(self._material.prompting.prompt_ids, self._material.problems[:ROWS])
        return Probe([(ids, ids) for ids in prompts])

    # What the training is made of.

    def _make_trainer(self, passes: int) -> PolicyTrainer:
        settings, material = self._settings, self._material
        generations = -(-settings.steps // settings.steps_per_generation)
        order = question_order(
            len(material.problems), settings.questions, generations, material.key.derive("order")
        )
        asked = [material.problems[i] for i in order.ravel()]
        rows = {
            "prompt": [problem.question for problem in asked],
            "problem_id": [problem.id for problem in asked],
        }
        seed = material.key.derive("train").seed32()
        try:
            with quiet_datasets():
                return PolicyTrainer(
                    problems={problem.id: problem for problem in material.problems},
                    draw=self._draw,
                    alone=getattr(settings, "mode", None) == "expert_iteration",
                    model=self._start.load(),
                    args=grpo_arguments(settings, material.model, self._work.path, seed, passes),
                    train_dataset=Dataset.from_dict(rows),
                    processing_class=self._tokenizer,
                    peft_config=lora_config(settings.lora),
                )
        except ValueError as error:  # peft and TRL refuse what they cannot adapt or divide
            raise UserError(f"the training cannot be set up: {error}") from error
        except OSError as error:
            # A server that does not answer has no errno; a full disk has.
            if settings.generation.kind != "vllm_server" or error.errno is not None:
                raise
            raise UserError(f"generation.server: {error}") from error

    def _make_sampler(self) -> GroupSampler:
        settings, material, key = self._settings, self._material, self._material.key
        prompting, grader = material.prompting, material.grader
        shared = (prompting, grader, material.habits, key.derive("draw"), self._devices)
        if isinstance(settings, GrpoDirectSettings):
            paths = in_flight(settings.sampler, material.problems, settings, self._engine)
            model, policy = material.reward_model, Policy(material.model, material.prompt, paths)
            trees, folder = SearchFolder(self._output / "searches"), self._output / "prm"
            guide = Guide(
                settings,
                model,
                policy,
                self._tokenizer,
                trees,
                folder,
                key.derive("prm"),
                material.problems,
            )
            search = LoopSearch(settings, prompting, grader, trees, key.derive("search"))
            self._stack.callback(lambda: self._loop.run(guide.close()))
            return DirectSampler(settings, *shared, search, guide, self._fingerprint)
        if settings.generation.kind == "engine":
            return GroupSampler(settings, *shared)
        eos = frozenset(self._trainer.eos_token_ids)
        return ElsewhereSampler(settings, *shared, self._trainer.sample, eos)

    def _make_looks(self) -> Looks | None:
        selection = self._settings.selection
        if selection is None or self._material.evaluate is None:
            return None
        return Looks(self._output, selection.every, self._look, self._keep, self._facts)

    def _add_callbacks(self, stack: ExitStack) -> None:
        trainer, settings, output = self._trainer, self._settings, self._output
        # The budget decides which step is the last, the looks look at it, and the checkpoint has
        # it.
        callbacks: list[Any] = [TokenBudget(self._sampler, self._facts)]
        if self._looks is not None:
            callbacks.append(self._looks)
        if settings.plateau is not None:
            callbacks.append(StopAtPlateau(settings.plateau, self._facts))
        callbacks.append(Marker(self._state))
        if trainer.accelerator.is_main_process:
            path, every = output / "samples.jsonl", settings.samples_every
            callbacks += [
                Samples(path, every, settings.group, lambda: trainer.generation),
                Log(output / "log.jsonl", every_figure=True),
                Progress("grpo", stack, ("reward", "selection/accuracy", "loss")),
            ]
            if "tensorboard" in settings.report_to:
                callbacks.append(TensorBoard(output / "tensorboard"))
        for callback in callbacks:
            trainer.add_callback(callback)

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and optimizer."""
        counted = {"sampler": self._sampler.state(), "counted": self._trainer.counted}
        return self._facts | counted

    def _restore(self, state: dict[str, Any]) -> None:
        self._sampler.restore(state.pop("sampler"))
        self._trainer.counted.update(state.pop("counted"))
        self._facts.update(state)

    # What is left of it.

    def _save(self, gathered: dict[str, Any] | None) -> float | None:
        """Writes the model; returns the loss that it must have on the probe's rows, None where
        it cannot be known."""
        start, lora = self._start, self._settings.lora
        if self._looks is None:
            probe = None if is_sharded(self._trainer) else self._probe
            return start.save(self._policy, self._output, gathered, probe)
        best = self._looks.weights(self._looks.best["step"])
        with atomic_path(self._output / ("model" if lora is None else "adapter")) as folder:
            shutil.copytree(best, folder)
            if lora is None:
                start.save_tokenizer(folder)
        merged = None if lora is None else start.merge(self._output, self._probe)
        if lora is not None and lora.four_bit:
            return merged
        return self._facts.get("losses", {}).get(best.name)

    def _keep(self, folder: Path) -> None:
        """Writes the weights of the best look so far, and notes what they say."""
        self._facts.setdefault("losses", {})[folder.name] = self._probe.measure(self._policy)
        save_trained(self._trainer, folder)

    def _metrics(self) -> dict[str, Any]:
        trainer, looks = self._trainer, self._looks
        history = [entry for entry in trainer.state.log_history if "reward" in entry]
        return {
            "questions": len(self._material.problems),
            "steps": trainer.state.global_step,
            "stopped": self._facts.get("stopped", {}).get("reason"),
            **vars(self._sampler.tally),
            **trainer.counted,
            "moved": self._moved,
            "reward_first": history[0]["reward"] if history else None,
            "reward_last": history[-1]["reward"] if history else None,
            "look_tokens": sum(look["policy_tokens"] for look in looks.past) if looks else 0,
            "best_step": looks.best["step"] if looks else None,
            "best_accuracy": looks.best["accuracy"] if looks else None,
            "first_accuracy": looks.past[0]["accuracy"] if looks else None,
            "last_accuracy": looks.past[-1]["accuracy"] if looks else None,
        }


def _identity(material: GrpoMaterial, settings: GrpoSettings, processes: int) -> str:
    """Of the work whose checkpoints can be gone on from."""
    questions = [[p.id, p.question, p.answer, *p.also] for p in material.problems]
    key, model = material.key.words, material.model
    parts = [settings, model, material.prompt, questions, key, processes]
    verifiers = {p.verifier: content(p.verifier) for p in material.problems if p.verifier}
    return identity(*parts, verifiers) if verifiers else identity(*parts)
