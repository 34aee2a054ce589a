"""The routes of the server."""

import asyncio
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from butwait import __version__
from butwait.records import UserError
from butwait.running.shards import first_of
from butwait.server.figures import Figures
from butwait.server.jobs import ClientGoneError, Jobs
from butwait.server.methods import Chosen, Methods
from butwait.server.stream import Listening, event
from butwait.server.wire import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    Reply,
    Request,
    parsed,
    refusal,
)
from butwait.server.work import Answer, Ask, Refused
from butwait.workers.crew import Crew

logger = logging.getLogger(__name__)

GONE = 499
"""The status, in figures, of a request whose client left."""
DISCARDED = 16 << 20
"""Bytes of a body that is too large which are read and thrown away: a client that is cut off while
it writes does not hear why."""
FINGERPRINT = f"butwait-{__version__}"
NO_RETRY = {"x-should-retry": "false"}
"""For OpenAI's client: asking the same again would take as long."""


class Service:
    """What answers requests.

    Args:
        methods: what may be asked for.
        crew: does the searches.
        jobs: which are under way.
        keys: of whom may ask; none: everybody.
    """

    def __init__(self, methods: Methods, crew: Crew, jobs: Jobs, keys: Sequence[str]) -> None:
        self.methods, self.settings = methods, methods.settings
        self._crew, self.jobs = crew, jobs
        self._keys = [key.encode() for key in keys]
        self._local = methods.recipe.workers.kind == "local"
        self._began = int(time.time())
        self.figures = Figures(jobs, lambda: crew.policy_tokens)

    def allow(self, request: HttpRequest) -> None:
        """Raises ApiError for a client without a key."""
        if not self._keys:  # a page of elsewhere whose name leads here has its own name
            if not is_loopback(_host(request.headers.get("host", ""))):
                raise ApiError(403, "without a key this server is asked by its own address alone")
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        said = given.strip().encode("latin-1", "replace") if kind.lower() == "bearer" else b""
        # All are compared, each in constant time.
        if not sum(hmac.compare_digest(said, key) for key in self._keys):
            told = "the key is not one of this server's; send it as Authorization: Bearer KEY"
            headers = {"WWW-Authenticate": "Bearer"} | CLOSED
            raise ApiError(401, told, "invalid_api_key", headers=headers)

    @property
    def is_alive(self) -> bool:
        """Whether anybody is there to search."""
        health = self._crew.health
        return health is None or health.healthy + health.starting > 0

    def model(self, name: str) -> dict[str, Any]:
        """A model as the list of them has it."""
        return {"id": name, "object": "model", "created": self._began, "owned_by": "butwait"}

    async def answer(self, http: HttpRequest, kind: type[Request]) -> Response:
        """The answer to a request for a completion. Raises ApiError for one that is not let in."""
        self.allow(http)
        self.jobs.check()
        request = parsed(kind, await self._body(http))
        chosen = self.methods.chosen(request, http.headers)
        searched = {"method": chosen.method, "particles": chosen.paths}
        chat = isinstance(request, ChatRequest)
        reply = Reply(chat, request.model, searched, FINGERPRINT)
        if request.stream:
            return EventStream(self, chosen, reply, with_usage=request.with_usage)
        work = self._answers(Listening(chosen.asks), reply.id)
        answers = await self.jobs.while_heard(http.receive, work)
        return JSONResponse(reply.whole(answers))

    async def _body(self, http: HttpRequest) -> bytes:
        kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            told = "send the body as Content-Type: application/json"
            raise ApiError(415, told, headers=CLOSED)
        if http.headers.get("content-encoding", "identity").lower() != "identity":
            told = "send the body as it is, without a Content-Encoding"
            raise ApiError(415, told, headers=CLOSED)
        most = self.settings.max_body_bytes
        length = http.headers.get("content-length", "")
        too_large = ApiError(
            413, f"a body has {most} bytes at most", "request_too_large", headers=CLOSED
        )
        if length.isascii() and length.isdigit() and int(length[:20]) > most + DISCARDED:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    message = await http.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most + DISCARDED:
                        raise too_large
                    if size <= most:
                        parts.append(part)
                    else:
                        parts.clear()
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ApiError(408, "the body did not come in time", headers=CLOSED) from None
        if size > most:
            raise too_large
        return b"".join(parts)

    async def _answers(self, heard: Listening, name: str) -> list[Answer]:
        """All answers of a request, once there is a place for it."""

        async def one(index: int, ask: Ask) -> None:
            heard.take(index, await self.searched(ask, name))

        async with self.jobs.place(heard.admit):
            try:
                async with asyncio.TaskGroup() as group:
                    for index, ask in enumerate(heard.asks):
                        group.create_task(one(index, ask))
            except BaseExceptionGroup as errors:
                raise first_of(errors) from None
        answers = heard.whole()
        self.figures.used(answers)
        return answers

    async def searched(self, ask: Ask, name: str) -> Answer:
        """One answer. Raises ApiError where there is none."""
        try:
            found = await self._crew.do(ask)
        except UserError as error:
            logger.error("%s: the search could not be finished: %s", name, error)
            told = f"the engine could not go on; the server's log says why, for {name}"
            raise ApiError(502, told, "engine_error") from None
        except Exception:
            logger.exception("%s: a fault of butwait itself", name)
            raise ApiError(500, f"a fault of the server; see its log, for {name}") from None
        if isinstance(found, Refused):
            if found.why == "timeout":
                self.figures.timed_out()
                raise ApiError(504, found.sentence, "timeout", headers=NO_RETRY)
            raise refusal(found, "prompt" if ask.problem.plain else "messages")
        assert isinstance(found, Answer)
        if found.timed_out:
            self.figures.timed_out()
        return found

    async def stream(self, send: Send, chosen: Chosen, reply: Reply, with_usage: bool) -> None:
        """Sends the pieces of a stream. Raises ApiError for one that is not let in, or breaks, and
        ClientGoneError where nobody reads it."""
        heard = Listening(chosen.asks, local=self._local)
        work = asyncio.ensure_future(self._answers(heard, reply.id))
        begun = False
        alive = self.settings.keep_alive_s
        try:
            async for piece in heard.events(work, reply, with_usage=with_usage, keep_alive_s=alive):
                async with asyncio.timeout(self.settings.body_timeout_s):
                    if not begun:
                        begun = True
                        await send(_BEGIN)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            async with asyncio.timeout(self.settings.body_timeout_s):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            raise ClientGoneError from None
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


