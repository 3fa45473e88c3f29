"""A server in a thread, and a client that knows HTTP and nothing else."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_cy.chat import FORMATS
from rwkv_cy.engine import AsyncEngine, Engine, Request, Speculation
from rwkv_cy.engine.state_cache import StateCache
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.logs import Log
from rwkv_cy.server.run import bind, make_server
from rwkv_cy.server.service import Service
from rwkv_cy.server.settings import Settings

NAME = "demo"


class ScriptedEngine(Engine):
    """An engine whose model writes what a script says: for what a small trained model cannot do, as calls of tools.

    Attributes
    ----------
    script : list of str
        What is written, one text for each request that generates, in their order; then the model is free.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.script: list[str] = []

    def submit(self, request: Request) -> str:
        if request.max_tokens and self.script:
            request = replace(request, constraints=[Written(self.script.pop(0)), *request.constraints])
        return super().submit(request)


class Written:
    """Lets a model of bytes write a text, as far as it may."""

    def __init__(self, text: str) -> None:
        self._data = text.encode()

    def __call__(self, tokens: Any, logits: Any) -> None:
        if len(tokens) < len(self._data):
            logits[...] = np.minimum(logits, 0.0)
            logits[self._data[len(tokens)]] = 1e6


@dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, whose form is checked."""
        body = self.json
        assert set(body) == {"type", "error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert isinstance(body["error"]["message"], str)
        return body["error"]

    @property
    def events(self) -> list[Any]:
        """The objects of a stream of OpenAI's, whose form is checked to the byte."""
        frames = self.data.split(b"\n\n")
        assert frames[-1] == b""
        assert frames[-2] == b"data: [DONE]"
        assert all(frame.startswith(b"data: {") and b"\n" not in frame for frame in frames[:-2])
        return [json.loads(frame.removeprefix(b"data: ")) for frame in frames[:-2]]


@dataclass
class Client:
    """Sends requests to a server."""

    host: str
    port: int
    service: Service
    log: io.StringIO
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=300)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {"content-type": "application/json", **self.headers, **named})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self("POST", path, body, **headers)

    @property
    def script(self) -> list[str]:
        """What the model writes: see ScriptedEngine."""
        engine = self.service.engine.engine
        assert isinstance(engine, ScriptedEngine)
        return engine.script

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def running(
    model: LanguageModel,
    settings: Settings | None = None,
    chat: str = "world",
    slots: int = 16,
    queue: int = 64,
    cache_folder: Path | None = None,
    cache_bytes: int = 1 << 30,
    speculation: Speculation | None = None,
) -> Iterator[Client]:
    """Run a server in a thread; without `speculation`, one that tries the drafts that pay by the times of passes."""
    log = io.StringIO()
    cache = StateCache(cache_bytes, folder=cache_folder)
    engine = AsyncEngine(
        ScriptedEngine(model, slots=slots, queue=queue, cache=cache, speculation=speculation or Speculation())
    )
    service = Service(model, engine, FORMATS[chat], settings or Settings(NAME), Log(log))
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    ready = threading.Event()
    server = make_server(service, 5, ready.set)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        assert ready.wait(300)
        yield Client("127.0.0.1", port, service, log)
    finally:
        server.should_exit = True
        thread.join(300)
        assert not thread.is_alive()
