"""Requests of strangers: each gets an error object, and the server goes on."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.settings import Limits, Settings
from server.running import NAME, Client, running, until

CHAT = "/v1/chat/completions"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 2, **fields}


WRONG = [
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    (chat(temperature="hot"), "temperature"),
    (chat(temperature=-0.1), "temperature"),
    (chat(top_p=2), "top_p"),
    (chat(n=0), "n"),
    (chat(n=129), "n"),
    (chat(n=10**30), "n"),
    (chat(seed=1.5), "seed"),
    (chat(max_tokens=-1), "max_tokens"),
    (chat(stop=["a"] * 17), "stop"),
    (chat(stop=""), "stop"),
    (chat(stop="x" * 1001), "stop"),
    (chat(logit_bias={"9999": 1}), "logit_bias"),
    (chat(logit_bias={"x": 1}), "logit_bias"),
    (chat(logit_bias={"1": 1e300}), "logit_bias"),
    (chat(top_logprobs=2), "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (chat(tools=[{"type": "web_search"}]), "tools[0].type"),
    (chat(tools=[{"type": "function", "function": {"name": ""}}]), "tools[0].function.name"),
    (chat(tool_choice="maybe"), "tool_choice"),
    (chat(tool_choice="required"), "tool_choice"),
    (chat(tool_choice={"type": "function"}), "tool_choice"),
    (chat(reasoning_effort="extreme"), "reasoning_effort"),
    (chat(response_format={"type": "yaml"}), "response_format.type"),
    (chat(response_format={"type": "json_schema", "json_schema": {"x": "y" * 70_000}}), "response_format"),
    (chat(stream_options=3), "stream_options"),
    (chat(state="none"), "state"),
    ([], None),
    (3, None),
    (None, None),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[json.dumps(body)[:60] for body, _ in WRONG])
def test_a_wrong_request_is_told_its_field(client: Client, body: Any, param: str | None) -> None:
    answer = client("POST", CHAT, json.dumps(body).encode())
    assert answer.status in (400, 404)
    assert answer.headers["content-type"] == "application/json"
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"tools": [{"type": "function", "function": {"name": "f", "parameters": '
        + b'{"a":' * 100_000
        + b"1"
        + b"}" * 100_000
        + b"}}]}",
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    ],
    ids=range(9),
)
def test_what_is_not_json(client: Client, data: bytes) -> None:
    answer = client("POST", CHAT, data)
    assert answer.status == 400
    assert len(answer.error["message"]) < 500


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": []}),
        ("/v1/completions", {"prompt": [[]]}),
        ("/v1/completions", {"prompt": [1.5]}),
        ("/v1/completions", {"prompt": [[1, True]]}),
        ("/v1/completions", {"prompt": [256]}),
        ("/v1/completions", {"prompt": [-1]}),
        ("/v1/completions", {"prompt": ["a", 1]}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/completions", {"prompt": ["a"] * 129}),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/v1/completions", {"prompt": "a", "n": 2, "best_of": 1}),
        ("/v1/completions", {"prompt": "a", "best_of": 2, "stream": True}),
        ("/v1/completions", {"prompt": "a", "logprobs": 101}),
        ("/v1/embeddings", {"input": []}),
        ("/v1/embeddings", {"input": ""}),
        ("/v1/embeddings", {"input": [""]}),
        ("/v1/embeddings", {"input": [3.5]}),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}),
        ("/v1/embeddings", {"input": "a", "pooling": "max"}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}),
        ("/v1/responses", {"input": []}),
        ("/v1/responses", {"input": [{"type": "computer_call"}]}),
        ("/v1/responses", {"input": [{"role": "robot", "content": "x"}]}),
        ("/v1/responses", {"input": "a", "background": True}),
        ("/v1/responses", {"input": "a", "tools": [{"type": "web_search"}]}),
        ("/v1/responses", {"input": "a", "reasoning": {"effort": "extreme"}}),
        ("/v1/responses", {"input": "a", "text": {"format": {"type": "yaml"}}}),
        ("/v1/messages", {"messages": HELLO}),
        ("/v1/messages", {"messages": [], "max_tokens": 1}),
        ("/v1/messages", {"messages": [{"role": "system", "content": "x"}], "max_tokens": 1}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 1, "tool_choice": {"type": "any"}}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 1, "tool_choice": {"type": "x"}}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 1}),
        ("/v1/decisions", {"input": "a", "questions": []}),
        ("/v1/decisions", {"input": "a", "questions": [{"type": "guess", "instructions": "x"}]}),
        ("/v1/decisions", {"input": "a", "questions": [{"type": "choice", "instructions": "x"}]}),
        (
            "/v1/decisions",
            {
                "input": "a",
                "questions": [{"type": "choice", "instructions": "x", "choices": [{"value": "a"}, {"value": "a"}]}],
            },
        ),
        ("/tokenize", {}),
        ("/tokenize", {"prompt": 3}),
        ("/detokenize", {"tokens": [256]}),
        ("/detokenize", {"tokens": "x"}),
    ],
)
def test_other_wrong_requests(client: Client, path: str, body: Any) -> None:
    answer = client.post(path, body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/responses/none", 404),
        ("GET", "/v1/states/none", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("GET", "/v1/../metrics", 404),
        ("PUT", CHAT, 405),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("OPTIONS", CHAT, 405),
    ],
)
def test_paths_and_methods(client: Client, method: str, path: str, status: int) -> None:
    answer = client(method, path)
    assert answer.status == status
    assert answer.error["message"]


def raw(client: Client, data: bytes) -> bytes:
    """Send bytes, and return all that comes back."""
    with socket.create_connection((client.host, client.port), timeout=300) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize("data", [b"\x00" * 100, b"GET /\x01 HTTP/1.1\r\n\r\n", b"x" * 100_000, b"POST / HTTP/1.1\r\n"])
def test_what_is_not_http(client: Client, data: bytes) -> None:
    try:
        received = raw(client, data)
    except ConnectionError:
        received = b""
    assert received == b"" or b" 400 " in received.split(b"\r\n")[0]
    assert client.get("/health").status == 200


def test_a_body_that_is_too_long(kjv: LanguageModel) -> None:
    limits = Limits(body_bytes=1000)
    with running(kjv, Settings(NAME, limits=limits)) as client:
        stated = client("POST", CHAT, b" " * 1001)
        assert (stated.status, stated.error["code"]) == (413, "body_too_large")
        chunk = b"100\r\n" + b" " * 256 + b"\r\n"
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        assert raw(client, head + chunk * 5).startswith(b"HTTP/1.1 413 ")
        assert client.post(CHAT, chat()).status == 200


def test_a_body_that_does_not_come(kjv: LanguageModel) -> None:
    limits = Limits(body_seconds=0.2)
    with (
        running(kjv, Settings(NAME, limits=limits)) as client,
        socket.create_connection((client.host, client.port), timeout=300) as connection,
    ):
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long(kjv: LanguageModel, stream: bool) -> None:
    limits = Limits(request_seconds=0.3, max_tokens=10**7)
    with running(kjv, Settings(NAME, limits=limits)) as client:
        answer = client.post("/v1/completions", {"prompt": "a", "max_tokens": 10**7, "stream": stream})
        if stream:
            last = answer.data.split(b"\n\n")[-2]
            assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "timeout"
            assert b"[DONE]" not in answer.data
        else:
            assert (answer.status, answer.error["code"]) == (504, "timeout")
        until(lambda: client.service.engine.engine.idle)


def test_a_prompt_that_is_too_long(kjv: LanguageModel) -> None:
    with running(kjv, Settings(NAME, limits=Limits(prompt_tokens=50))) as client:
        long = [{"role": "user", "content": "x" * 100}]
        assert client.post(CHAT, {"messages": long}).error["code"] == "context_length_exceeded"
        assert client.post("/v1/embeddings", {"input": "x" * 51}).error["code"] == "context_length_exceeded"
        assert client.post("/v1/completions", {"prompt": [97] * 51}).error["code"] == "context_length_exceeded"


def test_no_text_is_in_the_log(client: Client) -> None:
    secret = "xyzzy-secret"
    hidden = {"messages": [{"role": "user", "content": secret}], "max_tokens": 2}
    client.post(CHAT, hidden, authorization="Bearer k-123")
    client.post(CHAT, {"messages": [{"role": secret, "content": secret}]})
    client.get(f"/{secret}?q={secret}")
    logged = client.log.getvalue()
    assert secret not in logged
    assert "k-123" not in logged
    until(lambda: client.logged()[-1]["status"] == 404)


def test_request_ids(client: Client) -> None:
    assert client.get("/health", x_request_id="mine-1").headers["x-request-id"] == "mine-1"
    other = client.get("/health", x_request_id="a b\u00e9").headers["x-request-id"]
    assert other.startswith("req_")
    until(lambda: any(line["id"] == "mine-1" for line in client.logged()))
