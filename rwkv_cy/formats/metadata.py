"""What a file may say of itself, and what only a reader may say."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TOKENIZER_PATH", "own_metadata"]

#: A path that others open: a file that could set it could have any file of the user's read.
TOKENIZER_PATH = "tokenizer_path"


def own_metadata(said: Mapping[str, str]) -> dict[str, str]:
    """Return what a file says of itself, without the keys that a reader sets."""
    return {key: value for key, value in said.items() if key != TOKENIZER_PATH}
