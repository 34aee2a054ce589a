"""A recipe's plan: per stage memory, disk, tokens, operations and hours, and what fits on which
device."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from psutil import virtual_memory

from butwait.engines.kv.packing import SHARE, packs_here
from butwait.engines.load import ENGINES
from butwait.engines.settings import ModelSettings, ServerSettings, SlotSettings
from butwait.evaluation.settings import EvaluateSettings
from butwait.planning import devices as cards
from butwait.planning.counting import assumptions, count_stages
from butwait.planning.devices import DEVICES, Device, decode_seconds
from butwait.planning.known import find_shape
from butwait.planning.memory import (
    CONTEXT_GPU,
    GB,
    NUMBER,
    RUNTIME_CPU,
    SERVED_OTHER,
    TRAINER_CPU,
    Held,
    Parts,
    drawing_parts,
    training_parts,
)
from butwait.planning.shapes import ModelShape, refused_tensor_parallel
from butwait.planning.stage_plan import Fit, Plan, StagePlan
from butwait.planning.work import Work, side_by_side
from butwait.reward_models.load import decoders
from butwait.stages.kinds.search import SearchStage
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings
from butwait.training.settings import OptimizerSettings, PrmSettings, SftSettings

TREE_BYTES, ATTEMPT_BYTES, EXAMPLE_BYTES = 13, 8, 8
"""Bytes on disk of a token in a tree (id, log-probability, text), an attempt and an example,
measured on small runs."""
LOGPROB_BYTES = 3
"""Besides, of a token in an attempt that is stored with its log-probability."""
DRAWN = (SearchStage, EvaluateSettings)
"""Settings of stages that a pilot runs."""


def plan_recipe(recipe: Any, path_shares: Mapping[str, float] | None = None) -> Plan:
    """Plans every stage. Asks nothing and loads nothing.

    Args:
        recipe: a ``Recipe``.
        path_shares: by the stage: of a path's limit, what a pilot's paths took.
    """
    shares = path_shares or {}
    planner = _Planner(recipe)
    shape = planner.policy
    context = shape.context if isinstance(shape, ModelShape) else None
    works = count_stages(recipe, context, shares)
    stages = {name: planner.stage(name, work) for name, work in works.items()}
    told = (*assumptions(recipe, works, shares), *planner.assumed)
    return Plan(
        recipe.name, stages, told, tuple(dict.fromkeys(planner.missing)), tuple(planner.at_servers)
    )


class _Planner:
    """What the stages of a recipe have in common."""

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe
        self.missing: list[str] = []
        self.assumed: dict[str, None] = {}
        self.at_servers: dict[str, None] = {}
        self.engine = recipe.engine
        self.runs_model = ENGINES.of(self.engine).runs_model
        self.policy: ModelShape | None = self._shape(recipe.model) if self.runs_model else None
        self.elsewhere = isinstance(self.engine, ServerSettings) or not self.runs_model
        self.served = self.runs_model and not isinstance(self.engine, SlotSettings)

    def _shape(self, model: ModelSettings) -> ModelShape | None:
        found = find_shape(model)
        if isinstance(found, ModelShape):
            return found
        self.missing.append(found)
        return None

    def stage(self, name: str, work: Work) -> StagePlan:
        stage = self.recipe.stages[name]
        in_loop = isinstance(stage, GrpoSettings)
        held = self.held(own=in_loop)
        judges = self.judges(name)
        here = [judge for judge in judges if not judge.served]
        if isinstance(self.engine, ServerSettings) and work.drawing is not None and not in_loop:
            self.at_servers["model"] = None
        if here != judges:
            self.at_servers["reward model"] = None
        refused = self.refusal(stage)
        rows, slots = self.rows(stage)
        parts: Parts = {}
        most = least = 0.0
        drawn_by = None if self.elsewhere and not in_loop else held
        if work.drawing is not None and (held is not None or here):
            spread = self.spread(stage)
            common = (drawn_by, here, work.drawing, slots, spread)
            parts = drawing_parts(*common, rows=rows, at_limit=False)
            most = sum(drawing_parts(*common, rows=rows, at_limit=True).values())
            least = sum(drawing_parts(*common, rows=1, at_limit=True).values())
        trained = self.trained(stage, work)
        runtime = self.runtime(stage, work)
        drawers, trainers = self.on_one_cpu(stage)
        on_cpu = [(drawers, sum(parts.values()), least)] if parts else []
        if trained:
            if isinstance(stage, GrpoDirectSettings):
                # The cache is freed while weights are updated; a reward model stays.
                trained |= {name: held for name, held in parts.items() if "reward" in name}
            needs = sum(trained.values())
            most, least = max(most, needs), max(least, needs)
            if needs > sum(parts.values()):
                parts = trained
            on_cpu.append((trainers, needs, needs))
        flops = self.flops(stage, work, judges)
        plan = StagePlan(
            kind=stage.kind,
            work=work,
            kv_bytes=None if held is None else held.cache * held.shape.kv_numbers,
            parts=parts,
            runtime=runtime[0],
            cpu=max((n * (whole + runtime[1]) for n, whole, _ in on_cpu), default=0.0),
            cpu_least=max((n * (one + runtime[1]) for n, _, one in on_cpu), default=runtime[1]),
            packed=drawers * self.packed(stage, work, [drawn_by, *here]),
            most=most,
            least=least,
            flops=flops,
            disk=self.disk(stage, work),
            devices=self.devices(stage, work),
            cpus=self.devices(stage, work, drawers, trainers),
            refused=refused,
        )
        fits = {d.name: self.fit(d, plan, stage, held, here, rows) for d in DEVICES}
        return replace(plan, fits=fits)

    def held(self, own: bool) -> Held | None:
        """The policy as it is held; ``own``: by a training, which draws in this process."""
        if self.policy is None:
            return None
        dtype = self.recipe.model.dtype
        small = getattr(self.engine, "kv_cache", "auto") == "fp8" and not own
        cache = 1.0 if small else float(NUMBER[dtype])
        return Held(self.policy, dtype, cache, served=self.served and not own)

    def judges(self, name: str) -> list[Held]:
        """Reward models that run beside the policy, or are served elsewhere."""
        recipe = self.recipe
        if recipe.inputs(name, "reward model"):
            if self.policy is None:
                return []
            dtype = recipe.model.dtype
            return [Held(self.policy, dtype, float(NUMBER[dtype]), head=False)]
        found: list[Held] = []
        given = getattr(recipe.stages[name], "reward_model", None)
        if given is None:
            return found
        for settings, model, head in decoders(given, recipe.model if self.runs_model else None):
            if model is None:
                own = getattr(settings, "factory", settings.kind)
                self.assumed[f"the reward model {own} runs no model (butwait cannot know)"] = None
            elif (shape := self._shape(model)) is not None:
                served, number = isinstance(settings, ServerSettings), float(NUMBER[model.dtype])
                found.append(Held(shape, model.dtype, number, head=head, served=served))
        return found

    def spread(self, stage: Any) -> int:
        drawing = getattr(stage, "generation", self.engine)
        return int(getattr(drawing, "tensor_parallel", 1))

    def refusal(self, stage: Any) -> str | None:
        """Why a stage cannot run as it is written."""
        if self.policy is None:
            return None
        return refused_tensor_parallel(self.policy, self.spread(stage))

    def workers(self) -> int:
        """Workers that drawing is shared among, each with the models on its own device."""
        count = getattr(getattr(self.recipe, "workers", None), "count", None)
        return count if isinstance(count, int) else 1

    def on_one_cpu(self, stage: Any) -> tuple[int, int]:
        """Processes that draw and that train side by side on one machine, where these are CPUs: a
        card would be one process's own, and a machine is all of theirs."""
        launch = getattr(stage, "launch", None)
        trainers = 1 if launch is None else int(launch.processes // launch.machines)
        if isinstance(stage, GrpoSettings):
            return trainers, trainers
        workers = self.recipe.workers
        here = workers.kind == "processes" or (workers.kind == "ray" and workers.address is None)
        return self.workers() if here else 1, trainers

    def rows(self, stage: Any) -> tuple[int | None, bool]:
        """Paths at a time, and whether each has room for its longest from the start."""
        generation = getattr(stage, "generation", None)
        if generation is not None:
            return generation.slots, generation.deterministic
        if isinstance(self.engine, SlotSettings):
            return self.engine.slots, self.engine.deterministic
        return getattr(self.engine, "max_rows", None), False

    def trained(self, stage: Any, work: Work) -> Parts:
        if not isinstance(stage, OptimizerSettings) or self.policy is None or not work.steps:
            return {}
        launch = getattr(stage, "launch", None)
        return training_parts(
            self.policy,
            work,
            stage,
            batch=stage.batch_size,
            devices=_launched(stage),
            split="ddp" if launch is None else launch.config,
            outputs=1 if isinstance(stage, PrmSettings) else None,
            reference=work.referred > 0,
        )

    def devices(self, stage: Any, work: Work, drawers: int = 1, trainers: int = 1) -> int:
        """That a stage takes, all together, where so many processes share one."""
        launched = _launched(stage) // trainers
        if work.drawing is None or isinstance(stage, GrpoSettings):
            return launched
        return max(launched, self.workers() // drawers * self.spread(stage))

    def runtime(self, stage: Any, work: Work) -> tuple[float, float]:
        """Bytes besides the parts, on a card and on a CPU."""
        trains = TRAINER_CPU if isinstance(stage, OptimizerSettings) else 0.0
        here = self.served and not self.elsewhere and not isinstance(stage, GrpoSettings)
        served = SERVED_OTHER if here and work.drawing is not None else 0.0
        return CONTEXT_GPU + served, RUNTIME_CPU + trains + served

    def packed(self, stage: Any, work: Work, models: list[Held | None]) -> float:
        """Bytes of second copies of weights on this machine's CPU; a model whose copy would take
        more than its share of the memory has none."""
        if work.drawing is None or self.rows(stage)[1] or not packs_here():
            return 0.0
        most = SHARE * virtual_memory().total
        copies = (model.packed for model in models if model is not None)
        return sum(copy for copy in copies if copy <= most)

    def flops(self, stage: Any, work: Work, judges: list[Held]) -> float | None:
        """Operations of all that the stage does; None where a model's sizes are not known."""
        shape = self.policy
        draws = work.drawn + work.read + work.trained
        if draws and shape is None:
            return None
        context = _context(work)
        total = 0.0
        if shape is not None:
            total = shape.forward_flops(work.drawn + work.read + work.referred, context)
            headless = isinstance(stage, PrmSettings)
            once = shape.forward_flops(work.trained, context, head=not headless)
            total += _passes(stage) * once
        for judge in judges:
            total += judge.shape.forward_flops(work.scored, context, head=judge.head)
        return total

    def disk(self, stage: Any, work: Work) -> float:
        kept = work.trees * TREE_BYTES + work.attempts * ATTEMPT_BYTES
        if isinstance(stage, EvaluateSettings) and stage.token_logprobs:
            kept += work.attempts * LOGPROB_BYTES
        kept += work.examples * work.example * EXAMPLE_BYTES
        if isinstance(stage, OptimizerSettings) and self.policy is not None and work.steps:
            number = NUMBER[stage.precision]
            model = self.policy.parameters * number
            lora = getattr(stage, "lora", None)
            state = self.trained(stage, work)
            checkpoint = (
                (0 if lora else model) + state["optimizer"] + (state["gradients"] if lora else 0)
            )
            kept += model + (2 * checkpoint if stage.save_steps else 0)
            if _keeps_best(stage):  # the best now, and at each of the checkpoints
                kept += (0 if lora else model) * (3 if stage.save_steps else 1)
            if isinstance(stage, SftSettings) and stage.keep_epochs:
                kept += model * int(stage.epochs)
        return kept

    def fit(
        self,
        device: Device,
        plan: StagePlan,
        stage: Any,
        held: Held | None,
        judges: list[Held],
        rows: int | None,
    ) -> Fit:
        """How a stage fits on a device, and its hours there."""
        work = plan.work
        needs = plan.bytes_on(device.is_cpu) / GB
        unknown = self.policy is None and bool(work.drawn + work.trained)
        if plan.refused:
            return Fit("no", None)
        verdict = "fits"
        if needs > device.memory:
            floor = plan.least_on(device.is_cpu) / GB
            draws = work.drawing is not None and floor <= device.memory
            verdict = "tight" if draws else "no"
        if held is not None and held.served and not self.elsewhere and work.drawing is not None:
            spread = self.spread(stage)
            own = drawing_parts(held, [], work.drawing, False, spread, rows=1, at_limit=True)
            share = float(getattr(self.engine, "gpu_memory", 1.0))
            if not device.is_cpu and sum(own.values()) + SERVED_OTHER > share * device.memory * GB:
                verdict = "no"
        elsewhere = self.elsewhere and work.drawing is not None
        if unknown or (elsewhere and not isinstance(stage, GrpoSettings)) or verdict == "no":
            return Fit("unknown" if unknown else verdict, None)
        return Fit(verdict, self.seconds(device, plan, stage, held, judges, rows) / 3600)

    def seconds(
        self,
        device: Device,
        plan: StagePlan,
        stage: Any,
        held: Held | None,
        judges: list[Held],
        rows: int | None,
    ) -> float:
        work, context = plan.work, _context(plan.work)
        drawing = learning = 0.0
        drawers, trainers = self.on_one_cpu(stage) if device.is_cpu else (1, 1)
        if held is not None and work.drawing is not None:
            spread = self.spread(stage)
            beside = side_by_side(work.drawing.paths, rows)
            room = (device.memory * GB - plan.least_on(device.is_cpu)) / drawers
            each = held.kv(0, 0, 1, max(1.0, work.drawing.path), spread)
            each *= 1 - work.drawing.shared
            beside = max(1, min(beside, int(max(0.0, room) / max(1.0, each)) + 1))
            drawing += decode_seconds(
                device,
                held.shape,
                tokens=work.drawn,
                rows=beside,
                context=context,
                weight_bytes=held.shape.active * NUMBER[held.dtype],
                number_bytes=held.cache,
                served=held.served,
                spread=spread,
            )
            reading = held.shape.forward_flops(work.read, context) / spread
            drawing += reading / (device.flops * cards.READ_FLOPS)
        for judge in judges:
            flops = judge.shape.forward_flops(work.scored, context, head=judge.head)
            drawing += flops / (device.flops * cards.READ_FLOPS)
        if work.trained and self.policy is not None:
            fast = stage.precision != "float32" or device.is_cpu
            slower = 1.0 if fast else cards.FLOAT32_SLOWER
            flops = _passes(stage) * self.policy.forward_flops(work.trained, context)
            flops += self.policy.forward_flops(work.referred, context)
            learning += slower * flops / (device.flops * cards.TRAIN_FLOPS)
        beside = _launched(stage) if isinstance(stage, GrpoSettings) else self.workers()
        return drawing / (beside // drawers) + learning / (_launched(stage) // trainers)


def _launched(stage: Any) -> int:
    """Processes of a training."""
    launch = getattr(stage, "launch", None)
    return 1 if launch is None else int(launch.processes)


def _keeps_best(stage: Any) -> bool:
    """Whether a training keeps the weights of its best look."""
    validation = getattr(stage, "validation", None)
    patient = validation is not None and validation.patience is not None
    return patient or getattr(stage, "selection", None) is not None


def _passes(stage: Any) -> float:
    """Forward passes that a trained token costs as much as: one forwards, two backwards (one where
    the weights are frozen), one more where activations are computed again."""
    backward = 1.0 if getattr(stage, "lora", None) is not None else 2.0
    return 1.0 + backward + bool(getattr(stage, "gradient_checkpointing", False))


def _context(work: Work) -> float:
    """Positions that a token sees on average."""
    if work.drawing is not None:
        return work.drawing.prompt + work.drawing.path / 2
    return work.example / 2
