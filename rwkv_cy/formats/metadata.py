"""Metadata of a file: keys that a file may set, and keys that only a reader may set."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TOKENIZER_PATH", "own_metadata"]

#: A path that other modules open: a file that could set it could make them read any file of the user.
TOKENIZER_PATH = "tokenizer_path"


def own_metadata(said: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a file, without the keys that only a reader may set."""
    return {key: value for key, value in said.items() if key != TOKENIZER_PATH}
