"""A process that calls functions of a user's own: ``python -m butwait.problems.verifying BYTES``.

A *verifier* judges an answer in place of the rules of equality. It is ``module:function``, called
with (question, extracted answer or None, metadata), where the metadata hold ``gold`` and
``response`` beside the columns that were kept; or ``gym:TASK``, reasoning-gym's own scorer. It
gives a score in [0, 1], or (score, status). A *reward function* of ``grpo`` is called alike and
gives any finite number.

A process imports a function once and calls it for one case after another; what they do to it is
the business of ``judging``, which kills a process that hangs and asks a new one where one ended. It
may have so many bytes of data.

Protocol, one line each: ``ready``; then either {"load": a name, "folders", "content": what the name
stands for by ``running.identity``} in, and ``loaded`` or {"missing": why} or {"changed": true} out;
or {"name", "reward": whether it is a reward function, "question", "answer", "metadata"} in, and
{"score", "status"} or {"failed": why, "traceback"} out.
"""

import io
import json
import math
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache, lru_cache
from typing import Any, get_args

from butwait.problems.equality.worker import limit_memory
from butwait.records import Status, UserError
from butwait.running.identity import content
from butwait.running.plugins import (
    TIMEOUT,
    calling,
    find_modules_first,
    load_function,
    wrong,
)

Verify = Callable[[str, str | None, dict[str, Any]], Any]

GYM = "gym:"
"""What the name of one of reasoning-gym's scorers begins with."""
_CALL = "its call"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MOST_TRACEBACK = 20_000


def main() -> None:
    """Serves cases from standard input until it closes."""
    limit_memory(int(sys.argv[1]), resource.RLIMIT_DATA)
    # What a function prints is no reply, and what it asks is answered by nobody.
    cases, replies = os.fdopen(os.dup(0), "rb"), io.FileIO(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ[TIMEOUT] = "0"  # the parent has a clock
    # What a function forks hears and says nothing here, and the end of this process is seen though
    # such a child lives on.
    for pipe in (cases, replies):
        os.register_at_fork(after_in_child=pipe.close)
    replies.write(b"ready\n")
    os.dup2(nothing, 2)
    own = os.getpid()
    for line in cases:
        asked = json.loads(line)
        said, spent = _loaded(asked) if "load" in asked else _called(asked)
        if os.getpid() != own:
            os._exit(0)  # the function forked, and this is the child
        replies.write(said.encode() + b"\n")
        if spent:
            os._exit(0)  # with its memory; the next case has a new process
    if os.getpgrp() == own:  # nobody is left to end what functions started
        os.killpg(own, signal.SIGKILL)


def _loaded(asked: dict[str, Any]) -> tuple[str, bool]:
    find_modules_first(asked["folders"])
    try:
        function(asked["load"])
    except UserError as error:
        return json.dumps({"missing": str(error)}), False
    except BaseException as error:
        return json.dumps({"missing": f"{asked['load']!r} ends in {type(error).__name__}"}), False
    same = content(asked["load"]) == asked["content"]
    return ("loaded" if same else json.dumps({"changed": True})), False


def _called(asked: dict[str, Any]) -> tuple[str, bool]:
    """(what is said, whether the process has no memory left)."""
    try:
        said = verdict(asked["name"], function(asked["name"]), asked)
        return json.dumps(said), False
    except BaseException as error:  # whatever it is, the case has no verdict
        told = str(error) if isinstance(error, UserError) else type(error).__name__
        trace = "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:]
        failed = {"failed": _ADDRESS.sub("", told), "traceback": trace}
        causes = (error, error.__cause__)
        return json.dumps(failed), any(isinstance(cause, MemoryError) for cause in causes)


def handed(name: str, case: Mapping[str, Any], *, reward: bool) -> dict[str, Any]:
    """A case as another process gets it: what JSON has no form for is its text. Raises UserError
    for metadata that cannot be handed over, such as those with a tuple as a key."""
    try:
        asked = json.dumps({**case, "name": name, "reward": reward}, default=str)
        return dict(json.loads(asked))
    except Exception as error:  # a class of the caller's own may fail at anything
        raise UserError(f"its metadata cannot be handed to {name!r} ({error})") from error


def verdict(name: str, called: Verify, asked: dict[str, Any]) -> dict[str, Any]:
    """What a function says of a case, checked. Raises UserError for what it raises, and for what
    is no score."""
    with calling(name, _CALL):
        said = called(asked["question"], asked["answer"], asked["metadata"])
    with calling(name, "what it gives"):  # a class of its own may fail at anything
        if asked["reward"]:
            value = _number(said)
            if value is None or not math.isfinite(value):
                raise wrong(name, _CALL, said, "a finite number")
            return {"score": value, "status": None}
        pair = isinstance(said, tuple | list) and len(said) == 2
        score, status = said if pair else (said, None)
        value = _number(score)
        if value is None or not 0.0 <= value <= 1.0:
            raise wrong(name, _CALL, said, "a score in [0, 1], or (score, status)")
        if status is not None and not (isinstance(status, str) and status in get_args(Status)):
            known = ", ".join(get_args(Status))
            raise wrong(name, _CALL, said, f"(score, status), with a status of {known}")
        return {"score": value, "status": status}


def _number(value: Any) -> float | None:
    """The number that it is: of Python, numpy or torch. None for texts and all else."""
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # an array, a tensor of several
        return None


@cache
def function(name: str) -> Verify:
    """The function of a name. Raises UserError where there is none."""
    if name.startswith(GYM):
        return _of_gym(name)
    found: Verify = load_function(name, "a function of one's own")
    return found


def _of_gym(name: str) -> Verify:
    """reasoning-gym's scorer of a task. It needs the item as it was made, so the item is made
    again from its parameters; where that gives another one (some tasks do so in every process), it
    is the one that was kept as JSON."""
    try:
        from reasoning_gym.factory import create_dataset
    except ImportError as error:
        raise UserError(
            f"{name} needs the package reasoning-gym; run: pip install 'butwait[gym]'"
        ) from error

    @lru_cache(16)
    def dataset(params: str) -> Any:
        return create_dataset(name.removeprefix(GYM), **json.loads(params))

    @lru_cache(256)
    def item(params: str, number: int) -> Any:
        return dataset(params)[number]

    def verify(question: str, answer: str | None, metadata: dict[str, Any]) -> float:
        made = metadata.get("gym")
        if not made:
            raise UserError(f"{name} judges questions of its own set, which say how they were made")
        params = json.dumps(made["params"])
        entry = deepcopy(item(params, made["item"]))  # a scorer may change it
        if entry["question"].split() != question.split():
            if made["metadata"] is None:
                raise UserError(f"{name} cannot make its question again, nor was it kept whole")
            entry = {"question": question, **{key: made[key] for key in ("answer", "metadata")}}
        try:
            return float(dataset(params).score_answer(answer, entry))
        except Exception:  # many scorers fail at what they cannot read
            return 0.0

    return verify


if __name__ == "__main__":
    main()
