"""Kinds of requests: what clients of all sorts send, and what has to come back."""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KINDS", "Clients", "fixed_requests"]

#: Requests whose answers are known: each is asked alone at first.
_FIXED = 12


@dataclass
class Clients:
    """What all clients share.

    Attributes
    ----------
    port : int
        Of the server, on the loopback.
    expected : list of str
        The answers to the fixed requests, each alone.
    sent : Counter of str
        Requests by kind.
    problems : list of str
        What should not have happened.
    """

    port: int
    expected: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def post(self, path: str, body: Any) -> tuple[int, bytes]:
        """Send a request; return the status and the body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str, method: str = "GET") -> str:
        """Return a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def check(self, condition: bool, what: str) -> None:
        """Note a problem unless the condition holds."""
        if not condition and len(self.problems) < 100:
            self.problems.append(what)

    def fixed(self, number: int) -> str:
        """Return the answer to a fixed request, without what differs between answers: names and times."""
        path, body = fixed_requests()[number]
        status, data = self.post(path, body)
        self.check(status == 200, f"{path}: status {status}: {data[:200]!r}")
        if body.get("stream"):
            chunks = [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]
            return json.dumps([chunk["choices"] for chunk in chunks if chunk.get("choices")])
        value = json.loads(data)
        return json.dumps(value.get("choices", value.get("content")))


def fixed_requests() -> list[tuple[str, dict[str, Any]]]:
    """Return requests whose answers do not depend on what runs beside them."""
    requests: list[tuple[str, dict[str, Any]]] = []
    for seed in range(_FIXED // 4):
        messages = [{"role": "user", "content": f"Who begat number {seed}, and when, and where?"}]
        chat = {"messages": messages, "max_tokens": 24, "seed": seed}
        requests += [
            ("/v1/chat/completions", {**chat, "stream": True}),
            ("/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 2, "n": 2}),
            ("/v1/completions", {"prompt": "In the beginning " * (1 + 20 * seed), "max_tokens": 24, "seed": seed}),
            ("/v1/messages", {"messages": messages, "max_tokens": 24, "temperature": 0}),
        ]
    return requests


def _words(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(("and", "he", "said", "unto", "them", "go", "ye"), k=rng.randrange(1, most)))


def _fixed(clients: Clients, rng: random.Random) -> None:
    number = rng.randrange(len(clients.expected))
    clients.check(clients.fixed(number) == clients.expected[number], f"fixed request {number}: another answer")


def _conversation(clients: Clients, rng: random.Random) -> None:
    """Ask several turns by ``previous_response_id``, and delete them."""
    earlier, names = None, []
    for _ in range(rng.randrange(1, 5)):
        body = {"input": _words(rng, 20), "previous_response_id": earlier, "max_output_tokens": 12}
        status, data = clients.post("/v1/responses", body)
        clients.check(status == 200, f"responses: status {status}: {data[:200]!r}")
        if status != 200:
            break
        earlier = json.loads(data)["id"]
        names.append(earlier)
    for name in names:
        told = json.loads(clients.get(f"/v1/responses/{name}", "DELETE"))
        clients.check(told.get("deleted") is True, f"responses: not deleted: {told}")


def _long_prompt(clients: Clients, rng: random.Random) -> None:
    body = {"prompt": _words(rng, 600), "max_tokens": 4, "prompt_cache_key": str(rng.randrange(50))}
    status, data = clients.post("/v1/completions", body)
    clients.check(status == 200, f"a long prompt: status {status}: {data[:200]!r}")


def _states(clients: Clients, rng: random.Random) -> None:
    name = f"state-{rng.randrange(20)}"
    clients.check(clients.post("/v1/states", {"id": name, "prompt": _words(rng, 30)})[0] == 200, "states: not made")
    status, _ = clients.post("/v1/completions", {"prompt": " and", "state": name, "max_tokens": 4})
    clients.check(status == 200, f"a state: status {status}")


def _others(clients: Clients, rng: random.Random) -> None:
    clients.check(clients.post("/v1/embeddings", {"input": [_words(rng, 20)]})[0] == 200, "embeddings")
    clients.check(clients.post("/tokenize", {"prompt": _words(rng, 20)})[0] == 200, "tokenize")
    question = {"type": "predicate", "instructions": _words(rng, 5)}
    clients.check(
        clients.post("/v1/decisions", {"input": _words(rng, 20), "questions": [question]})[0] == 200, "decisions"
    )


def _json(clients: Clients, rng: random.Random) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    body = {"messages": [{"role": "user", "content": _words(rng, 9)}], "response_format": form, "max_tokens": 20}
    status, data = clients.post("/v1/chat/completions", body)
    clients.check(status in (200, 501), f"a grammar: status {status}")
    if status == 200:
        content = json.loads(data)["choices"][0]["message"]["content"]
        clients.check(content in ('"yes"', '"no"'), f"a grammar: {content!r}")


_BAD: tuple[tuple[str, Any], ...] = (
    ("/v1/chat/completions", b"{"),
    ("/v1/chat/completions", b"\xff" * 1000),
    ("/v1/chat/completions", b"[" * 10_000),
    ("/v1/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}),
    ("/v1/completions", {"prompt": [10**9]}),
    ("/v1/completions", {"prompt": "a", "temperature": "hot"}),
    ("/v1/responses", {"input": []}),
    ("/v1/messages", {"max_tokens": 0, "messages": []}),
    ("/v1/nothing", {}),
    ("/v1/models", {}),
)


def _bad(clients: Clients, rng: random.Random) -> None:
    path, body = rng.choice(_BAD)
    status, data = clients.post(path, body)
    clients.check(400 <= status < 500 and "error" in json.loads(data), f"{path}: {str(body)[:60]}: status {status}")


def _leaves(clients: Clients, rng: random.Random) -> None:
    """Leave at some moment of a request: while it is sent, queued, read or answered."""
    body = json.dumps({"prompt": _words(rng, 300), "max_tokens": 2000, "stream": rng.random() < 0.7}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", clients.port), timeout=60) as connection:
        connection.sendall((head + body)[: rng.choice((len(head) + len(body), len(head) + 10, 20))])
        connection.settimeout(rng.random() / 2)
        try:
            while connection.recv(4096) and rng.random() < 0.9:
                pass
        except TimeoutError:
            pass


#: Kinds of requests, with their weights.
KINDS: dict[str, tuple[Callable[[Clients, random.Random], None], int]] = {
    "known answer": (_fixed, 10),
    "conversation": (_conversation, 3),
    "long prompt": (_long_prompt, 2),
    "state": (_states, 1),
    "embedding, decision, tokens": (_others, 1),
    "grammar": (_json, 2),
    "wrong": (_bad, 3),
    "client leaves": (_leaves, 3),
}
