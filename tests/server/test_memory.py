"""Memory is flat: after a warm-up, a thousand requests of all kinds leave nothing behind."""

from __future__ import annotations

import gc
import io
import random
import threading
import tracemalloc
from typing import Any

import pytest

from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.logs import Log
from rwkv_cy.server.settings import Limits, Settings
from server.running import NAME, Client, running, until
from server.test_load import opened

CLIENTS, SLOTS = 64, 8
CACHE = 4 << 20
LIMITS = Limits(response_bytes=100_000, state_bytes=200_000, text_bytes=100_000)


class Nowhere(io.TextIOBase):
    """A log that nobody keeps."""

    def write(self, text: str) -> int:
        return len(text)


def request(client: Client, rng: random.Random) -> None:
    """Send a request of a random kind, on a random text."""
    text = "".join(rng.choices("abcdefgh ", k=rng.randrange(1, 80)))
    messages = [{"role": "user", "content": text}]
    more: dict[str, Any] = {"max_tokens": 4, "prompt_cache_key": str(rng.randrange(1000))}
    kind = rng.randrange(9)
    if kind == 0:
        answer = client.post("/v1/responses", {"input": text, "max_output_tokens": 4})
        client.post("/v1/responses", {"input": text, "max_output_tokens": 4, "previous_response_id": answer.json["id"]})
    elif kind == 1:
        connection = opened(client, "/v1/completions", {"prompt": text, "max_tokens": 500, "stream": True})
        if rng.random() < 0.5:
            connection.recv(200)
        connection.close()
    elif kind == 2:
        client.post("/v1/completions", {"prompt": text, "return_state": True, **more})
    elif kind == 3:
        assert client.post("/v1/chat/completions", {"messages": messages, "temperature": -1}).status == 400
        assert client.post("/v1/" + text.replace(" ", ""), {}).status in (404, 405)
    elif kind == 4:
        client.post("/v1/completions", {"prompt": text, "n": 3, "echo": True, "logprobs": 2, **more})
    elif kind == 5:
        client.post("/v1/messages", {"messages": messages, **more})
    elif kind == 6:
        client.post("/v1/embeddings", {"input": text})
    else:
        client.post("/v1/chat/completions", {"messages": messages, "stream": kind == 7, **more})


def requests(client: Client, count: int, seed: int) -> None:
    """Send requests from many clients at once, and wait until the server is idle."""
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        rng = random.Random(1000 * seed + number)
        try:
            for _ in range(count // CLIENTS):
                request(client, rng)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert wrong == []
    until(lambda: client.service.engine.engine.idle)


def held(client: Client) -> int:
    """Return the memory in use once all that the caches and stores may keep is dropped.

    The scratch memory of the kernels is left out: it grows with the largest pass that was ever made.
    """
    service = client.service
    cache = service.engine.engine.cache
    assert cache is not None
    cache.close()
    service.states._values.clear()
    service.responses._values.clear()
    service._encoded._known.clear()
    service._encoded.bytes = 0
    gc.collect()
    kernels = tracemalloc.Filter(inclusive=False, filename_pattern="*/rwkv_cy/model/encoder.py")
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([kernels]).traces)


@pytest.mark.slow
def test_a_thousand_requests_leave_nothing(kjv: LanguageModel) -> None:
    with running(kjv, Settings(NAME, limits=LIMITS), slots=SLOTS, queue=500, cache_bytes=CACHE) as client:
        client.service.log = Log(Nowhere())
        engine = client.service.engine.engine
        tracemalloc.start()
        try:
            requests(client, 8 * CLIENTS, 1)
            before = held(client)
            requests(client, 16 * CLIENTS, 2)
            assert engine.cache is not None
            stats = engine.cache.stats
            grown = held(client) - before
        finally:
            tracemalloc.stop()
        assert sum(stats.evicted.values()) > 100
        assert stats.bytes <= CACHE
        assert (engine.running, engine.waiting, len(engine._arena)) == (0, 0, SLOTS)
        assert not engine._names
        assert not engine._cancelled
        assert not engine._prefixes._of
        assert not client.service.engine._streams
        assert grown < 1 << 17  # an eighth of a KiB for each request
