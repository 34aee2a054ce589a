"""Bytes that a stage needs on a device, part by part."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from butwait.planning.shapes import ModelShape
from butwait.planning.work import Drawing, Work

GB = 1e9
NUMBER = {"float32": 4, "bfloat16": 2, "mixed": 4}
"""Bytes of a number, by a dtype or precision."""
FOUR_BIT = 0.53
"""Bytes of a weight in 4 bits, its scales included."""
MOMENTS = {"adamw_8bit": 2 * 1.03, "adamw_4bit": 2 * 0.53}
"""Bytes of both of AdamW's moments, their scales included; of ``adamw`` two numbers as wide as the
weights."""
CONTEXT_GPU = 1.0e9
"""What CUDA and its libraries take of a card."""
SERVED_OTHER = 3.0e9
"""What vLLM takes for passes and graphs."""
RUNTIME_CPU = 0.53e9
"""What Python, torch and transformers take of main memory."""
TRAINER_CPU = 0.05e9
"""What trl, datasets and accelerate take besides."""
SAMPLED = 5
"""Copies of the logits of a pass, float32: as they come, warped, sorted, summed, drawn from."""
LOSS_COPIES = 3
"""float32 copies of a training batch's logits: themselves, their log-softmax, its gradient."""

Parts = dict[str, float]
"""Bytes by what takes them."""


@dataclass(frozen=True, slots=True)
class Held:
    """A model as it is held.

    Attributes:
        shape: its sizes.
        dtype: of weights and arithmetic.
        cache: bytes of a number of its cache.
        head: whether it has its language-model head.
        served: by vLLM or another server.
    """

    shape: ModelShape
    dtype: str
    cache: float
    head: bool = True
    served: bool = False

    @property
    def weights(self) -> float:
        """Bytes."""
        shape, number = self.shape, NUMBER[self.dtype]
        ends = shape.embedding + (0 if shape.tied else shape.head)
        inner = shape.parameters - ends
        kept = ends - (0 if self.head or shape.tied else shape.head)
        return inner * (number if shape.bits is None else shape.bits / 8) + kept * number

    @property
    def packed(self) -> float:
        """Bytes of a second copy that products on a CPU keep of linear layers, where they make one
        (``engines.kv.products``): of weights in bfloat16, the table that is looked up aside."""
        if self.served or self.dtype != "bfloat16" or self.shape.bits is not None:
            return 0.0
        shape = self.shape
        inner = shape.parameters - shape.embedding - (0 if shape.tied else shape.head)
        return (inner + (shape.head if self.head else 0)) * NUMBER[self.dtype]

    def kv(
        self, prompts: float, prompt: float, rows: float, path: float, devices: int = 1
    ) -> float:
        """Bytes of the cache of so many prompts, each held once, and paths, on each of so many
        devices that hold the model together."""
        cached = partial(self.shape.cached, served=self.served, devices=devices)
        whole, beginning = cached(prompt + path), cached(prompt) - cached(0)
        return (prompts * beginning + rows * (whole - beginning)) * self.cache


def rows_of(drawing: Drawing, rows: int | None) -> int:
    """Paths that an engine holds at a time."""
    return max(1, drawing.paths if rows is None else min(drawing.paths, rows))


def search_parts(
    policy: Held | None,
    judge: Held | None,
    drawing: Drawing,
    *,
    rows: int | None,
    judged_rows: int | None,
    whole_slots: bool,
    at_limit: bool,
    spread: int = 1,
) -> Parts:
    """Of a stage that draws paths.

    Args:
        policy, judge: None where they run elsewhere or not at all.
        rows: of the engine; None: no bound.
        judged_rows: of the reward model; None: one for every path.
        whole_slots: every row has room for its longest path from the start.
        at_limit: count every path at its limit, and nothing shared.
        spread: devices that hold one policy together.
    """
    held = rows_of(drawing, rows)
    path = drawing.longest - drawing.prompt if at_limit or whole_slots else drawing.path
    own = path if at_limit or whole_slots else path * (1 - drawing.shared)
    if whole_slots and rows is not None:
        held = rows
    prompts = min(drawing.prompts, held)
    parts: Parts = {}
    if policy is not None:
        shape = policy.shape
        parts["policy weights"] = policy.weights / spread
        parts["policy KV"] = policy.kv(prompts, drawing.prompt, held, own, spread)
        if policy.served:
            parts["logits"] = held * shape.vocabulary * 4  # vLLM gathers them on every device
        else:
            one_layer = policy.cache * shape.whole / max(1, shape.layers)
            columns = drawing.prompt + path
            parts["logits"] = held * shape.vocabulary * 4 * SAMPLED
            parts["passes"] = 2 * held * columns * one_layer
    if judge is not None and drawing.judged:
        kept = held if judged_rows is None else min(rows_of(drawing, None), judged_rows)
        parts["reward model weights"] = judge.weights
        parts["reward model KV"] = judge.kv(prompts, drawing.prompt, kept, own)
    return parts


