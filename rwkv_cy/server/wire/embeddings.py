"""OpenAI's embeddings: requests."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["EmbeddingRequest"]


class EmbeddingRequest(msgspec.Struct):
    """Texts, or their tokens. Beyond OpenAI's fields: `pooling` and `normalize`."""

    input: str | list[Any]
    model: str = ""
    encoding_format: str | None = None
    dimensions: int | None = None
    pooling: str = "mean"
    normalize: bool = True
    user: str | None = None
