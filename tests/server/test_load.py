"""Many clients at once: a full queue, clients that leave, a graceful end, metrics."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from typing import Any

import pytest

from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.settings import Limits, Settings
from server.running import NAME, Answer, Client, running, until

LONG = 10**6
ENDLESS = Settings(NAME, limits=Limits(max_tokens=LONG))


def opened(client: Client, path: str, body: Any) -> socket.socket:
    """Send a request, and leave the connection open."""
    data = json.dumps(body).encode()
    connection = socket.create_connection((client.host, client.port), timeout=300)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_a_full_queue(kjv: LanguageModel) -> None:
    with running(kjv, ENDLESS, slots=1, queue=1) as client:
        engine = client.service.engine.engine
        body = {"prompt": "a", "max_tokens": LONG}
        first = opened(client, "/v1/completions", body)
        until(lambda: engine.running == 1)
        second = opened(client, "/v1/completions", body)
        until(lambda: engine.waiting == 1)
        for stream in (False, True):
            busy = client.post("/v1/completions", {**body, "stream": stream})
            assert (busy.status, busy.error["code"], busy.error["type"]) == (429, "busy", "rate_limit_error")
            assert busy.headers["retry-after"] == "1"
            assert busy.headers["x-should-retry"] == "true"
        several = client.post("/v1/completions", {**body, "n": 3})
        assert several.status == 400  # which would never fit, however often it is tried
        assert several.error["message"] == "the request has 3 answers, and this server takes at most 2 at once"
        assert client.post("/v1/completions", {**body, "n": 2}).status == 429
        second.close()
        until(lambda: engine.waiting == 0)
        assert engine.running == 1
        first.close()
        until(lambda: engine.idle)
        assert client.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200


def test_a_burst_fills_the_slots_before_the_queue(kjv: LanguageModel) -> None:
    with running(kjv, slots=16, queue=1) as client:
        answer = client.post("/v1/completions", {"prompt": "a", "n": 17, "max_tokens": 2})
        assert answer.status == 200
        assert len(answer.json["choices"]) == 17


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(kjv: LanguageModel, path: str, stream: bool) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"stream": stream, "max_tokens": LONG, "max_output_tokens": LONG, "logit_bias": {"10": -1000}}
    body |= {"prompt": "a"} if path == "/v1/completions" else {"messages": messages, "input": "a"}
    with running(kjv, ENDLESS) as client:
        engine = client.service.engine.engine
        connection = opened(client, path, body)
        until(lambda: engine.running == 1)
        if stream:
            assert b" 200 " in connection.recv(4096)
        connection.close()
        until(lambda: engine.idle)
        until(lambda: client.logged() and client.logged()[-1].get("disconnected"))
        assert b"rwkv_cy_disconnects_total 1.0" in client.get("/metrics").data


def test_clients_that_leave_at_any_moment_disturb_nobody(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    body = {"prompt": "In the beginning", "max_tokens": 60, "seed": 7, "stream": True}
    with running(kjv, slots=4, queue=200) as client:
        gone = watch_cancelled(client, monkeypatch)
        expected = text_of(client.post("/v1/completions", body))
        results: list[str] = []

        def stays() -> None:
            results.append(text_of(client.post("/v1/completions", body)))

        def leaves(seconds: float) -> None:
            connection = opened(client, "/v1/completions", {**body, "max_tokens": 2000})
            time.sleep(seconds)
            connection.close()

        threads = [threading.Thread(target=stays) for _ in range(12)]
        threads += [threading.Thread(target=leaves, args=(rng.random() / 5,)) for _ in range(100)]
        rng.shuffle(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [expected] * 12
        until(lambda: client.service.engine.engine.idle)
        assert len(gone) > 50  # others had their answer, or left before they asked
        assert max(gone.values()) <= 2


def watch_cancelled(client: Client, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how many steps requests stayed in the engine after they were cancelled, by name, as it happens."""
    engine = client.service.engine.engine
    cancel, step = engine.cancel, engine.step
    gone: dict[str, int] = {}

    def cancelled(name: str) -> bool:
        known = cancel(name)
        if known:
            gone[name] = 0
        return known

    def stepped() -> list[Any]:
        events = step()
        for job in (*engine._running, *engine._waiting):
            if job.name in gone:
                gone[job.name] += 1
        return events

    monkeypatch.setattr(engine, "cancel", cancelled)
    monkeypatch.setattr(engine, "step", stepped)
    return gone


def text_of(answer: Answer) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in answer.events)


@pytest.mark.slow
def test_a_thousand_requests_of_many_clients(kjv: LanguageModel) -> None:
    with running(kjv, queue=200) as client:
        expected = [
            client.post("/v1/completions", {"prompt": "And", "max_tokens": 5, "seed": seed}).json["choices"]
            for seed in range(10)
        ]
        wrong: list[Any] = []

        def work() -> None:
            for number in range(16):
                seed = number % 10
                answer = client.post("/v1/completions", {"prompt": "And", "max_tokens": 5, "seed": seed})
                if answer.status != 200 or answer.json["choices"] != expected[seed]:
                    wrong.append(answer)

        threads = [threading.Thread(target=work) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert wrong == []
        until(lambda: len(client.logged()) == 10 + 64 * 16)


def test_a_graceful_end(kjv: LanguageModel) -> None:
    answers: list[Answer] = []
    with running(kjv) as client:
        body = {"prompt": "a", "max_tokens": 300, "stream": True}
        thread = threading.Thread(target=lambda: answers.append(client.post("/v1/completions", body)))
        thread.start()
        until(lambda: client.service.engine.engine.running == 1)
    thread.join(60)
    assert answers[0].events[-1]["choices"][0]["finish_reason"] == "length"
    with pytest.raises(OSError, match="refused"):
        client.get("/health")


def test_metrics(kjv: LanguageModel) -> None:
    with running(kjv) as client:
        client.post("/v1/completions", {"prompt": "abc", "max_tokens": 5})
        client.get("/nothing")
        page = client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = page.data.decode().splitlines()
        for line in (
            'rwkv_cy_requests_total{route="/v1/completions",status="200"} 1.0',
            'rwkv_cy_requests_total{route="unknown",status="404"} 1.0',
            'rwkv_cy_tokens_total{kind="computed"} 3.0',
            'rwkv_cy_tokens_total{kind="generated"} 5.0',
            "gen_ai_server_time_to_first_token_seconds_count 1.0",
            "rwkv_cy_requests_active 1.0",  # this one
        ):
            assert line in lines
        logged = next(line for line in client.logged() if line["route"] == "/v1/completions")
        assert (logged["event"], logged["prompt_tokens"], logged["completion_tokens"]) == ("request", 3, 5)
