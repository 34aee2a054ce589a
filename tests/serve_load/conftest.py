"""Servers that the tests of this folder share: each takes seconds to start."""

import importlib.util
from collections.abc import Iterator

import pytest
import yaml
from served_process import KEY, LIMITS, Served, served


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("uvicorn") is None:
        for item in items:
            if "serve_load" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="the extra `serve` is not installed"))


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """One as it comes."""
    with served() as ready:
        yield ready


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One with a key and narrow limits."""
    config = tmp_path_factory.mktemp("strict") / "serve.yaml"
    config.write_text(yaml.safe_dump(LIMITS))
    words = ("--config", str(config), "--api-key-env", "BUTWAIT_TEST_KEY")
    with served(*words, environment={"BUTWAIT_TEST_KEY": KEY}) as ready:
        yield ready