def lora_weights(shape: ModelShape, rank: int) -> float:
    """Weights of adapters on every linear layer: rank times (inputs + outputs) of each."""
    size = shape.whole / (2 * max(1, shape.layers))
    query = shape.attention / (4 * max(1, shape.layers))
    pairs = 2 * (shape.hidden + query) + 2 * (shape.hidden + size)
    pairs += 3 * (shape.hidden + shape.intermediate)
    return shape.layers * rank * pairs


def training_parts(
    shape: ModelShape,
    work: Work,
    settings: Any,
    *,
    batch: int,
    devices: int = 1,
    split: str = "ddp",
    outputs: int | None = None,
    reference: bool = False,
) -> Parts:
    """Of a training, for each device.

    Args:
        settings: an ``OptimizerSettings``, perhaps with ``lora``.
        batch: rows of a forward pass.
        devices, split: that train together, and what is spread over them: nothing (``ddp``),
            gradients and moments (``zero2``), weights too (``fsdp2``, ``zero3``).
        outputs: of a token; None: the vocabulary.
        reference: whether a frozen copy is compared with.
    """
    number = NUMBER[settings.precision]
    compute = 2 if settings.precision == "mixed" else number
    lora = getattr(settings, "lora", None)
    weights_share = devices if split in ("fsdp2", "zero3") else 1
    moments_share = devices if split in ("fsdp2", "zero3", "zero2") else 1
    frozen = 0.0
    if lora is not None:
        frozen = shape.parameters * number
        if lora.four_bit:
            inner = shape.parameters - shape.embedding - (0 if shape.tied else shape.head)
            frozen = inner * FOUR_BIT + (shape.parameters - inner) * number
        trained, number = lora_weights(shape, lora.rank), 4
    else:
        trained = float(shape.parameters)
    moments = MOMENTS.get(settings.optimizer, 2.0 * number)
    tokens = batch * work.longest_example
    parts = {
        "weights": (frozen + trained * number) / weights_share,
        "gradients": trained * number / moments_share,
        "optimizer": trained * moments / moments_share,
        "activations": _activations(shape, tokens, compute, settings.gradient_checkpointing),
        "logits": tokens
        * (shape.vocabulary if outputs is None else outputs)
        * (4 * LOSS_COPIES + (compute if compute < 4 else 0)),
    }
    if settings.precision == "mixed":
        parts["half copies"] = trained * 2 / weights_share
    if reference and lora is None:
        parts["reference model"] = shape.parameters * number / weights_share
    return parts


def _activations(shape: ModelShape, tokens: float, number: float, checkpointed: bool) -> float:
    """What the backward pass needs: of each layer its norms' inputs and outputs, queries, keys and
    values before and after their rotation, and four widths of the feed-forward part."""
    query = shape.attention / (4 * max(1, shape.layers))
    size = shape.whole / (2 * max(1, shape.layers))
    layer = 6 * shape.hidden + 3 * query + 6 * size + 4 * shape.intermediate
    if checkpointed:
        return tokens * number * (shape.layers * shape.hidden + layer)
    return tokens * number * shape.layers * layer


def largest(*several: Parts, key: Callable[[Parts], float] = lambda p: sum(p.values())) -> Parts:
    """The parts that need most together."""
    return max(several, key=key)


def drawing_parts(
    held: Held | None,
    judges: list[Held],
    drawing: Drawing,
    whole_slots: bool,
    spread: int,
    *,
    rows: int | None,
    at_limit: bool,
) -> Parts:
    """``search_parts`` of one policy and any number of reward models."""
    parts: Parts = {}
    for policy, judge in ((held, None), *((None, judge) for judge in judges)):
        own = search_parts(
            policy,
            judge,
            drawing,
            rows=rows,
            judged_rows=rows if rows == 1 else None,
            whole_slots=whole_slots and rows != 1,
            at_limit=at_limit,
            spread=spread,
        )
        for key, value in own.items():
            parts[key] = parts.get(key, 0.0) + value
    return parts
