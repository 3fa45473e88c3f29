"""Metadata of a file: keys that a file may set, and keys that only a reader may set."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LAYER_NORM_EPSILON", "NORMALIZED_EMBEDDING", "TOKENIZER_PATH", "own_metadata"]

#: A path that other modules open: a file that could set it could make them read any file of the user.
TOKENIZER_PATH = "tokenizer_path"
#: ``"true"`` where the embedding is stored as ln0 leaves it, and ln0 is gone: without it, a model that lacks ln0 is
#: incomplete.
NORMALIZED_EMBEDDING = "normalized_embedding"
#: The epsilon of the LayerNorms, where the file has it under a name of its own.
LAYER_NORM_EPSILON = "reader_layer_norm_epsilon"
_READERS = (TOKENIZER_PATH, NORMALIZED_EMBEDDING, LAYER_NORM_EPSILON)


def own_metadata(said: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a file, without the keys that only a reader may set."""
    return {key: value for key, value in said.items() if key not in _READERS}
