"""Keys, addresses and proxies that are none, or that nobody may see."""

import pytest
from hostile_replies import RULE
from openai_toy import Toy, serving
from test_openai_engine import Run, engine_of, steps, whole

from butwait.records import UserError

pytestmark = pytest.mark.usefixtures("short_pauses")


def key_of(value: str | None, toy: Toy, run: Run, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The header that a key becomes."""
    monkeypatch.delenv("TOY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TOY_KEY", value)
    toy.headers.clear()
    steps(toy, run, whole(2), api_key_env="TOY_KEY")
    [header] = {h.get("Authorization") for h in toy.headers}
    return header


@pytest.mark.parametrize(
    ("value", "header"),
    [
        (None, None),
        ("", None),
        (" \n", None),
        ("sesame\n", "Bearer sesame"),
        ("\t sesame \r\n", "Bearer sesame"),
        ("open sesame", "Bearer open sesame"),
    ],
)
def test_a_key_is_stripped(
    value: str | None, header: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Toy()) as toy:
        assert key_of(value, toy, run, monkeypatch) == header


@pytest.mark.parametrize(
    "value", ["ses\name", "sésame", "sesame\x1b", "ses\r\nX: y", "ses\u2028ame"]
)
def test_a_key_that_no_header_holds_is_one_sentence_without_it(
    value: str, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with serving(Toy()) as toy, pytest.raises(UserError, match="the key in TOY_KEY") as error:
        key_of(value, toy, run, monkeypatch)
    assert value not in str(error.value) + caplog.text
    assert "ses" not in str(error.value)


def test_a_key_that_a_server_tells_back_is_left_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", "sesame")
    for reply in (
        (401, {}, b'{"error": {"message": "wrong key sesame"}}'),
        (403, {}, b"sesame may not"),
        (400, {}, b"sesame\x1b[31m is wrong"),
        (302, {"Location": "/login?key=sesame"}, b""),
        (500, {}, b"sesame"),
        (200, {}, b'{"error": "sesame"}'),
        (200, {}, b"sesame"),
    ):
        with serving(Toy(verbatim=[reply] * 3)) as toy:
            with pytest.raises(UserError, match=r"\*\*\*") as error:
                steps(toy, run, RULE, api_key_env="TOY_KEY")
        assert "sesame" not in str(error.value)
        assert str(error.value).isprintable()


def test_a_password_in_the_address_is_sent_and_not_shown(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(Toy(verbatim=[(400, {}, b"no sesame")])) as toy:
        toy.url = toy.url.replace("//", "//me:sesame@")
        with pytest.raises(UserError, match="refused") as error:
            steps(toy, run, RULE)
        assert {h.get("Authorization") for h in toy.headers} == {"Basic bWU6c2VzYW1l"}
    assert "sesame" not in str(error.value) + caplog.text


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000/v1", "ftp://host/v1", "http://", "http:///v1", "https://me:sesame@"),
        *("http://host:99999/v1", "http://host:x/v1", "http://a..b/v1", "http://me:sesame@:x/"),
        *("http://" + "a" * 64 + ".example/v1", "http://[::1/v1", "", "unix:///socket"),
    ],
)
def test_an_address_that_is_none_is_one_sentence_at_once(url: str) -> None:
    with pytest.raises(UserError, match=r"engine\.base_url: .* is no address") as error:
        engine_of(Toy(url=url))
    assert "sesame" not in str(error.value)


PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    "proxy",
    [
        *("socks://me:sesame@127.0.0.1:1", "socks4://127.0.0.1:1", "ftp://127.0.0.1", "http://:x"),
        *("http://[", "http://127.0.0.1:99999", "http://" + "a" * 64 + ".example:1", "://", "%"),
        *("http://127.0.0.1:1", "socks5://127.0.0.1:1"),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_that_is_none_is_one_sentence(
    proxy: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none at all where the server is exempt from it."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with serving(Toy()) as toy:
        with pytest.raises(UserError, match=r"ALL_PROXY|does not answer") as error:
            steps(toy, run, whole(2), retries=0)
        assert "sesame" not in str(error.value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        _, [step] = steps(toy, run, whole(2))
    assert len(step.token_ids) > 0
