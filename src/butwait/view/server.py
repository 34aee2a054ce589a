"""The server behind ``butwait view``: the page's files and the runs' data, on the loopback alone.

It answers GET and HEAD, reads and never writes. A page of another site cannot read from it: not by
a name that leads here (another ``Host`` is refused), nor by taking its data as a script.
"""

import socketserver
import sys
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from butwait.records import UserError
from butwait.view.folders import UnknownNameError
from butwait.view.library import Library
from butwait.view.script import script

LOOPBACK = "127.0.0.1"
USUAL_PORT = 8642
INDEX = "index.html"
_DATA, _SUFFIX = "data", ".js"

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""Of the page's files, by suffix; others are none of its files."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_OWN_SITE = (None, "none", "same-origin")
"""``Sec-Fetch-Site`` of requests that get data: the page's own, typed ones, old browsers'."""


@cache
def static() -> Path:
    """The folder of the page's files. Raises UserError where it was not built."""
    folder = Path(str(files("butwait.view"))) / "static"
    if not (folder / INDEX).is_file():
        raise UserError(f"the page was not built: {folder} has no {INDEX}; run `make web`")
    return folder.resolve()


def page_files() -> list[Path]:
    """The page's files, within ``static()``."""
    found = (path.relative_to(static()) for path in sorted(static().rglob("*")) if path.is_file())
    return [path for path in found if path.suffix in TYPES]


class ViewServer(ThreadingHTTPServer):
    """Serves a library until it is closed.

    Args:
        library: what is served.
        port: of the loopback; 0 is any free one, None the usual one where it is free.

    Raises UserError where the port is taken.
    """

    daemon_threads = True

    def __init__(self, library: Library, port: int | None = None) -> None:
        self.library = library
        try:
            super().__init__((LOOPBACK, USUAL_PORT if port is None else port), _Handler)
        except OSError as error:
            if port is None:
                super().__init__((LOOPBACK, 0), _Handler)
            else:
                raise UserError(
                    f"port {port} cannot be used ({error.strerror}); give another one, or 0 for "
                    "any that is free"
                ) from error

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{LOOPBACK}:{self.port}/"

    def hosts(self) -> set[str]:
        """What ``Host`` may say."""
        names = {LOOPBACK, "localhost", "[::1]"}
        return {f"{name}:{self.port}" for name in names} | (names if self.port == 80 else set())

    def server_bind(self) -> None:
        # That of http.server asks the resolver for this machine's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "butwait", ""
    timeout = 60

    def do_GET(self) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts()]:
            return self.send_error(HTTPStatus.FORBIDDEN, "this server answers to the loopback only")
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body would be taken for the next request
            return self.send_error(HTTPStatus.BAD_REQUEST, "a request here has no body")
        parts = _segments(self.path)
        if parts is None:
            return self.send_error(HTTPStatus.NOT_FOUND, "nothing is here")
        if parts[0] == _DATA:
            return self._send_data(parts[1:])
        self._send_file(parts)

    def do_HEAD(self) -> None:
        self.do_GET()

    def __getattr__(self, name: str) -> Any:
        # http.server looks for the method of a request's own name.
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def _refuse(self) -> None:
        self.close_connection = True
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered")

    def _send_data(self, parts: list[str]) -> None:
        if self.headers.get("Sec-Fetch-Site") not in _OWN_SITE:
            return self.send_error(HTTPStatus.FORBIDDEN, "data is for the page of this server only")
        name = "/".join(parts)
        try:
            if not name.endswith(_SUFFIX):
                raise UnknownNameError(name)
            name = name.removesuffix(_SUFFIX)
            content = script(name, self.server.library.get(name))
        except UnknownNameError:
            return self.send_error(HTTPStatus.NOT_FOUND, "there is no data of this name")
        self._send(content, TYPES[".js"])

    def _send_file(self, parts: list[str]) -> None:
        path = static().joinpath(*parts).resolve()
        kind = TYPES.get(path.suffix)
        if kind is None or not path.is_relative_to(static()) or not path.is_file():
            return self.send_error(HTTPStatus.NOT_FOUND, "nothing is here")
        self._send(path.read_bytes(), kind)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """In a line of text, with the headers of all answers."""
        status = HTTPStatus(code)
        self.close_connection = self.close_connection or status == HTTPStatus.BAD_REQUEST
        self._send(f"{message or status.phrase}\n".encode(), TYPES[".txt"], status)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told."""


def _segments(target: str) -> list[str] | None:
    """The parts of a request's path, decoded; those of the page for the root. None for what can
    name no file and no data."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        return None
    if path == "/":
        return [INDEX]
    try:
        parts = [unquote(part, errors="strict") for part in path[1:].split("/")]
    except UnicodeDecodeError:
        return None
    bad = any(part in ("", ".", "..") or set(part) & set("/\\\0") for part in parts)
    return None if bad else parts
