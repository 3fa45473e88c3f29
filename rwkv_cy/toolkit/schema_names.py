"""Names of the JSON that reports become: of what it is, and the version of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["named", "unicode_only"]

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
    """Return the fields of a report with the name of their schema in front: ``{"schema": "rwkv-cy/inspect/1"}``.

    Texts in them become those of :func:`unicode_only`.
    """
    return {"schema": f"rwkv-cy/{kind}/{_VERSIONS[kind]}", **unicode_only(fields)}


def unicode_only(value: Any) -> Any:
    r"""Return a value of JSON with lone surrogates in texts escaped, as a terminal shows them: ``\udcff``.

    Python has such characters for bytes of a file's name that are not UTF-8. JSON may not be read with them.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {unicode_only(name): unicode_only(one) for name, one in value.items()}
    if isinstance(value, list):
        return list(map(unicode_only, value))
    return tuple(map(unicode_only, value)) if isinstance(value, tuple) else value
