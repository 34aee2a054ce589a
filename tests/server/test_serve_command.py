"""``butwait serve`` on the command line: what it refuses before it loads a model."""

import socket
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")


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
        "workers: {kind: somewhere}": "somewhere",
    }.items():
        file.write_text(content)
        assert told in refused(command, "--config", str(file))
    assert "cannot be read" in refused(command, "--config", "none.yaml")


def test_a_package_that_is_missing(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("butwait.running.packages.find_spec", lambda name: None)
    err = refused(command)
    assert "pip install 'butwait[serve]'" in err
