"""What a server counts, as Prometheus reads it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from butwait.server.jobs import Jobs
from butwait.server.wire import usage
from butwait.server.work import Answer

disable_created_metrics()  # a second series for each of them, of no use
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Figures:
    """Of one server.

    Args:
        jobs: its requests.
        sampled: tokens that its engine, or its workers, sampled so far, whoever asked.
    """

    def __init__(self, jobs: Jobs, sampled: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(jobs, sampled))
        given = {"registry": self._registry}
        self._requests = Counter(
            "butwait_requests", "Requests that were answered.", ["route", "status"], **given
        )
        self._seconds = Histogram(
            "butwait_request_seconds", "From a request to its end.", ["route"], buckets=SECONDS,
            **given,
        )  # fmt: skip
        self._tokens = Counter(
            "butwait_tokens", "Tokens of answered requests, of all their paths.", ["kind"], **given
        )
        self._cancelled = Counter(
            "butwait_requests_cancelled", "Requests whose client left.", **given
        )
        self._timeouts = Counter("butwait_timeouts", "Searches whose time was over.", **given)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request came to its end."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def used(self, answers: Sequence[Answer]) -> None:
        """Tokens of an answer."""
        told = usage(answers)
        counted = {
            "prompt": told["prompt_tokens"],
            "policy": told["completion_tokens"],
            "prefilled": told["prompt_tokens_details"]["prefilled_tokens"],
            "reward": told["completion_tokens_details"]["reward_model_tokens"],
        }
        for kind, tokens in counted.items():
            self._tokens.labels(kind).inc(tokens)

    def cancelled(self) -> None:
        """A client left."""
        self._cancelled.inc()

    def timed_out(self) -> None:
        """A search ran out of time."""
        self._timeouts.inc()

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self._registry)


class _Now(Collector):
    """Figures of the moment."""

    def __init__(self, jobs: Jobs, sampled: Callable[[], int]) -> None:
        self._jobs, self._sampled = jobs, sampled

    def collect(self) -> Iterator[Any]:
        jobs = self._jobs
        yield GaugeMetricFamily(
            "butwait_requests_running", "Requests that are searched.", value=jobs.running
        )
        yield GaugeMetricFamily(
            "butwait_requests_waiting", "Requests that wait for a place.", value=jobs.waiting
        )
        yield CounterMetricFamily(
            "butwait_engine_policy_tokens",
            "Tokens of finished steps that the engine or the workers sampled, whoever asked.",
            value=self._sampled(),
        )
