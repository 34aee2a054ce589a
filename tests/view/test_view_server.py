"""The server of `butwait view`: what it answers, what it refuses, and that it changes nothing."""

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from butwait.cli import view as command_of_view
from butwait.view import export as exporting
from butwait.view import server as serving
from butwait.view.library import Library, everything
from butwait.view.server import ViewServer

Answer = tuple[int, dict[str, str], bytes]
Run = Callable[..., tuple[int, str, str]]
PAGE = {"index.html": "<!doctype html><script src=app.js></script>", "app.js": "1", "x.py": "no"}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of this test's own, with a secret beside it."""
    folder = tmp_path / "static"
    folder.mkdir()
    for name, text in PAGE.items():
        (folder / name).write_text(text)
    (tmp_path / "secret.js").write_text("secret")
    (folder / "link.js").symlink_to(tmp_path / "secret.js")
    for module in (serving, exporting, command_of_view):
        monkeypatch.setattr(module, "static", lambda: folder.resolve())
    return folder


@pytest.fixture
def served(seen_run: Path, page: Path) -> Iterator[ViewServer]:
    library = Library(lambda: [seen_run], live=True)
    with ViewServer(library, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: ViewServer, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_and_its_data(served: ViewServer) -> None:
    status, headers, body = ask(served, "/")
    assert (status, body.decode()) == (200, PAGE["index.html"])
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(served, "/app.js?7")[2] == b"1"
    status, headers, body = ask(served, "/data/trees/0/hunt.js?1")
    assert status == 200
    assert body.startswith(b'butwait.receive("trees/0/hunt",{')
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert b"has no stage 'x y'" in ask(served, "/data/trees/0/x%20y.js")[2]


def test_every_answer_forbids_what_a_page_must_not_do(served: ViewServer) -> None:
    for path in ("/", "/app.js", "/data/runs.js", "/nothing"):
        headers = ask(served, path)[1]
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "localhost:1", "evil.example:{port}", "127.0.0.1.x:{port}", ""],
)
def test_names_that_lead_here_are_refused(served: ViewServer, host: str) -> None:
    told = {"Host": host.format(port=served.port)}
    assert ask(served, "/data/runs.js", headers=told)[0] == 403
    assert ask(served, "/", headers=told)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}"])
def test_own_names_are_answered(served: ViewServer, host: str) -> None:
    told = {"Host": host.format(port=served.port)}
    assert ask(served, "/data/runs.js", headers=told)[0] == 200


