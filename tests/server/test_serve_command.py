"""``butwait serve`` on the command line: what it refuses before it loads a model."""

import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from butwait.records import UserError
from butwait.server.methods import Methods
from butwait.server.serve import _job
from butwait.server.settings import ServeSettings
from butwait.server.wire import ChatRequest


def refused(command, *words: str) -> str:
    code, out, err = command("serve", *words)
    assert code == 2
    assert out == ""
    assert err.startswith("butwait: ")
    assert err.count("\n") == 1
    return err


def test_a_port_that_is_taken(command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        err = refused(command, "--port", str(port))
    assert f"127.0.0.1:{port} cannot be had (Address already in use)" in err
    assert "--port" in err


def test_keys_and_hosts(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    assert "NO_KEY: the environment variable is not set" in refused(
        command, "--api-key-env", "NO_KEY"
    )
    monkeypatch.setenv("NO_KEY", "one,,two")
    assert "holds an empty key" in refused(command, "--api-key-env", "NO_KEY")
    monkeypatch.setenv("NO_KEY", "zwölf")
    assert "printable ASCII" in refused(command, "--api-key-env", "NO_KEY")
    for host in ("0.0.0.0", "::"):
        assert "there is no key" in refused(command, "--host", host)


def test_models_methods_and_settings_that_are_none(command, own_folder: Path) -> None:
    assert "no method 'partikel'" in refused(command, "--method", "partikel")
    assert "beams (3)" in refused(command, "--method", "beam_search", "--particles", "3")
    nothing = refused(command, "--model", str(own_folder / "nothing"), "--port", "0")
    assert "nothing" in nothing
    file = own_folder / "serve.yaml"
    for content, told in {
        "port: 1": "port",
        "particles: many": "particles",
        "[1]": "holds no settings",
        "a: [": "no valid YAML",
        "methods: {mine: {kind: particle_filter, particle: 3}}": "particle",
        "methods: {'a@b': best_of_n}": "is no name",
        "methods: {mine: nothing}": "no method 'nothing'",
        "methods: {mine: {kind: best_of_n, aggregation: prod}}": "`methods.mine`: best_of_n would",
        "methods: {mine: {kind: beam_search, beams: 3}}": "`methods.mine`: beams (3)",
        "workers: {kind: somewhere}": "somewhere",
    }.items():
        file.write_text(content)
        assert told in refused(command, "--config", str(file))
    assert "cannot be read" in refused(command, "--config", "none.yaml")


def test_a_package_that_is_missing(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("butwait.running.packages.find_spec", lambda name: None)
    err = refused(command)
    assert "pip install 'butwait[serve]'" in err


@pytest.mark.parametrize("place", ["method", "methods.mine"])
def test_methods_beyond_the_servers_limits(place: str) -> None:
    def methods(sampler: dict[str, Any], **settings: Any) -> Methods:
        mine = {"method": sampler} if place == "method" else {"methods": {"mine": sampler}}
        return Methods(ServeSettings(**mine, **settings))

    many = {"kind": "self_consistency", "samples": 1024}
    long = {"kind": "self_consistency", "step": {"max_tokens": 8000}}
    for sampler, settings, told in (
        (many, {}, "has 1024 paths, and max_paths is 512"),
        (long, {"max_tokens": 2048}, "has 8000 tokens a path, and max_tokens is 2048"),
    ):
        with pytest.raises(UserError) as error:
            methods(sampler, **settings)
        assert str(error.value) == (
            f"butwait serve: `{place}` {told}; make one of them fit the other"
        )
    assert methods(many, max_paths=1024).max_tokens == 2048
    assert methods(long).max_tokens == 8000
    assert methods(long, max_tokens=9000).max_tokens == 9000


def test_a_methods_own_tokens_are_those_of_its_paths() -> None:
    def most(model: str, given: int | None = None, **settings: Any) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "?"}], "max_tokens": given}
        chosen = Methods(ServeSettings(**settings)).chosen(ChatRequest.model_validate(body), {})
        return chosen.asks[0].sampler.step.max_tokens

    long = {"kind": "self_consistency", "step": {"max_tokens": 8000}}
    assert most("tiny", method=long) == 8000
    assert most("tiny", step={"max_tokens": 8000}) == 8000
    assert most("tiny@mine", methods={"mine": long}) == 8000
    assert most("tiny", 7000, methods={"mine": long}) == 7000
    # What no owner said gives way to the limit.
    plain = {"kind": "self_consistency", "step": {"delimiters": ["\n"]}}
    assert most("tiny", method=plain, max_tokens=1024) == 1024
    assert most("tiny", max_tokens=32) == 32
    assert most("tiny@mine", methods={"mine": long}, max_tokens=8000) == 8000
    job = _job(Methods(ServeSettings(method=long, max_prompt_tokens=100)))
    assert job.engine.capacity == 8100
