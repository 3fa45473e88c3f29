"""Who may use a server: names in the Host header, API keys, origins of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.errors import ApiError
from rwkv_cy.server.security import LOCAL_HOSTS, check_host, is_loopback, parse_keys
from rwkv_cy.server.settings import Settings
from server.running import NAME, Client, running

KEYS = ("first-key-1", "second-key-2")


@pytest.fixture(scope="module")
def guarded(kjv: LanguageModel) -> Iterator[Client]:
    """Return a client of a server as the command starts it: on the loopback, here with keys and one origin."""
    with running(kjv, Settings(NAME, keys=KEYS, hosts=LOCAL_HOSTS, origins=("http://app.example",))) as client:
        yield client


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST", "127.0.0.1:1", "[::1]", "[::1]:80", "a.localhost", "localhost."],
)
def test_local_names(guarded: Client, host: str) -> None:
    assert guarded.get("/health", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "localhost@evil.example",
        "evil.example#localhost",
        "0.0.0.0",
        "10.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::1",
        "",
    ],
)
def test_a_page_whose_name_is_bound_to_this_machine(guarded: Client, host: str) -> None:
    answer = guarded.get("/v1/models", host=host, authorization=f"Bearer {KEYS[0]}")
    assert answer.status == 403
    assert answer.error["code"] == "host_not_allowed"


def test_a_request_without_a_host() -> None:
    with pytest.raises(ApiError, match="host: expected one of localhost"):
        check_host(None, LOCAL_HOSTS)
    check_host(None, None)


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {key}"} for key in KEYS]
    + [{"authorization": f"bearer {KEYS[0]}"}, {"x_api_key": KEYS[1]}],
)
def test_a_key(guarded: Client, headers: dict[str, str]) -> None:
    assert guarded.get("/v1/models", **headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEYS[0]}"},
        {"authorization": KEYS[0]},
        {"authorization": f"Bearer {KEYS[0]}x"},
        {"x_api_key": "first"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nothing"])
def test_a_wrong_key(guarded: Client, path: str, headers: dict[str, str]) -> None:
    answer = guarded.get(path, **headers)
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert "key" in answer.error["message"]
    assert KEYS[0] not in answer.error["message"]


def test_health_and_the_page_need_no_key(guarded: Client) -> None:
    assert guarded.get("/health").json == {"status": "ok"}
    assert guarded.get("/ready").json["status"] == "ready"
    page = guarded.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_origins(guarded: Client, client: Client) -> None:
    allowed = guarded.get("/health", origin="http://app.example")
    assert allowed.headers["access-control-allow-origin"] == "http://app.example"
    preflight = guarded("OPTIONS", "/v1/chat/completions", origin="http://app.example")
    assert (preflight.status, preflight.headers["access-control-allow-methods"]) == (204, "GET, POST, DELETE, OPTIONS")
    for server in (guarded, client):
        for origin in ("http://evil.example", "null", "http://app.example.evil"):
            answer = server("OPTIONS", "/v1/chat/completions", origin=origin)
            assert not any(name.startswith("access-control") for name in answer.headers)
    assert not any(name.startswith("access-control") for name in client.get("/health", origin="http://x").headers)


def test_every_origin(kjv: LanguageModel) -> None:
    with running(kjv, Settings(NAME, origins=("*",))) as client:
        headers = client.get("/health", origin="http://x.example").headers
        assert headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.9.1", True), ("0.0.0.0", False), ("x.y", False)],
)
def test_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_keys_of_a_file() -> None:
    assert parse_keys("# mine\nabcdefgh\n\n  ijklmnop \n", "f") == ("abcdefgh", "ijklmnop")
    for text, problem in [
        ("", "at least one API key"),
        ("# x", "at least one"),
        ("short", "key 1"),
        ("a b c d e f", "key 1"),
    ]:
        with pytest.raises(ConfigError, match=f"f: .*{problem}"):
            parse_keys(text, "f")
    with pytest.raises(ConfigError, match="key 2"):
        parse_keys("abcdefgh\nabcdefgé\n", "f")
