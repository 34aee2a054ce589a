"""Runs the server: models are loaded, a socket is opened, signals end it."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from butwait.engines.settings import ModelEngineSettings
from butwait.records import Problem, UserError
from butwait.running.log import RESULT, conceal, say
from butwait.search.settings import in_flight
from butwait.server.app import Service, application, is_loopback
from butwait.server.jobs import Jobs
from butwait.server.methods import STAGE, Methods
from butwait.server.settings import ServeSettings
from butwait.server.wire import ApiError
from butwait.server.work import Answering
from butwait.workers.crew import at_work
from butwait.workers.job import Job

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(settings: ServeSettings, host: str, port: int, key_env: str | None) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Raises UserError for a model that cannot be loaded, an address that cannot be had, a key that is
    not there, and a host beyond this machine without a key.
    """
    keys = _keys(key_env)
    if not keys and not is_loopback(host):
        raise UserError(
            f"--host {host} is open to other machines, and there is no key: name the environment "
            "variable that holds it (--api-key-env), or leave --host out"
        )
    methods = Methods(settings)
    with _opened(host, port) as listener:
        asyncio.run(_serve(methods, listener, keys))


async def _serve(methods: Methods, listener: socket.socket, keys: Sequence[str]) -> None:
    recipe, settings = methods.recipe, methods.settings
    jobs = Jobs(settings.concurrency, settings.queue)
    async with at_work(_job(methods), recipe.workers) as crew:
        await crew.do(None)  # a worker elsewhere is ready, or cannot be
        app = application(Service(methods, crew, jobs, keys))
        config = uvicorn.Config(
            app,
            http=type("_Patient", (_Connection,), {"patience_s": settings.body_timeout_s}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(settings.drain_s) + 5,  # for those who read nothing
        )
        server = _Server(config, jobs, settings.drain_s, methods.told)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, server.stop)
        try:
            await server.serve([listener])
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


class _Connection(H11Protocol):
    """One that is closed where no request comes in time, and whose errors are of OpenAI's form."""

    patience_s = 30.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(self.patience_s, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waits and self._late.when() <= self.loop.time():
            self._late = self.loop.call_later(self.patience_s, self._close)

    @property
    def _waits(self) -> bool:
        """Whether half a request, or nothing yet, has come."""
        if self.cycle is None:
            return True
        return bool(self.cycle.response_complete and self.conn.trailing_data[0])

    def _close(self) -> None:
        if self._waits:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        body = json.dumps(ApiError(400, msg).body).encode()
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """Says where it is when it is ready, and drains when it is told to stop."""

    def __init__(self, config: uvicorn.Config, jobs: Jobs, drain_s: float, told: str) -> None:
        super().__init__(config)
        self._jobs, self._drain_s, self._told = jobs, drain_s, told
        self._draining: asyncio.Task[None] | None = None
        self.should_exit: bool = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the loop's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        try:
            await super().startup(sockets)
        except OSError as error:  # another one was faster
            raise UserError(_taken(_address(sockets[0]), error)) from error
        say(f"{_address(sockets[0])}/v1 serves {self._told}; Ctrl-C ends it", RESULT)

    def stop(self) -> None:
        """Once: lets requests come to their ends. Again: at once."""
        if self.should_exit:
            self._drain_s, self.force_exit = 0.0, True
        self.should_exit = self._jobs.draining = True
        self._draining = asyncio.ensure_future(self._jobs.drain(self._drain_s))


def _job(methods: Methods) -> Job:
    """What a worker opens."""
    recipe, settings = methods.recipe, methods.settings
    stage: Any = recipe.stages[STAGE]
    engine = recipe.engine
    if isinstance(engine, ModelEngineSettings) and engine.capacity is None:
        # The engine has less where the model's context is shorter.
        capacity = settings.max_prompt_tokens + methods.max_tokens
        engine = engine.model_copy(update={"capacity": capacity})
    paths = in_flight(stage.sampler, [_NOBODY] * settings.concurrency, stage, engine)
    return Job(
        work=Answering(),
        engine=engine,
        model=recipe.model,
        prompt=recipe.prompt,
        reward_model=stage.reward_model,
        problems=[],
        rules=[stage.sampler.step],
        paths=paths,
        concurrency=settings.concurrency,
    )


_NOBODY = Problem("", "", None)


def _keys(name: str | None) -> list[str]:
    """The keys of an environment variable: one, or several with commas in between."""
    if name is None:
        return []
    keys = [key.strip() for key in os.environ.get(name, "").split(",")]
    if not all(keys):
        empty = "is not set" if name not in os.environ else "holds an empty key"
        raise UserError(f"--api-key-env {name}: the environment variable {empty}")
    for key in keys:
        if not key.isascii() or not key.isprintable():
            raise UserError(f"--api-key-env {name}: a key is of printable ASCII characters")
        conceal(key)
    return keys


@contextmanager
def _opened(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at this address, which does not listen yet. UserError where it cannot be had."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(f"--host {host!r} is no address of this machine ({error})") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
        except OSError as error:
            raise UserError(_taken(f"{host}:{port}", error)) from error
        yield listener


def _taken(place: str, error: OSError) -> str:
    told = f"{place} cannot be had ({error.strerror})"
    return f"{told}: give another --port, or 0 for a free one"


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
