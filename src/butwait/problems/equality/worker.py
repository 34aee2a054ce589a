"""A grading process: ``python -m butwait.problems.equality.worker TIME_LIMIT MEMORY_LIMIT``.

It loads math-verify once, then forks a child for every case; the child's exit code is the verdict.
A case can therefore neither slow down nor corrupt the next one, and ending it costs nothing:

- time: the child may use so many seconds of the processor, however busy the machine is. The timer's
  signal has the default action, so that the kernel ends the process even inside a C function,
  whether or not anybody is left to watch it;
- memory: RLIMIT_AS;
- the parent's death: standard input closes and the process leaves.

An answer that breaks a limit is *different* where the gold answer can be judged without it.

Protocol, one line each: ``ready``, then per case {"gold", "answer"} in and one of
``Verdict`` out.
"""

import gc
import io
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Literal

Verdict = Literal["equal", "different", "unreadable", "limit"]
Compare = Callable[[str, str], bool]
_EXIT_CODES: dict[int, Verdict] = {10: "equal", 11: "different", 12: "unreadable"}
_PROBE = r"\frac{\pi}{17}"
"""An answer that costs nothing: a gold answer that can be compared with it can be judged."""
_WARM_UP = (
    (r"\frac{1}{2}+\sqrt{x}", r"\sqrt{x}+\cos(\frac{\pi}{3})"),
    (r"2\pi x^{2}-\ln(x)", r"2\pi x^{2}-\ln|x|"),
    (r"y = 2x+1", r"2y = 4x+2"),
    (r"(1,2)\cup(3,\infty)", r"|2x-3|<1 \lor x>3"),
    (r"\sum_{k=1}^{3} k", r"\int_{0}^{1} 12x dx"),
)
"""Pairs that make SymPy import and cache what most cases need."""


def main() -> None:
    """Serves cases from standard input until it closes."""
    time_limit, memory_limit = float(sys.argv[1]), int(sys.argv[2])
    replies = _only_replies_on_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    compare = _load()
    limit_memory(memory_limit)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    judgeable: dict[str, bool] = {}
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        case = json.loads(line)
        verdict = in_child(compare, case["gold"], case["answer"], time_limit, replies)
        if verdict == "limit" and case["gold"] not in judgeable:
            probe = in_child(compare, case["gold"], _PROBE, time_limit / 2, replies)
            judgeable[case["gold"]] = probe in ("equal", "different")
        if verdict == "limit" and judgeable[case["gold"]]:
            verdict = "different"
        replies.write(verdict.encode() + b"\n")


def _load() -> Compare:
    """Imports what a case needs and parses a few formulas, so that each child starts warm."""
    from butwait.problems.equality.algebra import same_formula
    from butwait.problems.equality.compare import equal

    logging.disable(logging.CRITICAL)
    for gold, answer in _WARM_UP:
        same_formula(gold, answer)
    gc.collect()
    gc.freeze()  # children share these pages; a collection in a child would copy them
    return lambda gold, answer: equal(gold, answer, same_formula)


def in_child(
    compare: Compare, gold: str, answer: str, time_limit: float, replies: io.FileIO
) -> Verdict:
    """The verdict of ``compare`` in a forked child with ``time_limit`` seconds of the processor."""
    child = os.fork()
    if child == 0:
        replies.close()  # else the death of this process would go unnoticed while the child lives
        os._exit(_exit_code(compare, gold, answer, time_limit))
    _, status = os.waitpid(child, 0)
    return _EXIT_CODES.get(os.waitstatus_to_exitcode(status), "limit")


def _exit_code(compare: Compare, gold: str, answer: str, time_limit: float) -> int:
    from butwait.problems.equality.compare import UnreadableGoldError

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, time_limit)
    try:
        return 10 if compare(gold, answer) else 11
    except UnreadableGoldError:
        return 12
    except BaseException:  # out of memory or of stack: no verdict
        return 1


def limit_memory(limit: int, what: int = resource.RLIMIT_AS) -> None:
    """Limits this process and its children to ``limit`` bytes, without core files.

    Args:
        limit: bytes.
        what: ``RLIMIT_AS``, the whole address space, or ``RLIMIT_DATA``, what is allocated and not
            what is mapped.
    """
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(what, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _only_replies_on_stdout() -> io.FileIO:
    """The pipe to the parent; whatever a library prints goes to standard error."""
    replies = io.FileIO(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    main()
