"""The steps that are being sampled, as arrays: what happens at every token happens for all rows at
once, and Python looks at a single row only where its step may end.

Shapes: n live rows of at most S; w tokens of a step, doubled when a step gets longer.
"""

from typing import TypeVar

import numpy as np
import torch

from butwait.engines.pool import Tenant
from butwait.engines.requests import StepRequest
from butwait.engines.sampling import RowSampling, draw
from butwait.engines.steps import StepDetector

T = TypeVar("T")

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
        self._generators: list[np.random.Generator] = []
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

    def add(self, request: StepRequest, tenant: Tenant) -> None:
        """Starts a row whose tokens but the last are in the tenant's slot."""
        i = len(self.requests)
        self.requests.append(request)
        self.tenants.append(tenant)
        self._generators.append(request.key.generator())
        if request.detector not in self._detectors:
            self._detectors.append(request.detector)
        self._slots[i] = tenant.slot
        self._lengths[i] = len(request.token_ids) - 1
        self._next[i] = request.token_ids[-1]
        self._counts[i] = 0
        self._rooms[i] = request.step.room
        self._rules[i] = self._detectors.index(request.detector)
        self._temperature[i] = request.sampling.temperature
        self._top_p[i] = request.sampling.top_p
        self._top_k[i] = request.sampling.top_k
        self._uniforms[i] = self._generators[i].random(BLOCK)
        self._sampling = None

    def draw(self, logits: torch.Tensor) -> None:
        """One token for every row, from float32 (n, V) logits of ``inputs``."""
        n = len(self.requests)
        rows, counts = np.arange(n), self._counts[:n]
        uniforms = torch.from_numpy(self._uniforms[rows, counts % BLOCK]).to(self._device)
        tokens, logprobs = draw(logits, uniforms, self._row_sampling())
        self._widen(int(counts.max()) + 1)
        self._next[:n] = tokens.cpu().numpy()
        self._tokens[rows, counts] = self._next[:n]
        self._logprobs[rows, counts] = logprobs.cpu().numpy()
        self._lengths[:n] += 1
        counts += 1
        for i in np.flatnonzero(counts % BLOCK == 0).tolist():
            self._uniforms[i] = self._generators[i].random(BLOCK)

    def pop_finished(self) -> list[tuple[StepRequest, Tenant]]:
        """Takes out the rows whose step ended with the newest token, their results filled in."""
        n = len(self.requests)
        may_end = self._counts[:n] >= self._rooms[:n]
        for rule in np.unique(self._rules[:n]).tolist():
            ends = self._detectors[rule].may_end(self._next[:n])
            may_end |= ends & (self._rules[:n] == rule)
        finished = []
        # From behind, as the last row takes the place of one that leaves.
        for i in np.flatnonzero(may_end)[::-1].tolist():
            request, count = self.requests[i], self._counts[i]
            request.finish = request.step.finish(self._tokens[i, :count])
            if request.finish is not None:
                request.tokens = self._tokens[i, :count].copy()
                request.logprobs = self._logprobs[i, :count].copy()
                finished.append(self.remove(i))
        return finished

    def remove(self, i: int) -> tuple[StepRequest, Tenant]:
        """Takes a row out; the last one takes its place."""
        last = len(self.requests) - 1
        for array in self._arrays():
            array[i] = array[last]
        self._sampling = None
        _swap_remove(self._generators, i)
        return _swap_remove(self.requests, i), _swap_remove(self.tenants, i)

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


def _swap_remove(items: list[T], i: int) -> T:
    items[i], items[-1] = items[-1], items[i]
    return items.pop()
