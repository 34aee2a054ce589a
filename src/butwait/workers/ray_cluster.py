"""The Ray cluster of this process: one that is joined, or one of its own on this machine."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from butwait.records import UserError
from butwait.running.packages import require

PROBE_S = 5.0
"""Seconds in which the head of a cluster must answer."""
OBJECTS = 512 << 20
"""Bytes of shared memory for finished trees on their way, in a cluster of our own."""
PORT = 6379
"""Of a cluster's head, where an address does not say."""
# An HTTP/2 client's first words, and the number of the frame that every gRPC server answers with.
_HELLO, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), 4
_OURS = {
    # Without a token, every user of the machine could have code run.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else Ray takes an address that other machines reach, even where it is given the loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

_OTHERS = ""
_joined: str | None = _OTHERS
"""The head that ``connect`` joined; None: its own cluster; ``_OTHERS``: whatever this process is
connected to, that was the program around."""


def connect(
    address: str | None, workers: int, printed: Callable[[Mapping[str, Any]], None]
) -> bool:
    """Connects this process to a Ray cluster; whether that is one of its own.

    A connection stays until the process ends: the stages of a run share it. A program that called
    ``ray.init`` itself keeps its own.

    Args:
        address: of the cluster's head; ``auto``: the one that runs on this machine; None: a cluster
            is started here, on the loopback, and ends with this process however that ends.
        workers: that will be started.
        printed: is told what processes of the cluster print: their ``pid`` and ``lines``.

    Raises UserError for an address where no cluster answers, one that does not let this process in,
    and other versions of Ray and Python there.
    """
    global _joined
    head = look(address)
    import ray
    from ray._private import worker

    if ray.is_initialized():
        if _joined in (head, _OTHERS):
            return _joined is None
        ray.shutdown()
    # Ray prints what workers print, and each end of one, on standard output.
    worker.print_to_stdstream = lambda data, *_, **__: printed(data)
    with _signals_kept():
        if head is None:
            _start(workers)
        else:
            try:
                ray.init(address=head, logging_level="error")
            except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
                raise UserError(_refused(head, error)) from error
    _joined = head
    return head is None


def look(address: str | None) -> str | None:
    """``HOST:PORT`` of the cluster's head at an address of ``connect``; None: there is none to look
    for. Nothing is joined or started.

    Raises UserError where Ray is not installed, no cluster answers, or this machine is no node of
    it.
    """
    require("ray", "workers.kind: ray", "'butwait[ray]'")
    if address is None:
        return None
    if address.startswith("ray://"):
        raise UserError(
            f"workers.address: {address} is Ray's client; run butwait on a machine of the cluster "
            "and give HOST:PORT of its head, or auto"
        )
    head = _found(address)
    from ray._private.services import find_node_ids

    if not find_node_ids():  # Ray would look for a minute
        raise UserError(
            f"workers.address: this machine is no node of the Ray cluster at {head}; make it one "
            f"(ray start --address={head}), or run butwait on one that is"
        )
    return head


def _start(workers: int) -> None:
    import ray
    from ray._private import ray_constants

    raylet: Any = import_module("ray._raylet")

    # Sockets lie in the folder, and their paths may have 100 characters.
    folder = tempfile.mkdtemp(prefix="butwait-ray-", dir=None if len(_tmp()) < 30 else "/tmp")
    words = [sys.executable, "-m", "butwait.workers.ray_watch", str(os.getpid()), folder]
    subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    with _environment(_OURS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            raylet.Config.initialize("")
            raylet.AuthenticationTokenLoader.instance().reset_cache()
            ray.init(
                address="local",
                num_cpus=min(workers, os.cpu_count() or 1),
                object_store_memory=OBJECTS,
                include_dashboard=False,
                logging_level="error",
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
        except (ray.exceptions.RayError, RuntimeError, OSError, TimeoutError) as error:
            told = str(error).strip().splitlines()
            raise UserError(
                f"no Ray cluster could be started on this machine ({told[0] if told else error}); "
                "workers.kind: processes needs none"
            ) from error


def _tmp() -> str:
    return tempfile.gettempdir()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """SIGTERM stays this program's to handle: Ray takes it over where it is initialised."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _found(address: str) -> str:
    """``HOST:PORT`` of a cluster's head that answers.

    Raises UserError where none does. An address that a dead cluster left behind is passed over.
    """
    if address != "auto":
        if why := _silent(address):
            raise UserError(
                f"workers.address: no Ray cluster answers at {address} ({why}); give HOST:PORT of "
                "its head (ray start --head prints it), or leave the address out for a cluster on "
                "this machine"
            )
        return address
    places = _local_heads()
    for place in places:
        if not _silent(place):
            return place
    left = f" (asked: {', '.join(places)})" if places else ""
    raise UserError(
        f"workers.address: auto finds no Ray cluster on this machine{left}; start one (ray start "
        "--head), give HOST:PORT of its head, or leave the address out"
    )


def _local_heads() -> list[str]:
    """Addresses that may be those of this machine's cluster, the likeliest first."""
    from ray._private.services import find_gcs_addresses

    if told := os.environ.get("RAY_ADDRESS"):
        return [told]
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        places = [noted.read_text().strip()]
    except OSError:
        places = []
    return list(dict.fromkeys([*places, *sorted(find_gcs_addresses())]))


def _silent(address: str) -> str | None:
    """Why no head of a cluster is at an address; None where one is."""
    host, port = _parted(address)
    try:
        with socket.create_connection((host, port), timeout=PROBE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
                return None
            connection.sendall(_HELLO)
            reply = connection.recv(9)
    except TimeoutError:
        return f"nothing for {PROBE_S:g} s"
    except (OSError, UnicodeError) as error:  # a name that cannot be one of a host
        return (getattr(error, "strerror", None) or str(error)).lower()
    return None if reply[3:4] == bytes([_SETTINGS]) else "something else is there"


def _parted(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon:
        host, port = address, str(PORT)
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UserError(f"workers.address: {address!r} is neither HOST:PORT nor auto")
    return host.strip("[]"), int(port)


def _refused(head: str, error: Exception) -> str:
    """The sentence for a cluster that answers and cannot be joined."""
    import ray

    told = " ".join(str(error.__cause__ or error).split())
    if isinstance(error, ray.exceptions.AuthenticationError):
        return (
            f"workers.address: the Ray cluster at {head} wants a token; set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN or ~/.ray/auth_token to that of its head"
        )
    if "ersion mismatch" in told:
        here = f"Ray {ray.__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}"
        return (
            f"workers.address: the Ray cluster at {head} has other versions than this process "
            f"({here}): {told}"
        )
    return f"workers.address: the Ray cluster at {head} cannot be joined: {told[:300]}"
