"""The settings of ``grpo`` as TRL's arguments."""

from pathlib import Path
from typing import Any

from trl import GRPOConfig

from butwait.engines.settings import ModelSettings
from butwait.training.arguments import on_one_device, shared_arguments
from butwait.training.grpo.presets import loss_arguments
from butwait.training.grpo.reporting import PROJECT
from butwait.training.grpo.settings import GrpoSettings


def grpo_arguments(
    settings: GrpoSettings, model: ModelSettings, work: Path, seed: int, passes: int
) -> GRPOConfig:
    """TRL's arguments.

    Args:
        settings: of the stage.
        model: whose device is used.
        work: folder of the checkpoints, in that of the stage; other trackers name the run by it.
        seed: which pass a completion goes to, new weights.
        passes: forward passes of a device in one optimizer step (``devices.check_devices``).
    """
    every = settings.steps_per_generation
    own = {
        "max_steps": settings.steps,
        "gradient_accumulation_steps": passes,
        "steps_per_generation": passes * settings.minibatches,
        "num_iterations": settings.iterations,
        "num_generations": settings.group,
        "max_completion_length": settings.step.max_tokens,
        "temperature": settings.temperature,
        "top_p": 1.0,
        "top_k": 0,
        # The rows come in the order in which they are asked (``order.py``).
        "shuffle_dataset": False,
        "remove_unused_columns": False,
        # With dropout, ratios of probabilities would be noise.
        "disable_dropout": True,
        # TensorBoard's callback is added by itself (``reporting.py``).
        "report_to": [name for name in settings.report_to if name != "tensorboard"] or "none",
        "project": PROJECT,
        "run_name": "/".join(work.resolve().parts[-3:-1]),
        # A resume begins with a generation.
        "save_steps": -(-(settings.save_steps or 1) // every) * every,
    }
    shared = shared_arguments(settings, model, work, seed)
    arguments = GRPOConfig(
        **(shared | own), **loss_arguments(settings.loss), **_vllm_arguments(settings)
    )
    on_one_device(arguments)
    return arguments


def _vllm_arguments(settings: GrpoSettings) -> dict[str, Any]:
    generation = settings.generation
    if generation.kind not in ("vllm_colocate", "vllm_server"):
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": generation.kind.removeprefix("vllm_"),
        "vllm_server_base_url": generation.server,
        "vllm_gpu_memory_utilization": generation.gpu_memory,
        "vllm_tensor_parallel_size": generation.tensor_parallel,
        # Corrections of single tokens: summed over a long trace, small differences between vLLM and
        # the trainer would drop it whole (TRL issue 4772). The cap is that of verl and
        # open-instruct.
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": 2.0,
    }
