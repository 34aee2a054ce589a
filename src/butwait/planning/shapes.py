"""The sizes of a decoder, from the numbers of its ``config.json`` alone.

Every weight is counted, as transformers builds the model (``tests/planning`` compares the counts).
Families that this module does not know are refused with a sentence: a guess would be off by an
unknown factor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from butwait.engines.settings import refused_spread
from butwait.records import UserError

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model, in numbers (not bytes) where nothing else is said.

    Attributes:
        name: of the model.
        layers, hidden, heads, kv_heads, intermediate, vocabulary: as in its configuration;
            ``intermediate`` is what a token runs through (of a mixture: its experts together).
        context: positions; None: not said.
        parameters: all weights, shared ones once.
        active: those that a token's pass reads, without the embeddings that are only looked up.
        head: of the language-model head, which reward models lack.
        embedding: of the table that is looked up.
        tied: whether the head is that table.
        bits: of a weight of a linear layer in a quantised checkpoint; None: it is none.
        kv: what is cached of a token in all layers that keep it for good: keys and values, or what
            these are made from (multi-head latent attention; transformers does so from 5.15 on).
        whole: keys and values of a token as attention reads them, in all layers.
        windowed: of a token, in layers that see a window only.
        window: tokens of that window.
        state: of a sequence, whatever its length (Mamba).
        attention: operations per token and position that it attends to.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int | None
    parameters: int
    active: int
    head: int
    embedding: int
    tied: bool
    bits: float | None
    kv: int
    whole: int
    windowed: int
    window: int
    state: int
    attention: int

    @property
    def kv_numbers(self) -> int:
        """What is cached of a token while it is inside of every window."""
        return self.kv + self.windowed

    @property
    def latent(self) -> bool:
        """Whether less is cached than attention reads: latents, which all heads share."""
        return self.kv_numbers < self.whole

    def cached(self, tokens: float, *, served: bool = False, devices: int = 1) -> float:
        """Numbers that are cached of a sequence of so many tokens, on each device.

        Args:
            served: by a server, which lets go of what windows do not see.
            devices: that hold one model together (tensor parallel). Keys and values are parted by
                their heads, and beyond these devices hold copies; each has latents whole; Mamba's
                states are parted by the heads of its own.
        """
        apart = 1 if self.latent else max(1, min(devices, self.kv_heads))
        seen = min(tokens, self.window) if served else tokens
        return (self.kv * tokens + self.windowed * seen) / apart + self.state / devices

    def forward_flops(self, tokens: float, context: float, *, head: bool = True) -> float:
        """Operations to run so many tokens that see so many positions on average."""
        matrices = self.active if head else self.active - self.head
        return tokens * (2 * matrices + self.attention * context)


def refused_tensor_parallel(shape: ModelShape, devices: int) -> str | None:
    """Why a model cannot be spread over so many devices; None: it can."""
    told = refused_spread(shape.kv_heads, shape.heads, devices)
    return None if told is None else f"engine.tensor_parallel: {shape.name}: {told}"


_GATED = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "gemma", "gemma2", "gemma3_text"}
    | {"olmo2", "smollm3"}
)
_MIXTURES = frozenset({"mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "deepseek_v3"})
_HYBRID = "granitemoehybrid"
_ALIKE = {"gemma3": "gemma3_text", "mistral3": "mistral", "qwen2_rm": "qwen2"}
"""Models of several parts whose ``text_config`` names no type, and copies under another name."""
_TIED = frozenset({"gemma", "gemma2", "gemma3_text", "smollm3"})
"""Share the head with the embeddings unless the configuration says otherwise."""


def shape_of(config: Config, name: str) -> ModelShape:
    """The sizes that a ``config.json`` says; of a model that sees images as well, of its text.

    Raises UserError for a family that is not known, and for a number that is missing.
    """
    outer = str(config.get("model_type", ""))
    inner = config.get("text_config")
    text = dict(config)
    if isinstance(inner, dict):
        tied = inner.get("tie_word_embeddings", config.get("tie_word_embeddings"))
        text = {**inner, "tie_word_embeddings": tied}
        if "quantization_config" in config:
            text["quantization_config"] = config["quantization_config"]
    kind = str(text.get("model_type") or outer)
    kind = _ALIKE.get(kind, kind)
    if kind not in _GATED | _MIXTURES | {_HYBRID}:
        known = ", ".join(sorted(_GATED | _MIXTURES | {_HYBRID}))
        raise UserError(
            f"{name!r} is of the family {kind or 'unknown'!r}, whose sizes butwait cannot work "
            f"out; it knows {known}"
        )
    try:
        return _shape(_Numbers(text, name), kind)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"the configuration of {name!r} cannot be understood ({error})") from error


@dataclass(frozen=True)
class _Numbers:
    """A configuration whose missing numbers are told."""

    config: Config
    name: str

    def __call__(self, key: str, *others: str) -> int:
        for each in (key, *others):
            if (value := self.config.get(each)) is not None:
                return int(value)
        raise UserError(f"the configuration of {self.name!r} lacks {key!r}")

    def get(self, key: str, default: Any = None) -> Any:
        value = self.config.get(key)
        return default if value is None else value


def _shape(c: _Numbers, kind: str) -> ModelShape:
    h, layers, heads = c("hidden_size"), c("num_hidden_layers"), c("num_attention_heads")
    kv_heads = int(c.get("num_key_value_heads", heads))
    size = int(c.get("head_dim", 256 if kind.startswith("gemma") else h // heads))
    vocabulary = c("vocab_size")
    kinds = _layer_kinds(c, kind, layers)
    mamba, windows = kinds.count("mamba"), kinds.count("sliding_attention")
    attention, per_token, whole_token, per_position = _attention(c, kind, heads, kv_heads, size)
    whole, own, width = _feed_forward(c, kind, layers)
    norms = _norms(kind, h) * layers + h
    blocks = attention * (layers - mamba) + (_mamba(c, h) if mamba else 0) * mamba
    embedding = vocabulary * h
    tied = bool(c.get("tie_word_embeddings", kind in _TIED))
    head = embedding
    full = layers - mamba - windows
    return ModelShape(
        name=c.name,
        layers=layers,
        hidden=h,
        heads=heads,
        kv_heads=kv_heads,
        intermediate=width,
        vocabulary=vocabulary,
        context=c.get("max_position_embeddings"),
        parameters=blocks + whole + norms + embedding + (0 if tied else head),
        active=blocks + own + norms + head,
        head=head,
        embedding=embedding,
        tied=tied,
        bits=_bits(c),
        kv=per_token * full,
        whole=whole_token * (full + windows),
        windowed=per_token * windows,
        window=int(c.get("sliding_window", 0)) if windows else 0,
        state=_mamba_state(c) * mamba,
        attention=per_position * (layers - mamba),
    )


def _bits(c: _Numbers) -> float | None:
    """Of a quantised checkpoint, by its own word."""
    told = c.get("quantization_config")
    if not isinstance(told, dict):
        return None
    method = str(told.get("quant_method", ""))
    if told.get("load_in_4bit") or method == "mxfp4":
        return 4.25
    if told.get("load_in_8bit") or "fp8" in method:
        return 8.0
    bits = told.get("bits", told.get("w_bit"))
    if isinstance(bits, int) and not isinstance(bits, bool):
        return bits + 0.25  # scales and zeros of groups of 128 weights
    raise UserError(f"{c.name!r} is quantised in a way that butwait cannot work out ({method})")


def _layer_kinds(c: _Numbers, kind: str, layers: int) -> list[str]:
    """``full_attention``, ``sliding_attention`` or ``mamba``, of each layer."""
    given = c.get("layer_types") or c.get("layers_block_type")
    if given:
        if kind == _HYBRID:  # transformers calls its Mamba layers so
            given = ["mamba" if each == "linear_attention" else each for each in given]
        if unknown := {*given} - {"attention", "full_attention", "sliding_attention", "mamba"}:
            raise UserError(
                f"{c.name!r} has layers of the kind {min(unknown)!r}, whose sizes butwait cannot "
                "work out"
            )
        return [each if each != "attention" else "full_attention" for each in given]
    window = c.get("sliding_window")
    if kind == "gemma2":
        return ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    if kind == "gemma3_text":
        pattern = int(c.get("sliding_window_pattern", 6))
        full = [(i + 1) % pattern == 0 for i in range(layers)]
        return ["full_attention" if each else "sliding_attention" for each in full]
    if kind.startswith("qwen"):
        if not c.get("use_sliding_window", False):
            return ["full_attention"] * layers
        first = int(c.get("max_window_layers", layers))
        return ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    if kind in ("mistral", "mixtral", "phi3") and window:
        context = int(c.get("max_position_embeddings", 0))
        return ["sliding_attention" if window < context else "full_attention"] * layers
    return ["full_attention"] * layers


def _attention(
    c: _Numbers, kind: str, heads: int, kv_heads: int, size: int
) -> tuple[int, int, int, int]:
    """Of one layer: weights; cached numbers of a token, and its keys and values whole; operations
    per token and position."""
    h = c("hidden_size")
    if kind == "deepseek_v3":
        rank, rope = c("kv_lora_rank"), c("qk_rope_head_dim")
        key, value = c("qk_nope_head_dim") + rope, c("v_head_dim")
        q_rank = c.get("q_lora_rank")
        query = h * heads * key if q_rank is None else q_rank * (h + 1 + heads * key)
        up = rank * heads * (key - rope + value)
        weights = query + h * (rank + rope) + rank + up + heads * value * h
        return weights, rank + rope, heads * (key + value), 2 * heads * (key + value)
    q, kv = heads * size, kv_heads * size
    weights = 2 * h * q + 2 * h * kv
    biased = bool(c.get("attention_bias", False))
    if kind in ("qwen2", "qwen2_moe") or biased:
        weights += q + 2 * kv
    if biased and kind not in ("qwen2", "qwen2_moe"):
        weights += h
    if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
        weights += 2 * size
    if kind == "olmo2":
        weights += q + kv
    return weights, 2 * kv, 2 * kv, 4 * q


def _norms(kind: str, hidden: int) -> int:
    return (4 if kind in ("gemma2", "gemma3_text") else 2) * hidden


def _feed_forward(c: _Numbers, kind: str, layers: int) -> tuple[int, int, int]:
    """Of all layers: weights, and those that a token runs; and the width that it runs through."""
    h = c("hidden_size")
    if kind in _GATED:
        width = c("intermediate_size")
        weights = 3 * h * width + (2 * width + h if c.get("mlp_bias", False) else 0)
        return weights * layers, weights * layers, width
    if kind == "deepseek_v3":
        return _experts(
            c,
            sparse=layers - c("first_k_dense_replace"),
            layers=layers,
            experts=c("n_routed_experts"),
            width=c("moe_intermediate_size"),
            shared=c("moe_intermediate_size") * int(c.get("n_shared_experts", 0)),
            gate=0,
        )
    if kind in ("qwen2_moe", "qwen3_moe"):
        step, dense = int(c.get("decoder_sparse_step", 1)), set(c.get("mlp_only_layers", ()))
        sparse = sum((i + 1) % step == 0 and i not in dense for i in range(layers))
        shared = int(c.get("shared_expert_intermediate_size", 0)) if kind == "qwen2_moe" else 0
        return _experts(
            c,
            sparse=sparse,
            layers=layers,
            experts=c("num_experts", "num_local_experts"),
            width=c("moe_intermediate_size"),
            shared=shared,
            gate=h if shared else 0,
        )
    experts = int(c.get("num_local_experts", 0))
    shared = c("shared_intermediate_size") if kind == _HYBRID else 0
    return _experts(
        c,
        sparse=layers,
        layers=layers,
        experts=experts,
        width=c("intermediate_size") if experts else 0,
        shared=shared,
        gate=0,
    )


def _experts(
    c: _Numbers,
    *,
    sparse: int,
    layers: int,
    experts: int,
    width: int,
    shared: int,
    gate: int,
) -> tuple[int, int, int]:
    """``_feed_forward`` of a mixture: ``sparse`` of the layers have experts of this width, with one
    shared by all tokens (and a ``gate`` before it)."""
    h = c("hidden_size")
    chosen = c("num_experts_per_tok") if experts else 0
    router = h * experts
    dense = 3 * h * c("intermediate_size") if sparse < layers else 0
    common = 3 * h * shared + gate + router
    whole = sparse * (experts * 3 * h * width + common) + (layers - sparse) * dense
    own = sparse * (chosen * 3 * h * width + common) + (layers - sparse) * dense
    return whole, own, chosen * width + shared


def _mamba(c: _Numbers, hidden: int) -> int:
    """Weights of a Mamba-2 block."""
    heads = c("mamba_n_heads")
    inner, states = heads * _mamba_head(c), c("mamba_n_groups") * c("mamba_d_state")
    convolved = inner + 2 * states
    biases = (inner + convolved + heads + hidden) if c.get("mamba_proj_bias", False) else 0
    convolution = convolved * c("mamba_d_conv")
    convolution += convolved if c.get("mamba_conv_bias", True) else 0
    projections = hidden * (inner + convolved + heads) + inner * hidden
    return projections + biases + convolution + 3 * heads + inner


def _mamba_head(c: _Numbers) -> int:
    given = c.get("mamba_d_head")
    if isinstance(given, int):
        return given
    return int(c.get("mamba_expand", 2)) * c("hidden_size") // c("mamba_n_heads")


def _mamba_state(c: _Numbers) -> int:
    """Numbers that a Mamba-2 block keeps of a sequence."""
    if c.get("mamba_n_heads") is None:
        return 0
    inner = c("mamba_n_heads") * _mamba_head(c)
    convolved = inner + 2 * c("mamba_n_groups") * c("mamba_d_state")
    return inner * c("mamba_d_state") + convolved * c("mamba_d_conv")
