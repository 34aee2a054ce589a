"""A process that asks verifiers: ``python -m butwait.problems.verifying TIME_LIMIT``.

A verifier judges an answer in place of the rules of equality. It is ``module:function`` of a
user's own, called with (question, extracted answer or None, metadata), where the metadata hold
``gold`` and ``response`` beside the columns that were kept; or ``gym:TASK``, reasoning-gym's own
scorer. It gives a score in [0, 1], or (score, status).

Modules are imported once; then every case is a fork, so that a verifier that hangs, or ends the
process, spoils no other case. A case may take so many seconds by the clock.

Protocol, one line each: ``ready``, then per case {"verifier", "folders", "question", "answer",
"metadata"} in, and {"score", "status"} or {"failed": why} out.
"""

import io
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

from butwait.records import Status, UserError
from butwait.running.plugins import calling, load_plugin

Verify = Callable[[str, str | None, dict[str, Any]], Any]


def main() -> None:
    """Serves cases from standard input until it closes."""
    limit = float(sys.argv[1])
    replies = io.FileIO(os.dup(1), "w")
    os.dup2(2, 1)  # what a verifier prints is no reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        case = json.loads(line)
        for folder in case["folders"]:
            if folder not in sys.path:
                sys.path.insert(0, folder)
        replies.write(json.dumps(_judged(case, limit)).encode() + b"\n")


def _judged(case: dict[str, Any], limit: float) -> dict[str, Any]:
    try:
        verify = verifier(case["verifier"])
    except UserError as error:
        return {"failed": str(error)}
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            found = verdict(case["verifier"], verify, case)
        except BaseException as error:  # whatever it is, the case has no verdict
            found = {"failed": str(error) or type(error).__name__}
        with open(write, "w", encoding="utf-8") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(write)
    try:
        said = _read(read, limit)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if said is None:
        return {"failed": f"the verifier {case['verifier']!r} took longer than {limit:g} s"}
    if not said:
        return {"failed": f"the verifier {case['verifier']!r} ended its process"}
    return dict(json.loads(said))


def _read(pipe: int, limit: float) -> bytes | None:
    """All that comes until the pipe closes; None where it does not in time."""
    deadline, parts = time.monotonic() + limit, list[bytes]()
    with selectors.DefaultSelector() as selector, open(pipe, "rb", buffering=0) as file:
        selector.register(file, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            part = file.read(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return None


def verdict(name: str, verify: Verify, case: dict[str, Any]) -> dict[str, Any]:
    """What a verifier says of a case, checked. Raises UserError for what it raises, and for what is
    no score."""
    with calling(name, "its call"):
        said = verify(case["question"], case["answer"], case["metadata"])
    score, status = said if isinstance(said, tuple | list) and len(said) == 2 else (said, None)
    number = isinstance(score, int | float) or hasattr(score, "__float__")
    if not number or not 0.0 <= float(score) <= 1.0:
        raise UserError(f"the verifier {name!r} gives {said!r:.80}, and a score is in [0, 1]")
    if status is not None and status not in get_args(Status):
        known = ", ".join(get_args(Status))
        raise UserError(
            f"the verifier {name!r} gives the status {status!r:.40} (there are: {known})"
        )
    return {"score": float(score), "status": status}


@cache
def verifier(name: str) -> Verify:
    """The function of a verifier's name. Raises UserError where there is none."""
    task = name.removeprefix("gym:")
    if task != name:
        return _of_gym(task)
    found: Verify = load_plugin(name, "verifier")
    return found


def _of_gym(task: str) -> Verify:
    """reasoning-gym's scorer of a task. It needs the item as it was made, so the item is made
    again from its parameters."""
    from reasoning_gym.factory import create_dataset

    @cache
    def items(params: str) -> Any:
        return create_dataset(task, **json.loads(params))

    def verify(question: str, answer: str | None, metadata: dict[str, Any]) -> float:
        made = metadata["gym"]
        dataset = items(json.dumps(made["params"]))
        item = dataset[made["item"]]
        try:
            return float(dataset.score_answer(answer, item))
        except Exception:  # many scorers fail at what they cannot read
            return 0.0

    return verify


if __name__ == "__main__":
    main()