def test_a_request_without_a_host_or_with_two_is_refused(served: ViewServer) -> None:
    for hosts in ("", f"Host: 127.0.0.1:{served.port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", served.port)) as raw:
            raw.sendall(f"GET /data/runs.js HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_cannot_take_data_as_a_script(served: ViewServer, site: str) -> None:
    told = {"Sec-Fetch-Site": site}
    assert ask(served, "/data/runs.js", headers=told)[0] == 403
    assert ask(served, "/", headers=told)[0] == 200  # a link to the page


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_only_reading_is_answered(served: ViewServer, method: str) -> None:
    status, headers, _ = ask(served, "/data/runs.js", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_head_is_the_answer_without_its_body(served: ViewServer) -> None:
    status, headers, body = ask(served, "/data/trees/0/hunt.js", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == len(ask(served, "/data/trees/0/hunt.js")[2])


@pytest.mark.parametrize(
    "path",
    [
        *("/../secret.js", "/%2e%2e/secret.js", "/..%2fsecret.js", "//etc/passwd", "/link.js"),
        *("/x.py", "/.", "/data", "/data/", "/data/runs", "/data/../app.js", "/%00.js", "/%ff.js"),
        *("/data/trees/0/..%2f..%2fhunt.js", "/data/trees/9/hunt.js", "/..\\secret.js", "*"),
        *("/data/trees/0/%2e%2e.js/", "/data/tree/0/hunt/../../1.js", "http://evil.example/"),
    ],
)
def test_nothing_else_is_here(served: ViewServer, path: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        host = f"Host: 127.0.0.1:{served.port}"
        raw.sendall(f"GET {path} HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := raw.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"secret" not in answer


def fingerprint(folder: Path) -> dict[str, tuple[float, str]]:
    return {
        str(path): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


def test_looking_changes_nothing_and_needs_no_right_to_write(
    seen_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(seen_run, tmp_path / "run"))
    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    for path in run.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    run.chmod(0o555)
    before = fingerprint(run)
    for _ in range(2):
        found = dict(everything(Library(lambda: [run], live=True)))
        assert not [name for name, content in found.items() if "error" in content]
    assert fingerprint(run) == before
    for folder in folders:
        folder.chmod(0o755)


def test_an_export_holds_what_the_server_sends(
    seen_run: Path, served: ViewServer, command: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second replaces the first
        code, said, _ = command("view", str(seen_run), "--export", str(out))
        assert (code, said.split(":")[0]) == (0, str(out / "index.html"))
    assert (out / "index.html").read_text() == PAGE["index.html"]
    assert not (out / "x.py").exists()
    written = {path.relative_to(out).as_posix() for path in (out / "data").rglob("*.js")}
    assert len(written) == int(said.split(": ")[1].split()[0])
    written.remove("data/runs.js")  # it says that it is not live
    for name in written:
        assert (out / name).read_bytes() == ask(served, f"/{name}")[2], name
    assert b'"live":false' in (out / "data" / "runs.js").read_bytes()


def test_an_export_replaces_nothing_else(seen_run: Path, command: Run, page: Path) -> None:
    mine = page.parent / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("mine")
    for target, why in (
        (mine, "holds something else than an earlier export"),
        (seen_run / "out", "lie in each other"),
        (seen_run.parent, "lie in each other"),
        (mine / "index.html", "is a file"),
    ):
        code, _, said = command("view", str(seen_run), "--export", str(target))
        assert (code, why in said, said.count("\n")) == (2, True, 1)
    assert (mine / "index.html").read_text() == "mine"


def test_what_is_no_run_is_told_in_a_sentence(own_folder: Path, command: Run, page: Path) -> None:
    (own_folder / "empty").mkdir()
    for words, why in (
        (["empty"], "empty is no run: it holds no stage"),
        ([], "there is no run under runs/: give a run's folder"),
        (["missing"], "missing is no run"),
    ):
        assert command("view", *words) == (2, "", command("view", *words)[2])
        assert why in command("view", *words)[2]


def test_a_port_that_is_taken_is_told(seen_run: Path, served: ViewServer, command: Run) -> None:
    code, _, said = command("view", str(seen_run), "--no-browser", "--port", str(served.port))
    assert (code, said.startswith(f"butwait: port {served.port} cannot be used")) == (2, True)


def test_new_runs_are_found_and_numbers_stay(seen_run: Path, tmp_path: Path) -> None:
    runs = [seen_run]
    library = Library(lambda: runs, live=True)
    runs.insert(0, Path(shutil.copytree(seen_run, tmp_path / "second")))
    told = library.get("runs")["runs"]
    assert [(run["id"], run["name"]) for run in told] == [(0, "small run"), (1, "second")]
    assert library.get("run/1")["name"] == "second"


def test_the_page_is_asked_for_where_it_was_not_built(
    seen_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    monkeypatch.setattr(serving, "files", lambda package: tmp_path)
    serving.static.cache_clear()
    code, _, said = command("view", str(seen_run), "--export", str(tmp_path / "out"))
    serving.static.cache_clear()
    assert (code, "the page was not built" in said) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_tells_its_address_and_ends_quietly(seen_run: Path, number: int) -> None:
    words = [sys.executable, "-m", "butwait", "view", str(seen_run), "--no-browser", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[0]
        port = int(address.rstrip("/").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/data/runs.js")
        body = connection.getresponse().read().decode()
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert json.loads(body.partition(",")[2][:-3])["live"] is True
    assert (process.returncode, out, error) == (0, "", "")
