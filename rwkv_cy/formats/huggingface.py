"""Hugging Face folders: weights in one file or in shards, with config.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from rwkv_cy.errors import FormatError
from rwkv_cy.files.part_names import LIST_SUFFIX, join_hint
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.formats.base import os_errors
from rwkv_cy.formats.canonical import canonical_recipes
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.metadata import NORMALIZED_EMBEDDING, own_metadata
from rwkv_cy.formats.shards import open_shards, read_small
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["BESIDE", "WEIGHTS", "companions", "open_folder"]

#: Files that hold or list the weights; the first that exists is used, as transformers does: an index beside a whole
#: file is older than it.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_CONFIG = "config.json"
#: Suffixes of files that may hold a model.
_SUFFIXES = (".h5", ".pth", ".safetensors", ".st", ".gguf", ".bin")
#: Other files that come with a model.
BESIDE = (
    _CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "rwkv_vocab_v20230424.txt",
    "vocab.txt",
    "vocab.json",
)
#: The epsilon of LayerNorm: as transformers' RWKV-4 calls it, and as RWKV-7 and flash-linear-attention do.
_EPSILON, _EPSILON_7, _GROUP_EPSILON = "layer_norm_epsilon", "norm_eps", "group_norm_epsilon"
#: What RWKV-5 and RWKV-6 divide the heads by before a GroupNorm of this epsilon: the same as the square times as much.
_DIVISOR, _DIVIDED_EPSILON = "head_size_divisor", 1e-5
#: A setting of github.com/rwkv-rs/transformers-rwkv: ln0 has been applied to the embedding, and is not there.
_FUSED = "embedding_layer_norm_fused"


def companions(path: Path) -> tuple[Path, ...]:
    """Return the paths in the folder `path` that may belong to a model in it; none if it is a file."""
    return tuple(path / name for name in (*WEIGHTS, *BESIDE)) if path.is_dir() else ()


def open_folder(path: Path, open_file: Callable[[Path], ParameterSource]) -> ParameterSource:
    """Open the model in a folder, under canonical names and shapes.

    Metadata is what the weights' files say, and the plain settings of config.json as JSON: ``layer_norm_epsilon``,
    which may be called ``norm_eps`` there, ``group_norm_epsilon``, the dimensions, ``rescale_every``; and
    ``normalized_embedding`` where ln0 has been applied to the embedding.
    The weights are as they were trained: Hugging Face's code rescales them only as it runs.

    Parameters
    ----------
    path : Path
        The folder.
    open_file : callable
        Opens one file of weights, whatever its format.

    Raises
    ------
    FormatError
        If there are no weights under the names that transformers gives them, or a file is damaged.
    StorageError
        If the operating system reports an error.
    """
    with os_errors(path, "list"):
        present = {entry.name for entry in path.iterdir()}
    weights = next((name for name in WEIGHTS if name in present), None)
    if weights is None:
        raise FormatError(
            f"{path}: no model in this folder; looked for {', '.join(WEIGHTS)}, found {_shown(present)}; "
            f"{_hint(path, present)}"
        )
    config = _read_config(path / _CONFIG) if _CONFIG in present else {}
    found = {NORMALIZED_EMBEDDING: "true"} if config.get(_FUSED) == "true" else {}
    opened = open_shards(path / weights, open_file) if weights.endswith(".json") else open_file(path / weights)
    try:
        tied = config.get("tie_word_embeddings") == "true"
        return HuggingFaceFolder(path, opened, tied, {**opened.metadata, **own_metadata(config), **found})
    except BaseException:
        opened.close()
        raise


class HuggingFaceFolder(TranslatedSource):
    """A folder with a model in it.

    Parameters
    ----------
    path : Path
        The folder.
    weights : ParameterSource
        The open weights, closed with this source.
    tied : bool
        The head shares the embedding's matrix.
    metadata : mapping of str to str
        Other metadata of the folder.
    """

    def __init__(self, path: Path, weights: ParameterSource, tied: bool, metadata: Mapping[str, str]) -> None:
        super().__init__(weights, canonical_recipes(weights, tied))
        self.path = path
        self.format = "huggingface"
        self.metadata = metadata


def _read_config(path: Path) -> dict[str, str]:
    """Return the settings that are single values, as JSON; texts without their quotes."""
    settings = parse_object(path, "config", read_small(path), allow_nan=True)
    divisor = settings.get(_DIVISOR)
    if isinstance(divisor, int):
        settings.setdefault(_GROUP_EPSILON, _DIVIDED_EPSILON * divisor**2)
    if _EPSILON_7 in settings:
        settings.setdefault(_EPSILON, settings[_EPSILON_7])
        # flash-linear-attention, fla/layers: the GroupNorm adds head_dim times as much.
        epsilon, head_dim = settings[_EPSILON_7], settings.get("head_dim")
        if isinstance(epsilon, float) and isinstance(head_dim, int):
            settings.setdefault(_GROUP_EPSILON, head_dim * epsilon)
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in settings.items()
        if isinstance(value, (str, int, float))
    }


def _hint(path: Path, present: set[str]) -> str:
    parts = join_hint(path / name for name in sorted(present) if name.endswith(LIST_SUFFIX))
    if parts is not None:
        return parts
    if "snapshots" in present:
        return "this is a model in the cache of the hub: name a folder in its snapshots"
    name = next((name for name in sorted(present) if name.endswith(_SUFFIXES)), None)
    return "name the file that holds the model" + ("" if name is None else f", as {path / name}")


def _shown(present: set[str]) -> str:
    names = sorted(present)
    return ", ".join(repr(name) for name in names[:5]) + (" and others" if names[5:] else "") if names else "nothing"
