"""The gate: what every request passes: request id, Host, API key, origin, metrics, log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rwkv_cy.server.errors import ApiError, as_api_error
from rwkv_cy.server.http import Context, send_error
from rwkv_cy.server.security import check_host, check_key, cors_headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from rwkv_cy.server.service import Service

__all__ = ["Gate"]

#: Paths that need no API key.
_PUBLIC = ("/", "/health", "/ready")


class Gate:
    """An ASGI application in front of another.

    Parameters
    ----------
    app : ASGI application
    service : Service
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        settings = self._service.settings
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        context = Context.of_headers(headers)
        scope["rwkv_cy"] = context
        own = {"x-request-id": context.id, **cors_headers(headers.get("origin"), settings.origins)}
        started, status = time.monotonic(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(name.encode(), value.encode("latin-1")) for name, value in own.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        self._service.metrics.active.inc()
        try:
            check_host(headers.get("host"), settings.hosts)
            if scope["method"] == "OPTIONS" and "access-control-allow-origin" in own:
                await sending({"type": "http.response.start", "status": 204, "headers": []})
                await sending({"type": "http.response.body", "body": b""})
                return
            if scope["path"] not in _PUBLIC:
                context.owner = check_key(headers, settings.keys)
            await self._app(scope, receive, sending)
        except ApiError as error:
            self._service.note_error(context, error)
            await send_error(error, sending)
        except Exception as error:
            self._service.note_error(context, as_api_error(error), error)
            if not status:
                await send_error(as_api_error(error), sending)
        finally:
            self._service.metrics.active.dec()
            self._service.note_request(context, scope["method"], status, time.monotonic() - started)
