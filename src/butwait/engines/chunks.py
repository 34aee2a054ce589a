"""A step whose tokens arrive in chunks, from an engine that does not ask us after every token.

vLLM and servers hand over tokens a few at a time and may go on for some beyond the end of the
step. They are cut here, by the same ``StepDetector`` that the in-process engine asks, so all
engines agree on where a step ends and why.
"""

from collections.abc import Sequence

import numpy as np

from butwait.engines.engine import Continuation, Prefix
from butwait.engines.steps import GrowingStep, StepDetector
from butwait.records import Finish


def cut(
    detector: StepDetector, step: GrowingStep, token_ids: np.ndarray, read: int
) -> tuple[int, Finish | None]:
    """Where a step ends within its newest chunk.

    Args:
        detector: of the step.
        step: the step, which has been asked about the first ``read`` tokens.
        token_ids: int32 (m,), the step's tokens and perhaps some beyond its end.
        read: how many of them came with earlier chunks.

    Returns:
        How many of ``token_ids`` are the step's, and why it ends there; all of them and None
        where it goes on.
    """
    may_end = detector.may_end(token_ids[read:])
    if read < step.room <= len(token_ids):
        may_end[step.room - read - 1] = True
    for end in (read + 1 + np.flatnonzero(may_end)).tolist():
        finish = step.finish(token_ids[:end])
        if finish is not None:
            return end, finish
    return len(token_ids), None


class ArrivingStep:
    """One step of a path while its chunks arrive.

    Args:
        detector: where the step ends.
        prefix: the path so far.
        context_room: tokens that the model's context still takes; None: not known.

    Attributes:
        finish: why the step has ended; None while it goes on. A path without room has ended at
            once.
        overshoot: tokens that were handed over beyond the step's end.
    """

    def __init__(
        self, detector: StepDetector, prefix: Prefix, context_room: int | None = None
    ) -> None:
        self._detector = detector
        self._prefix = prefix
        self._step = self._begin(context_room)
        self._token_ids = np.zeros(0, np.int32)
        self._logprobs = np.zeros(0, np.float32)
        self.finish: Finish | None = None
        self.overshoot = 0
        if self._step.room == 0:
            self.finish = self._step.finish(self._token_ids)

    @property
    def room(self) -> int:
        """The most tokens that the step still takes."""
        return self._step.room - len(self._token_ids)

    @property
    def token_ids(self) -> np.ndarray:
        """int32 (n,), those of the step so far."""
        return self._token_ids

    def add(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> Finish | None:
        """Takes the next chunk, as far as it is the step's, and says how the step ends with it.

        Args:
            token_ids: (m,), with the EOS token where the completion ended with it.
            logprobs: (m,), nats.
        """
        if self.finish is not None:
            self.overshoot += len(token_ids)
            return self.finish
        read = len(self._token_ids)
        ids = np.concatenate([self._token_ids, np.asarray(token_ids, np.int32)])
        taken, self.finish = cut(self._detector, self._step, ids, read)
        self.overshoot += len(ids) - taken
        self._token_ids = ids[:taken]
        new = np.asarray(logprobs, np.float32)[: taken - read]
        self._logprobs = np.concatenate([self._logprobs, new])
        return self.finish

    def end_of_context(self) -> None:
        """The engine has no room for another token: the path ends truncated (``length``)."""
        self._step = self._begin(context_room=len(self._token_ids))
        self.finish = self._step.finish(self._token_ids)

    def continuation(self, prefilled_tokens: int) -> Continuation:
        """The ended step. Its prefix has no handle: such engines keep their own prefix cache."""
        assert self.finish is not None, "the step goes on"
        prefix = self._prefix
        extended = Prefix(
            np.concatenate([prefix.token_ids, self._token_ids]).astype(np.int32),
            prefix.prompt_length,
            prefix.text + self._step.text,
        )
        return Continuation(
            self._token_ids,
            self._step.text,
            self._logprobs,
            self.finish,
            extended,
            prefilled_tokens,
            self.overshoot,
        )

    def _begin(self, context_room: int | None) -> GrowingStep:
        completion = self._prefix.token_ids[self._prefix.prompt_length :]
        return self._detector.step(completion, self._prefix.text, context_room)
