"""A process that is killed before the n-th of its calls that change the disk."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

CHANGING = ("replace", "unlink", "rmdir", "mkdir")


def killed_at(moment: int, act: Callable[[], Any]) -> bool:
    """Does ``act`` in a process of its own, which dies before its call number ``moment``. Returns
    whether it did die, that is, has so many calls."""
    child = os.fork()
    if child == 0:
        left = moment
        os.fsync = lambda descriptor: None  # Nobody pulls the plug here, and it takes long.

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **options: Any) -> Any:
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                return call(*args, **options)

            return wrapped

        for name in CHANGING:
            setattr(os, name, counted(getattr(os, name)))
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the work itself failed"
    return code == 9


def moments(act: Callable[[], Any], prepare: Callable[[], Any]) -> Iterator[int]:
    """Every moment at which ``act`` can be killed, with ``act`` killed there; ``prepare`` is called
    before each."""
    for moment in count():
        prepare()
        if not killed_at(moment, act):
            return
        yield moment
