"""Names of the JSON that reports become: of what it is, and the version of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["named"]

#: Versions by kind: raised when a field is removed or changes its meaning; new fields do not raise it. docs/json.md
#: lists them.
_VERSIONS = {
    "batch": 1,
    "bench": 1,
    "convert": 1,
    "convert-plan": 1,
    "diff": 1,
    "embed": 1,
    "eval": 1,
    "export": 1,
    "export-plan": 1,
    "generate": 1,
    "generate-search": 1,
    "info": 1,
    "inspect": 1,
    "join": 1,
    "logprobs": 1,
    "merge": 1,
    "merge-plan": 1,
    "models": 1,
    "perplexity": 1,
    "pull": 1,
    "pull-list": 1,
    "shard": 1,
    "tokenize": 1,
    "train": 1,
    "train-estimate": 1,
    "verify": 1,
}


def named(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a report with the name of their schema in front: ``{"schema": "rwkv-cy/inspect/1"}``."""
    return {"schema": f"rwkv-cy/{kind}/{_VERSIONS[kind]}", **fields}