CLOSED = {"Connection": "close"}
"""What is left of the body is not read."""


_BEGIN: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as it calls itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(header: str) -> str:
    """The host of a header, without its port."""
    bare = re.sub(r":[0-9]*$", "", header.strip())
    return bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare


class EventStream(Response):
    """A response that is a stream of events, until its client leaves."""

    def __init__(self, service: Service, chosen: Chosen, reply: Reply, *, with_usage: bool) -> None:
        super().__init__()
        self._service, self._asked = service, (chosen, reply, with_usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        work = self._service.stream(sent, *self._asked)
        try:
            await self._service.jobs.while_heard(receive, work)
        except ApiError as error:
            if not begun:
                raise
            end = {"body": event(error.body), "more_body": False}
            with suppress(TimeoutError):
                async with asyncio.timeout(self._service.settings.body_timeout_s):
                    await send({"type": "http.response.body", **end})
        except ClientGoneError:
            self._service.figures.cancelled()


def application(service: Service) -> ASGIApp:
    """The routes, with errors as OpenAI has them."""
    app = FastAPI(
        title="butwait",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        if not service.is_alive:
            raise ApiError(503, "no worker is left; start the server again", "no_worker")
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.figures.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models(request: HttpRequest) -> dict[str, Any]:
        service.allow(request)
        return {"object": "list", "data": list(map(service.model, service.methods.models))}

    @app.get("/v1/models/{name:path}", responses=_ERRORS)
    async def model(name: str, request: HttpRequest) -> dict[str, Any]:
        service.allow(request)
        if not service.methods.knows(name):
            told = f"the model {name[:200]!r} is not served here"
            raise ApiError(404, told, "model_not_found", "model")
        return service.model(name)

    def asked(kind: type[Request]) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def answer(request: HttpRequest) -> Response:
            try:
                return await service.answer(request, kind)
            except ClientGoneError:
                service.figures.cancelled()
                return Response(status_code=GONE)

        return answer

    for path, kind in ROUTES.items():
        schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        app.post(
            path,
            responses=_ERRORS,
            openapi_extra={"requestBody": body},
            name=kind.__name__,
            response_class=JSONResponse,
            response_model=None,
        )(asked(kind))

    @app.exception_handler(ApiError)
    async def refused(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(Exception)
    async def fault(request: HttpRequest, error: Exception) -> Response:
        return await refused(request, ApiError(500, "a fault of the server; see its log"))

    @app.exception_handler(HTTPException)
    async def nowhere(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        told = {404: "there is no such address", 405: "this address takes another method"}
        message = told.get(error.status_code, str(error.detail))
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        failed = ApiError(error.status_code, message, code, headers=error.headers)
        return await refused(request, failed)

    written = app.openapi

    def openapi() -> dict[str, Any]:
        document = written()
        template = "#/components/schemas/{model}"
        kinds: Any = [(kind, "validation") for kind in ROUTES.values()]
        _, found = models_json_schema(kinds, ref_template=template)
        document.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
        return document

    app.openapi = openapi
    return Counted(app, service.figures)


ROUTES: dict[str, type[Request]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": told}
    for status, told in {
        400: "What is wrong with the request.",
        401: "No key, or none of this server's.",
        404: "No such model.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        415: "The body is no JSON.",
        429: "Too many requests wait; ask again after Retry-After seconds.",
        502: "The engine failed.",
        503: "The server ends.",
        504: "The search did not end in time.",
    }.items()
}


class Counted:
    """Counts the requests of an application."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, began = 500, time.monotonic()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "other")
            self._figures.answered(route, status, seconds)
            logger.info("%s %s %d %.3f s", scope["method"], route, status, seconds)
