"""The application: which path leads to which route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from rwkv_cy.server.errors import ApiError
from rwkv_cy.server.gate import Gate
from rwkv_cy.server.http import Endpoint, Handler, send_error
from rwkv_cy.server.routes import (
    chat,
    completions,
    decisions,
    embeddings,
    messages,
    models,
    operations,
    responses,
    states,
    tokens,
)
from rwkv_cy.server.service import Service
from rwkv_cy.server.wire.chat import ChatRequest
from rwkv_cy.server.wire.completions import CompletionRequest
from rwkv_cy.server.wire.decisions import DecisionRequest
from rwkv_cy.server.wire.embeddings import EmbeddingRequest
from rwkv_cy.server.wire.messages import CountRequest, MessagesRequest
from rwkv_cy.server.wire.responses import ResponseRequest
from rwkv_cy.server.wire.states import ForkRequest, LoadRequest, SaveRequest
from rwkv_cy.server.wire.tokens import DetokenizeRequest, TokenizeRequest

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["ROUTES", "make_app"]

#: Method, path, handler, and the type of the body.
ROUTES: tuple[tuple[str, str, Handler, type | None], ...] = (
    ("GET", "/v1/models", models.listed, None),
    ("GET", "/v1/models/{id}", models.one, None),
    ("POST", "/v1/chat/completions", chat.create, ChatRequest),
    ("POST", "/v1/completions", completions.create, CompletionRequest),
    ("POST", "/v1/embeddings", embeddings.create, EmbeddingRequest),
    ("POST", "/v1/responses", responses.create, ResponseRequest),
    ("GET", "/v1/responses/{id}", responses.one, None),
    ("DELETE", "/v1/responses/{id}", responses.delete, None),
    ("POST", "/v1/decisions", decisions.create, DecisionRequest),
    ("POST", "/v1/messages", messages.create, MessagesRequest),
    ("POST", "/v1/messages/count_tokens", messages.count, CountRequest),
    ("GET", "/v1/states", states.listed, None),
    ("POST", "/v1/states", states.load, LoadRequest),
    ("GET", "/v1/states/{id}", states.one, None),
    ("DELETE", "/v1/states/{id}", states.delete, None),
    ("POST", "/v1/states/{id}/fork", states.fork, ForkRequest),
    ("POST", "/v1/states/{id}/save", states.save, SaveRequest),
    ("POST", "/tokenize", tokens.tokenize, TokenizeRequest),
    ("POST", "/detokenize", tokens.detokenize, DetokenizeRequest),
    ("POST", "/apply-template", tokens.apply_template, ChatRequest),
    ("GET", "/tokenizer_info", tokens.info, None),
    ("GET", "/health", operations.health, None),
    ("GET", "/ready", operations.ready, None),
    ("GET", "/metrics", operations.metrics, None),
    ("GET", "/", operations.page, None),
)


def make_app(service: Service) -> ASGIApp:
    """Return the ASGI application of a service, whose engine runs as long as the application does.

    Parameters
    ----------
    service : Service
    """

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        async with service.engine:
            yield
            service.closing = True
        cache = service.engine.engine.cache
        if cache is not None:
            await asyncio.to_thread(cache.close)

    routes: dict[str, dict[str, Endpoint]] = {}
    for method, path, handler, body in ROUTES:
        routes.setdefault(path, {})[method] = Endpoint(service, path, handler, body)
    app = Starlette(
        routes=[Route(path, _ByMethod(endpoints)) for path, endpoints in routes.items()],
        lifespan=running,
        exception_handlers={HTTPException: _http_error},
    )
    return Gate(app, service)


class _ByMethod:
    """One path: an endpoint for each method."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        endpoint = self._endpoints.get(method)
        if endpoint is None:
            allowed = ", ".join(self._endpoints)
            await send_error(
                ApiError(405, f"method: expected {allowed}, got {scope['method']}", code="method_not_allowed"), send
            )
            return
        await endpoint(scope, receive, send)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses, such as an unknown path, with an error object."""
    import msgspec

    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail.lower()}"
    body = ApiError(error.status_code, message, code=error.detail.lower().replace(" ", "_")).body()
    return Response(msgspec.json.encode(body), error.status_code, media_type="application/json")
