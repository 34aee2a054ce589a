"""The server keeps what its own OpenAPI document says: generated requests find no 5xx."""

import importlib.util
from collections.abc import Iterator

import pytest
from served_process import Served, proper_error, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("uvicorn") is None, reason="the extra `serve` is not installed"
    ),
]
schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")
EXAMPLES = 60
"""Of each operation."""


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--particles", "2") as ready:
        yield ready


def test_generated_requests_find_no_fault_of_the_server(server: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{server.base}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
    }
    for operation in operations:
        modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)

            @hypothesis.seed(0)
            @hypothesis.settings(
                max_examples=EXAMPLES // 2,
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=strategy)
            def ask(case: object) -> None:
                answer = case.call(base_url=server.base)
                assert answer.status_code < 500, answer.text
                if answer.status_code >= 400 and "/v1/" in case.path:
                    proper_error(answer)

            ask()
    server.lives()
