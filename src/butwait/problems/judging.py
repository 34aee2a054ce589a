"""Asks verifiers and reward functions of a user's own, in processes that can be killed.

Whatever such a function does, it is a number or none: one that raises, hangs, ends its process or
gives something else has no verdict on that case, which is counted and told. Only one that is not
there, or is another one than when the run began, stops the run.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

import psutil

from butwait.problems.equality.pool import WorkerDiedError, WorkerPool, WorkerStuckError
from butwait.problems.held import HeldVerifier
from butwait.problems.verifying import Verify, handed
from butwait.records import Status, UserError
from butwait.running.identity import content
from butwait.running.plugins import TIMEOUT, folders, time_limit

LIMIT_S = 20.0
"""Seconds by the clock that a call may take, where ``TIMEOUT`` says nothing else."""
LEAST_MEMORY = 4 << 30
"""Bytes that the data of a process may have on a small machine; on others, half of the memory is
shared out among the processes."""

Said = tuple[float, Status | None]
"""A score, and a status where one was given."""
Failures = dict[tuple[str, bool], Counter[str]]
"""(function, whether it gives rewards) -> reasons, each with how often."""
_MOST_REASONS, _OTHERS = 100, ""
"""Different reasons that are kept of a function; the rest of them is counted only."""
_ONE_OR_MANY = {
    False: ("answer is ungradable", "answers are ungradable"),
    True: ("completion moves nothing", "completions move nothing"),
}


class Judges:
    """Functions of a user's own, by their names; callable from any thread.

    Processes are started when they are needed, each imports what it is asked for, and calls it for
    one case after another.
    """

    def __init__(self, size: int, held: Mapping[str, Verify] | None = None) -> None:
        """
        Args:
            size: processes at most.
            held: functions that this process holds and no other could import, by their names.
        """
        limit = time_limit(LIMIT_S) if held else 0.0
        self._held = {name: HeldVerifier(f, size, limit) for name, f in (held or {}).items()}
        memory = max(LEAST_MEMORY, psutil.virtual_memory().total // (2 * size))
        self._pool = WorkerPool("butwait.problems.verifying", (memory,), size, 0.0)
        self._loads: dict[str, str] = {}
        self._failed: Failures = {}
        self._lock = Lock()

    def expect(self, names: Iterable[str]) -> None:
        """Holds these functions to what they are now: a module that is changed later is told."""
        for name in dict.fromkeys(names):
            self._load(name)

    def ask(self, name: str, case: Mapping[str, Any], *, reward: bool) -> Said | None:
        """(score, status) of a case; None where the function has none.

        Args:
            name: ``module:function`` or ``gym:TASK``.
            case: ``question``, ``answer`` and ``metadata``.
            reward: whether it gives any finite number, and not a score.

        Raises:
            UserError: the function cannot be had, or its module was changed since it was asked
                first.
        """
        if name in self._held:
            found = self._held[name].ask(name, case)
            if "failed" in found:
                return self._fail(name, reward, found["failed"])
            return found["score"], found["status"]
        limit = time_limit(LIMIT_S)
        try:
            asked = handed(name, case, reward=reward)
        except UserError as error:
            return self._fail(name, reward, str(error))
        try:
            said = json.loads(self._pool.ask(asked, self._load(name), limit))
        except WorkerStuckError:
            return self._fail(
                name,
                reward,
                f"the plugin {name!r} took longer than {limit:g} s; mend it, or give it longer "
                f"({TIMEOUT}=SECONDS)",
            )
        except WorkerDiedError:
            return self._fail(name, reward, f"the plugin {name!r} ended its process")
        except ValueError:
            return self._fail(name, reward, f"the plugin {name!r} wrote into its process's pipe")
        if "missing" in said:
            raise UserError(said["missing"])
        if "changed" in said:
            raise UserError(
                f"the module of {name!r} was changed while it is in use; run the same command "
                "again (what is finished and still holds is kept)"
            )
        if "failed" in said:
            return self._fail(name, reward, said["failed"], said["traceback"])
        return said["score"], said["status"]

    def untold(self) -> list[str]:
        """A sentence for each function that failed since this was asked last."""
        lines = []
        for (_, reward), reasons in sorted(self.failures().items()):
            rest = reasons.pop(_OTHERS, 0)
            (why, times), *others = reasons.most_common()
            one, many = _ONE_OR_MANY[reward]
            rest += sum(count for _, count in others)
            more = f" (and {rest} for other reasons)" if rest else ""
            lines.append(f"{f'1 {one}' if times == 1 else f'{times} {many}'}: {why}{more}")
        return lines

    def failures(self) -> Failures:
        """What ``untold`` would tell, counted, for another process to tell (``add``)."""
        with self._lock:
            failed, self._failed = self._failed, {}
        return failed

    def add(self, failures: Failures) -> None:
        """Counts what failed in another process as if it had failed here."""
        with self._lock:
            for function, reasons in failures.items():
                self._failed.setdefault(function, Counter()).update(reasons)

    @property
    def held_to(self) -> dict[str, str]:
        """The functions that were asked or expected, and what they were then."""
        with self._lock:
            return dict(self._loads)

    def hold_to(self, loads: Mapping[str, str]) -> None:
        """Holds functions to what another process was held to (``held_to``)."""
        with self._lock:
            self._loads.update(loads)

    def close(self) -> None:
        """Ends the processes. A second call does nothing."""
        self._pool.close()
        for held in self._held.values():
            held.close()

    def _load(self, name: str) -> str:
        with self._lock:
            if name not in self._loads:
                load = {"load": name, "folders": folders(), "content": content(name)}
                self._loads[name] = json.dumps(load)
            return self._loads[name]

    def _fail(self, name: str, reward: bool, why: str, trace: str = "") -> Said | None:
        """No verdict, which is counted."""
        with self._lock:
            reasons = self._failed.setdefault((name, reward), Counter())
            if why not in reasons and len(reasons) >= _MOST_REASONS:
                why = _OTHERS
            first, reasons[why] = why not in reasons, reasons[why] + 1
        if first and trace and os.environ.get("BUTWAIT_TRACEBACK"):
            print(trace, file=sys.stderr)
        return None
