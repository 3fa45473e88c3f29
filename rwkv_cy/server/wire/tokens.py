"""Texts as tokens and back; the names of fields are those of vLLM and llama.cpp, both of which clients use."""

from __future__ import annotations

import msgspec

__all__ = ["DetokenizeRequest", "TokenizeRequest"]


class TokenizeRequest(msgspec.Struct):
    """A text: `prompt` or `content`."""

    prompt: str | None = None
    content: str | None = None
    model: str = ""
    with_pieces: bool = False


class DetokenizeRequest(msgspec.Struct):
    """Token ids."""

    tokens: list[int]
    model: str = ""
