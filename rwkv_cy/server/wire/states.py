"""States by name: requests."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from rwkv_cy.server.wire.chat import MessageIn

__all__ = ["ForkRequest", "LoadRequest", "SaveRequest", "StateName"]

StateName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class LoadRequest(msgspec.Struct):
    """A state to make: from a text, from messages, or from what was saved under a name."""

    id: StateName | None = None
    prompt: str | list[Any] | None = None
    messages: list[MessageIn] | None = None
    saved: StateName | None = None
    model: str = ""


class ForkRequest(msgspec.Struct):
    """A copy of a state, which may read more text."""

    id: StateName | None = None
    prompt: str | list[Any] | None = None


class SaveRequest(msgspec.Struct):
    """A state to save to the server's folder."""

    saved: StateName | None = None
    overwrite: bool = False
