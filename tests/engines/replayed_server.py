"""A server that says again what a real one said (``recorded/*.jsonl``, which
``scripts/record_server.py`` wrote)."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
SAYS_WHERE = ("prompt", "messages", "input", "model")
"""What must be in a request for a stream as it was recorded; all else may have changed."""

Exchange = dict[str, Any]


@cache
def recorded(server: str) -> dict[str, list[Exchange]]:
    """The exchanges with a server, by their case."""
    cases: dict[str, list[Exchange]] = {}
    with (RECORDED / f"{server}.jsonl").open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            cases.setdefault(line["case"], []).append(line)
    return cases


def answer(exchanges: list[Exchange], method: str, path: str, body: Any) -> Exchange | None:
    """The exchange of this path and kind whose request is most like this one; what says where to
    go on counts most."""
    body = body or {}
    streamed = bool(body.get("stream"))

    def fits(line: Exchange) -> bool:
        theirs = line["body"] or {}
        same = (line["method"], line["path"], bool(theirs.get("stream")))
        if same != (method, path, streamed):
            return False
        return not streamed or all(theirs.get(k) == body.get(k) for k in SAYS_WHERE)

    def differences(line: Exchange) -> int:
        theirs = line["body"] or {}
        other = [key for key in theirs.keys() | body.keys() if theirs.get(key) != body.get(key)]
        return sum(100 if key in SAYS_WHERE else 1 for key in other)

    return min(filter(fits, exchanges), key=differences, default=None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(
        self, exchanges: list[Exchange], piece: int, once: list[Exchange], *args: Any
    ) -> None:
        self._exchanges, self._piece, self._once = exchanges, piece, once
        super().__init__(*args)

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._say(None)

    def do_POST(self) -> None:
        self._say(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _say(self, body: Any) -> None:
        line = answer(self._once, self.command, self.path, body)
        if line is not None:
            self._once.remove(line)
        else:
            line = answer(self._exchanges, self.command, self.path, body)
        if line is None:
            line = {"status": 418, "headers": {}, "reply": "no such request was recorded"}
        self.send_response(line["status"])
        for name, value in line["headers"].items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        data = line["reply"].encode()
        for begin in range(0, len(data), self._piece):
            part = data[begin : begin + self._piece]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        if line.get("cut"):
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of the protocol."""


@contextmanager
def replaying(
    exchanges: list[Exchange], piece: int = 2**20, once: list[Exchange] | None = None
) -> Iterator[str]:
    """The address of a server, with ``/v1``, that gives the replies of these exchanges in chunks
    of ``piece`` bytes, and before them those of ``once``, each a single time."""
    handler = partial(_Handler, exchanges, piece, [] if once is None else once)
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
