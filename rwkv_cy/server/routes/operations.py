"""Health, metrics, and the page to talk to the model."""

from __future__ import annotations

from importlib.resources import files

from rwkv_cy.server.errors import ApiError, not_found
from rwkv_cy.server.http import Context, Raw, Reply
from rwkv_cy.server.metrics import CONTENT_TYPE
from rwkv_cy.server.service import Service

__all__ = ["health", "metrics", "page", "ready"]

#: The page runs its own script and style, talks to this server alone, and is in no other page's frame.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


async def health(service: Service, context: Context, body: None) -> Reply:
    """Tell that the server is alive."""
    return {"status": "ok"}


async def ready(service: Service, context: Context, body: None) -> Reply:
    """Tell whether the server takes requests."""
    engine = service.engine.engine
    if service.closing:
        raise ApiError(503, "the server is shutting down", "unavailable_error", retry_after=5)
    return {"status": "ready", "running": engine.running, "waiting": engine.waiting}


async def metrics(service: Service, context: Context, body: None) -> Reply:
    """Return the metrics."""
    return Raw(service.metrics_page(), CONTENT_TYPE)


async def page(service: Service, context: Context, body: None) -> Reply:
    """Return the page."""
    if not service.settings.page:
        raise not_found("page", "/")
    data = files("rwkv_cy.server").joinpath("page.html").read_bytes()
    return Raw(data, "text/html; charset=utf-8", _PAGE_HEADERS)
