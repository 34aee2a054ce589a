"""A real vLLM, in this process or as a server. All of it is skipped where vLLM is not installed:
`make test-vllm` runs it in a venv of its own."""

import os
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
from vllm_servers import serving

HERE = Path(__file__).parent
# What every engine has to do, and the PRM to compare with, lie with the other tests.
sys.path += [str(HERE.parent / "engines"), str(HERE.parent / "reward_models")]
# On a CPU: no thread is pinned, and 1 GiB holds the keys and values of every test.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

TINY = Path(str(files("butwait"))) / "models" / "tiny"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    spec = find_spec("vllm")
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.timeout(600))  # the start of a server or an engine is in it
        # Without vLLM, Python may take a folder of that name for a package, one without a file.
        if spec is None or spec.origin is None:
            item.add_marker(pytest.mark.skip(reason="needs vLLM: make test-vllm"))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server of the package's tiny model (name ``tiny``, context 1024)."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    options = ["--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details"]
    with serving(TINY, log, *options) as url:
        yield url
