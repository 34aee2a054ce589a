"""Addresses where no Ray cluster is, and what workers on a node say: no cluster is needed."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pipeline_runs import prepare

pytest.importorskip("ray", reason="ray is not installed")

from butwait.records import UserError
from butwait.workers import ray, ray_actor, ray_cluster
from butwait.workers.host import WorkerLostError
from butwait.workers.ray_cluster import connect

Command = Callable[..., tuple[int, str, str]]

SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextmanager
def server(says: bytes | None) -> Iterator[str]:
    """The address of a server that answers all with the same; None: with nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    held.append(listening.accept()[0])
                except OSError:
                    return
                if says is not None:
                    held[-1].sendall(says)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_cluster, "PROBE_S", 1.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def refused(address: str) -> str:
    with pytest.raises(UserError) as error:
        connect(address, 1, lambda printed: None)
    return str(error.value)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1 (connection refused)"),
        ("[::1]:1", "no Ray cluster answers at [::1]:1 ("),
        ("no.such.host.invalid:6379", "no Ray cluster answers at no.such.host.invalid:6379 ("),
        ("ray://head:10001", "ray://head:10001 is Ray's client"),
        ("head:", "'head:' is neither HOST:PORT nor auto"),
        ("head:99999", "'head:99999' is neither"),
        (":6379", "':6379' is neither"),
        ("", "'' is neither"),
    ],
)
def test_an_address_of_nobody_is_refused_at_once(address: str, why: str) -> None:
    assert refused(address).startswith(f"workers.address: {why}")


@pytest.mark.parametrize(
    ("says", "why"),
    [(None, "nothing for 1 s"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "something else is there")],
)
def test_a_server_that_is_no_cluster_is_told_from_one(says: bytes | None, why: str) -> None:
    with server(says) as address:
        assert f"({why})" in refused(address)


def test_an_address_that_a_dead_cluster_left_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    noted = tmp_path / "ray" / "ray_current_cluster"
    noted.parent.mkdir()
    noted.write_text("127.0.0.1:1\n")
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    assert "auto finds no Ray cluster on this machine (asked: 127.0.0.1:1)" in refused("auto")
    with server(SETTINGS_FRAME) as alive:
        monkeypatch.setattr(services, "find_gcs_addresses", lambda: {alive})
        assert ray_cluster._found("auto") == alive
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        assert "(asked: 127.0.0.1:1)" in refused("auto")


def test_a_machine_outside_of_the_cluster_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    monkeypatch.setattr(services, "find_node_ids", list)
    with server(SETTINGS_FRAME) as alive:
        assert refused(alive).startswith("workers.address: this machine is no node of the Ray clu")


def test_other_versions_are_told_in_a_sentence() -> None:
    error = ConnectionError("Failed to connect to Ray cluster at head:6379")
    error.__cause__ = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.3"
    )
    told = ray_cluster._refused("head:6379", error)
    assert "has other versions than this process (Ray 2." in told
    assert told.endswith("The cluster was started with: Ray: 2.59.0 Python: 3.12.3")


def test_a_node_that_does_not_see_a_model_says_so(tmp_path: Path) -> None:
    gone = str(tmp_path / "model")
    job = ray_actor.ActorJob(b"", str(tmp_path), None, (str(tmp_path), gone), {})
    told = asyncio.run(ray_actor.Actor().open(job))
    assert told is not None
    assert f"does not see {gone}" in told


def test_what_a_lost_worker_never_saw_is_not_blamed_for_its_end() -> None:
    with pytest.raises(WorkerLostError) as lost:
        asyncio.run(ray.RayHandle(0, None, set()).call("an item"))
    assert not lost.value.begun


def test_keys_of_the_environment_are_not_sent() -> None:
    passed = [name for name in ("OPENAI_API_KEY", "HF_TOKEN", "BUTWAIT_PLUGIN_TIMEOUT")
              if name.startswith(ray._PASSED)]  # fmt: skip
    assert passed == ["BUTWAIT_PLUGIN_TIMEOUT"]


def test_a_recipe_is_refused_before_it_begins(own_folder: Path, command: Command) -> None:
    words = ("--set", "workers.kind=ray", "--set", "workers.address=127.0.0.1:1")
    code, _, told = command("run", prepare(own_folder), *words)
    assert code == 2
    assert "`workers.address`: no Ray cluster answers at 127.0.0.1:1 (connection refu" in told
    assert not (own_folder / "runs" / "mine" / "search").exists()
