"""The steps that are being sampled, as arrays: what happens at every token happens for all rows at
once, and Python looks at a single row only where its step may end.

Shapes: n live rows of at most S; w tokens of a step, doubled when a step gets longer.
"""

from collections.abc import Sequence

import numpy as np
import torch

from butwait.engines.pool import Tenant
from butwait.engines.requests import StepRequest
from butwait.engines.sampling import RowSampling, draw
from butwait.engines.steps import StepDetector
from butwait.records import UserError
from butwait.records.keys import KeyStream

BLOCK = 64
"""Uniform numbers drawn at a time for a row; also the first w."""


class LiveRows:
    """Rows that are being decoded; they lie at 0..n-1 of every array.

    Args:
        capacity: S.
        device: of the logits.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._device = device
        self.requests: list[StepRequest] = []
        self.tenants: list[Tenant] = []
        self._stream = KeyStream()
        self._detectors: list[StepDetector] = []
        self._slots = np.zeros(capacity, np.int64)
        self._lengths = np.zeros(capacity, np.int64)
        self._next = np.zeros(capacity, np.int64)
        self._counts = np.zeros(capacity, np.int64)
        self._rooms = np.zeros(capacity, np.int64)
        self._rules = np.zeros(capacity, np.int64)
        self._temperature = np.zeros(capacity, np.float32)
        self._top_p = np.zeros(capacity, np.float32)
        self._top_k = np.zeros(capacity, np.int64)
        self._uniforms = np.zeros((capacity, BLOCK))
        self._tokens = np.zeros((capacity, BLOCK), np.int32)
        self._logprobs = np.zeros((capacity, BLOCK), np.float32)
        self._sampling: RowSampling | None = None

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 (n,) each: slots, positions and tokens of the next forward pass."""
        n = len(self.requests)
        return self._slots[:n], self._lengths[:n], self._next[:n]

    def add(self, begun: Sequence[tuple[StepRequest, Tenant]]) -> None:
        """Starts rows, each with all tokens but the last in its tenant's slot."""
        if not begun:
            return
        first = len(self.requests)
        requests = [request for request, _ in begun]
        rows = slice(first, first + len(requests))
        self.requests += requests
        self.tenants += [tenant for _, tenant in begun]
        self._slots[rows] = [tenant.slot for _, tenant in begun]
        self._lengths[rows] = [len(request.token_ids) - 1 for request in requests]
        self._next[rows] = [request.token_ids[-1] for request in requests]
        self._counts[rows] = 0
        self._rooms[rows] = [request.step.room for request in requests]
        self._rules[rows] = [self._number(request.detector) for request in requests]
        self._temperature[rows] = [request.sampling.temperature for request in requests]
        self._top_p[rows] = [request.sampling.top_p for request in requests]
        self._top_k[rows] = [request.sampling.top_k for request in requests]
        for i, request in enumerate(requests, first):
            self._uniforms[i] = self._stream.uniforms(request.key, BLOCK)
        self._sampling = None

    def _number(self, detector: StepDetector) -> int:
        if detector not in self._detectors:
            self._detectors.append(detector)
        return self._detectors.index(detector)

    def draw(self, logits: torch.Tensor) -> None:
        """One token for every row, from float32 (n, V) logits of ``inputs``. Raises UserError where
        a row's are no numbers."""
        n = len(self.requests)
        rows, counts = np.arange(n), self._counts[:n]
        uniforms = torch.from_numpy(self._uniforms[rows, counts % BLOCK]).to(self._device)
        tokens, logprobs = draw(logits, uniforms, self._row_sampling())
        self._widen(int(counts.max()) + 1)
        self._next[:n] = tokens.cpu().numpy()
        self._tokens[rows, counts] = self._next[:n]
        self._logprobs[rows, counts] = logprobs.cpu().numpy()
        if np.isnan(self._logprobs[rows, counts]).any():
            raise UserError(
                "the model's logits are no numbers (NaN): its weights or this precision do not "
                "hold; train with a lower learning_rate, or take dtype: float32"
            )
        self._lengths[:n] += 1
        counts += 1
        for i in np.flatnonzero(counts % BLOCK == 0).tolist():
            key, drawn = self.requests[i].key, int(counts[i])
            self._uniforms[i] = self._stream.uniforms(key, BLOCK, start=drawn)

    def pop_finished(self) -> list[tuple[StepRequest, Tenant]]:
        """Takes out the rows whose step ended with the newest token, their results filled in."""
        n = len(self.requests)
        may_end = self._counts[:n] >= self._rooms[:n]
        for rule in np.unique(self._rules[:n]).tolist():
            ends = self._detectors[rule].may_end(self._next[:n])
            may_end |= ends & (self._rules[:n] == rule)
        ended = []
        for i in np.flatnonzero(may_end).tolist():
            request, count = self.requests[i], self._counts[i]
            request.finish = request.step.finish(self._tokens[i, :count])
            if request.finish is not None:
                request.tokens = self._tokens[i, :count].copy()
                request.logprobs = self._logprobs[i, :count].copy()
                ended.append(i)
        return self.remove(ended)

    def remove(self, rows: Sequence[int]) -> list[tuple[StepRequest, Tenant]]:
        """Takes rows out, given in ascending order; the last ones that stay take their places."""
        if not rows:
            return []
        removed = [(self.requests[i], self.tenants[i]) for i in rows]
        left = len(self.requests) - len(rows)
        gone = set(rows)
        holes = [i for i in rows if i < left]
        movers = [i for i in range(left, len(self.requests)) if i not in gone]
        for array in self._arrays() if holes else ():
            array[holes] = array[movers]
        for hole, mover in zip(holes, movers, strict=True):
            self.requests[hole], self.tenants[hole] = self.requests[mover], self.tenants[mover]
        del self.requests[left:], self.tenants[left:]
        self._sampling = None
        return removed

    def _arrays(self) -> tuple[np.ndarray, ...]:
        state = (self._slots, self._lengths, self._next, self._counts, self._rooms, self._rules)
        sampling = (self._temperature, self._top_p, self._top_k, self._uniforms)
        return (*state, *sampling, self._tokens, self._logprobs)

    def _row_sampling(self) -> RowSampling:
        if self._sampling is None:
            n = len(self.requests)
            arrays = (self._temperature, self._top_p, self._top_k)
            copies = [torch.from_numpy(array[:n].copy()).to(self._device) for array in arrays]
            self._sampling = RowSampling(*copies)
        return self._sampling

    def _widen(self, columns: int) -> None:
        if columns > self._tokens.shape[1]:
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)], 1)
            self._logprobs = np.concatenate([self._logprobs, np.zeros_like(self._logprobs)], 1)
