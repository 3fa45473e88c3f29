"""``/v1/models``."""

from __future__ import annotations

from typing import Any

from rwkv_cy.server.errors import not_found
from rwkv_cy.server.http import Context, Reply
from rwkv_cy.server.service import Service

__all__ = ["listed", "one"]


async def listed(service: Service, context: Context, body: None) -> Reply:
    """List the model, under all of its names."""
    settings = service.settings
    return {"object": "list", "data": [_model(service, name) for name in (settings.name, *settings.aliases)]}


async def one(service: Service, context: Context, body: None) -> Reply:
    """Describe a model."""
    name = context.params["id"]
    if name not in (service.settings.name, *service.settings.aliases):
        raise not_found("model", name, "model_not_found", "model")
    return _model(service, name)


def _model(service: Service, name: str) -> dict[str, Any]:
    config = service.model.config
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "rwkv-cy",
        "meta": {
            "architecture": config.architecture,
            "num_layers": config.num_layers,
            "d_model": config.d_model,
            "vocab_size": config.vocab_size,
            "tokenizer": service.tokenizer.kind,
            "chat_format": service.chat.name,
            "fingerprint": service.model.fingerprint,
        },
    }
