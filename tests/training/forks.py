"""Processes of this one that talk by gloo, as those of a launched training do: forked, since they
would import torch and transformers for seconds otherwise."""

import faulthandler
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState

SECONDS = 120


def on_devices(count: int, work: Callable[..., Any], *given: Any) -> None:
    """Runs ``work(*given)`` in ``count`` processes; fails with what one of them says."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    context = multiprocessing.get_context("fork")
    words = [(rank, count, port, work, given) for rank in range(count)]
    processes = [context.Process(target=_process, args=word) for word in words]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count


def _process(rank: int, count: int, port: int, work: Callable[..., Any], given: Any) -> None:
    code = 1
    try:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in (names | address).items()})
        faulthandler.dump_traceback_later(SECONDS - 5, file=sys.__stderr__)
        torch.set_num_threads(1)
        AcceleratorState._reset_state()
        PartialState._reset_state()
        work(*given)
        code = 0
    except BaseException:
        Path(f"/tmp/fork_{rank}.txt").write_text(traceback.format_exc())
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
