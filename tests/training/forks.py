"""Processes that talk by gloo, as those of a launched training do. They are forked: each would
import torch and transformers for seconds otherwise."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from butwait import pipeline

SECONDS = 200
"""After which processes are taken to wait for each other."""


def on_devices(
    count: int, work: Callable[..., Any], *given: Any, told: Path, ends: int = 0
) -> None:
    """Runs ``work(*given)`` in ``count`` processes; the first must end with the code ``ends``, and
    the others with 0 if it does. ``told``: a folder for what they raise."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    words = [(rank, count, port, told, work, given) for rank in range(count)]
    processes = [multiprocessing.get_context("fork").Process(target=_run, args=w) for w in words]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
    said = "".join(file.read_text() for file in told.glob("raised-*.txt"))
    assert processes[0].exitcode == ends, said
    assert ends or [process.exitcode for process in processes] == [0] * count, said


def _run(
    rank: int, count: int, port: int, told: Path, work: Callable[..., Any], given: Any
) -> None:
    code = 1
    try:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in (names | address).items()})
        torch.set_num_threads(1)
        AcceleratorState._reset_state()
        PartialState._reset_state()  # of trainings in the process that was forked
        work(*given)
        code = 0
    except BaseException:
        (told / f"raised-{rank}.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def environment(config: str, *words: str) -> Mapping[str, str]:
    """What accelerate's own launcher makes of a shipped configuration for its processes."""
    file = Path(pipeline.__path__[0]) / "accelerate" / f"{config}.yaml"
    given = ["--config_file", str(file), "--num_processes", "2", *words, "script.py"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, found = prepare_deepspeed_cmd_env(args)
    else:
        found = prepare_multi_gpu_env(args)
    return {name: value for name, value in found.items() if os.environ.get(name) != value}


def in_parts(work: Callable[..., Any], *given: Any) -> None:
    """``work(*given)`` with the shipped FSDP2. accelerate has it for GPUs alone; torch's own runs
    on a CPU as well."""
    init = PartialState.__init__

    def as_gpus(self: PartialState, *words: Any, **options: Any) -> None:
        init(self, *words, **options)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    os.environ.update(environment("fsdp2"))
    PartialState.__init__ = as_gpus  # type: ignore[method-assign]
    work(*given)
