"""Fuzz target: the index of a sharded model in a folder of Hugging Face, and the settings beside it.

The data is the index, and after a NUL the config.json. The shards are whole.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from formats.foreign import SHARD_INDEX, huggingface_name, rwkv4_parameters, write_shards
from fuzz.reading import read_everything
from rwkv_cy.formats.huggingface import open_folder
from rwkv_cy.formats.safetensors import open_safetensors

_PARAMETERS = {huggingface_name(name): array for name, array in rwkv4_parameters(2, 2, 1, 2).items()}
_CONFIG = b'{"model_type": "rwkv", "rescale_every": 6, "layer_norm_epsilon": 1e-05, "x": [null, {"y": true}]}'


def _seed() -> bytes:
    with TemporaryDirectory() as folder:
        write_shards(Path(folder), _PARAMETERS, 2)
        return (Path(folder) / SHARD_INDEX).read_bytes()


SEEDS = (_seed(), _seed() + b"\0" + _CONFIG)


def fuzz_one(data: bytes) -> None:
    """Read a folder with this index and these settings."""
    index, separator, config = data.partition(b"\0")
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, _PARAMETERS, 2)
        (folder / SHARD_INDEX).write_bytes(index)
        if separator:
            (folder / "config.json").write_bytes(config)
        with open_folder(folder, open_safetensors) as source:
            read_everything(source, sum(path.stat().st_size for path in folder.iterdir()))
