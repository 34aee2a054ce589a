"""The settings of a training as arguments of transformers' Trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from butwait.engines.settings import ModelSettings
from butwait.training.devices import own_device
from butwait.training.settings import OptimizationSettings, OptimizerSettings


def in_precision(model: ModelSettings, settings: OptimizerSettings) -> ModelSettings:
    """The model with the dtype in which its weights are trained."""
    dtype = "bfloat16" if settings.precision == "bfloat16" else "float32"
    return model.model_copy(update={"dtype": dtype})


PROJECT = "butwait"
"""The project of trackio's runs; wandb's is ``WANDB_PROJECT``."""


def trackers(names: Sequence[str], work: Path) -> dict[str, Any]:
    """Arguments for the trackers but TensorBoard, whose callback is added by itself (``fit.py``).
    They name the run by its folder and the stage's, above ``work``."""
    return {
        "report_to": [name for name in names if name != "tensorboard"] or "none",
        "project": PROJECT,
        "run_name": "/".join(work.resolve().parts[-3:-1]),
    }


def training_arguments(
    kind: type[TrainingArguments],
    settings: OptimizerSettings,
    model: ModelSettings,
    work: Path,
    seed: int,
    **own: Any,
) -> Any:
    """The arguments of a training.

    They are for one device even where several GPUs are visible: the Trainer would use
    torch.nn.DataParallel there, which counts tokens wrongly and which TRL refuses.

    Args:
        kind: the trainer's class of arguments.
        settings: the optimizer's.
        model: whose device is used.
        work: folder of the checkpoints.
        seed: order of the examples, dropout, new weights.
        own: keywords of this kind of training; they replace those that all share.
    """
    device = own_device(model)
    shared = {
        "output_dir": str(work),
        "seed": seed % 2**32,
        "use_cpu": device.type == "cpu",
        "bf16": settings.precision == "mixed",
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": (
            "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
        ),
        "warmup_steps": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_strategy": "no" if settings.save_steps is None else "steps",
        "save_steps": settings.save_steps or 500,
        # Two: the older one goes only when the newer one is whole.
        "save_total_limit": 2,
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        # Every weight that is trained takes part in every forward pass.
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device.type == "cuda",
    }
    if isinstance(settings, OptimizationSettings):  # it passes over a set of examples
        shared["num_train_epochs"] = settings.epochs
        shared["max_steps"] = settings.max_steps or -1
        shared["gradient_accumulation_steps"] = settings.accumulation_steps
        shared |= trackers(settings.report_to, work)
    arguments = kind(**(shared | own))
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
