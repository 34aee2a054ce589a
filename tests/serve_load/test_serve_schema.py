"""The server keeps what its own OpenAPI document says: generated requests find no 5xx."""

import pytest
from served_process import KEY, Served, proper_error

pytestmark = pytest.mark.slow
schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")
EXAMPLES = 60
"""Of each operation."""


def test_generated_requests_find_no_fault_of_the_server(strict: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{strict.base}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
    }
    for operation in operations:
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.method.upper() == "POST":  # elsewhere nothing is said that could be wrong
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)

            @hypothesis.seed(0)
            @hypothesis.settings(
                max_examples=EXAMPLES // 2,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=strategy)
            def ask(case: object) -> None:
                answer = case.call(base_url=strict.base, headers={"Authorization": f"Bearer {KEY}"})
                assert answer.status_code < 500, answer.text
                if answer.status_code >= 400 and "/v1/" in case.path:
                    proper_error(answer)

            ask()
    strict.lives()
