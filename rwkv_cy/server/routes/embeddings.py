"""``/v1/embeddings``: pooled hidden states."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.engine import Usage
from rwkv_cy.model.hidden import POOLINGS
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.http import Context, Reply
from rwkv_cy.server.service import Service
from rwkv_cy.server.wire.embeddings import EmbeddingRequest

__all__ = ["create"]

_MOST_TEXTS = 2048
#: Tokens that run in a call of the model: between calls, a request may end.
_GROUP_TOKENS = 4096


async def create(service: Service, context: Context, body: EmbeddingRequest) -> Reply:
    """Return a vector for each text."""
    model = service.check_model(body.model)
    if body.encoding_format not in (None, "float", "base64"):
        raise invalid("encoding_format", f"expected float or base64, got {body.encoding_format[:40]!r}")
    if body.pooling not in POOLINGS:
        raise invalid("pooling", f"expected one of {', '.join(POOLINGS)}, got {body.pooling[:40]!r}")
    d_model = service.model.config.d_model
    if body.dimensions not in (None, d_model):
        raise invalid("dimensions", f"expected {d_model}, which is the model's own number, got {body.dimensions}")
    texts = await _texts(service, body.input)
    vectors = await _vectors(service, texts, body)
    tokens = sum(map(len, texts))
    service.note_usage(context, Usage(prompt_tokens=tokens))
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _texts(service: Service, given: str | list[Any]) -> list[list[int]]:
    """Return the tokens of each text: one or several, as text or tokens."""
    if isinstance(given, str):
        return [await service.encode("input", given)]
    if given and all(type(one) is int for one in given):
        return [_foreign(service, "input", given)]
    if not 0 < len(given) <= _MOST_TEXTS:
        raise invalid("input", f"expected 1 to {_MOST_TEXTS} texts, got {len(given)}")
    texts = []
    for place, one in enumerate(given):
        param = f"input[{place}]"
        if isinstance(one, str):
            texts.append(await service.encode(param, one))
        elif isinstance(one, list):
            texts.append(_foreign(service, param, one))
        else:
            raise invalid(param, f"expected a text or token ids, got {type(one).__name__}")
    return texts


def _foreign(service: Service, param: str, tokens: list[Any]) -> list[int]:
    """Return token ids of a client, who may have them from another model's vocabulary."""
    try:
        return service.check_tokens(param, tokens)
    except Exception as error:
        raise invalid(
            param,
            f"{error}; these ids are of another vocabulary: send the text itself "
            "(check_embedding_ctx_length=False in langchain)",
        ) from None


async def _vectors(service: Service, texts: list[list[int]], body: EmbeddingRequest) -> list[npt.NDArray[Any]]:
    """Run the texts in groups, in a thread, beside the engine."""
    vectors: list[npt.NDArray[Any]] = []
    start = 0
    while start < len(texts):
        end, tokens = start, 0
        while end < len(texts) and (end == start or tokens + len(texts[end]) <= _GROUP_TOKENS):
            tokens += len(texts[end])
            end += 1
        group = texts[start:end]
        rows = await service.beside(service.model.embed, group, pooling=body.pooling, normalize=body.normalize)
        vectors += list(rows)
        start = end
    return vectors


def _encoded(vector: npt.NDArray[Any], encoding: str | None) -> Any:
    """Return a vector as numbers, or as base64 of float32."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return np.asarray(vector, np.float64).tolist()
