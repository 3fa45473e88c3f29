"""Fuzz target: the index of a sharded model in a folder of Hugging Face, and the settings beside it.

The data is the index, and after a NUL the config.json. The shards are whole, and their numbers are not read: the target
"safetensors" does that. The folder is opened as a model, so that
the settings are held against the tensors.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from formats.foreign import SHARD_INDEX, huggingface_name, rwkv4_parameters, write_shards
from fuzz.reading import scratch_folder
from fuzz.target import Target
from rwkv_cy.checkpoint.checkpoint import Checkpoint

_PARAMETERS = {huggingface_name(name): array for name, array in rwkv4_parameters(2, 2, 1, 2).items()}
_CONFIGS = (
    b'{"model_type": "rwkv", "rescale_every": 6, "layer_norm_epsilon": 1e-05, "x": [null, {"y": true}]}',
    b'{"hidden_size": 2, "num_hidden_layers": 1, "vocab_size": 2, "attention_hidden_size": 2, "intermediate_size": 2}',
    b'{"norm_eps": 1e-05, "head_dim": 64, "head_size_divisor": 8, "tie_word_embeddings": true}',
)


@cache
def _folder() -> Path:
    folder = scratch_folder() / "hub"
    folder.mkdir()
    write_shards(folder, _PARAMETERS, 2)
    return folder


def _seeds() -> tuple[bytes, ...]:
    folder = _folder()
    write_shards(folder, _PARAMETERS, 2)
    index = (folder / SHARD_INDEX).read_bytes()
    return (index, *(index + b"\0" + config for config in _CONFIGS))


def _read(data: bytes) -> None:
    """Read a folder with this index and these settings."""
    index, separator, settings = data.partition(b"\0")
    folder = _folder()
    (folder / SHARD_INDEX).write_bytes(index)
    config = folder / "config.json"
    if separator:
        config.write_bytes(settings)
    try:
        with Checkpoint.open(folder) as checkpoint:
            source = checkpoint.source
            source.check()
            if {source.info(name).name for name in source.names()} != set(source.names()):
                raise AssertionError(f"{source.names()}")
            hash(checkpoint.config.num_layers)
    finally:
        config.unlink(missing_ok=True)


_WORDS = (
    *(b'"%s":' % key for key in (b"weight_map", b"metadata", b"total_size", b"layer_norm_epsilon", b"norm_eps")),
    *(b'"%s":' % key for key in (b"head_dim", b"head_size_divisor", b"group_norm_epsilon", b"num_hidden_layers")),
    *(b'"embedding_layer_norm_fused":', b'"tie_word_embeddings":', b"true", b"NaN", b"Infinity", b"1e400", b"\0{"),
    *(b"model-00001-of-00002.safetensors", b"config.json", b"model.safetensors.index.json"),
)
TARGETS = (Target("huggingface", _seeds, _read, words=_WORDS),)
