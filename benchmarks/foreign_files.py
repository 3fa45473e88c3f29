"""A checkpoint in formats of other programs: rwkv.cpp, whose library quantizes it, llama.cpp, and Hugging Face."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plain_numpy import read_float32
from benchmarks.rwkvcpp import quantize
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.toolkit.export import export

__all__ = [
    "LLAMACPP_TYPES",
    "RWKVCPP_TYPES",
    "cached_gguf",
    "cached_huggingface",
    "cached_rwkvcpp",
    "write_huggingface",
    "write_rwkvcpp",
]

#: The types of rwkv.cpp that are measured; its own library quantizes the last three from FP16.
RWKVCPP_TYPES = ("FP32", "FP16", "Q8_0", "Q5_1", "Q4_0")
#: The types of llama.cpp that are measured.
LLAMACPP_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_0", "q4_0", "q4_k")
_WRITTEN = {"FP32": "f32", "FP16": "f16"}


def write_rwkvcpp(checkpoint: Path, path: Path, dtype: str) -> None:
    """Write a checkpoint as rwkv.cpp's file: matrices in this type, vectors in float32.

    Parameters
    ----------
    checkpoint : Path
        Of any format that this package reads.
    path : Path
        The file.
    dtype : {"FP32", "FP16"}
        Of the matrices and the embedding.
    """
    _exported(checkpoint, path, "rwkvcpp", _WRITTEN[dtype])


def write_huggingface(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint of RWKV-4 as a folder of transformers' ``RwkvForCausalLM``, in float32.

    The residual stream is never halved (``rescale_every`` is 0): transformers' float32 is further from the exact
    result with it.
    """
    with open_source(checkpoint) as source:
        config, parameters = Checkpoint(source).config, read_float32(source)
    settings = {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "attention_hidden_size": config.d_att,
        "intermediate_size": config.d_ffn,
        "num_hidden_layers": config.num_layers,
        "layer_norm_epsilon": config.layer_norm_eps,
        "rescale_every": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in parameters.items():
        start, end = end, end + array.nbytes
        header[_huggingface_name(name)] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    with _finished(folder / "model.safetensors") as unfinished, unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in parameters.values():
            file.write(np.ascontiguousarray(array, "<f4").data)


def _huggingface_name(name: str) -> str:
    if name == "head.weight":
        return name
    for ours, theirs in ((".ln0.", ".pre_ln."), (".att.", ".attention."), (".ffn.", ".feed_forward.")):
        name = name.replace(ours, theirs)
    stem, mix, letter = name.rpartition("time_mix_")
    name = f"{stem}{mix}" + {"k": "key", "v": "value", "r": "receptance"}[letter] if mix else name
    return "rwkv." + name.replace("emb.", "embeddings.")


def cached_rwkvcpp(stem: str, checkpoint: Callable[[], Path], dtype: str, folder: Path, library: Path) -> Path:
    """Return rwkv.cpp's file of a checkpoint in `folder`; writes it if it does not exist.

    Parameters
    ----------
    stem : str
        What its name begins with.
    checkpoint : callable
        Gives the checkpoint, where one is needed.
    dtype : str
        One of ``RWKVCPP_TYPES``.
    folder, library : Path
    """
    path = folder / f"{stem}-{dtype}.bin"
    if path.exists():
        return path
    if dtype in _WRITTEN:
        write_rwkvcpp(checkpoint(), path, dtype)
        return path
    # From 16 bits, as its authors recommend. The library does not quantize embedding and head.
    half = cached_rwkvcpp(stem, checkpoint, "FP16", folder, library)
    with _finished(path) as unfinished:
        quantize(library, half, unfinished, dtype)
    return path


def cached_gguf(stem: str, checkpoint: Callable[[], Path], dtype: str, folder: Path) -> Path:
    """Return llama.cpp's file of a checkpoint in `folder`; writes it if it does not exist.

    Parameters
    ----------
    stem : str
        What its name begins with.
    checkpoint : callable
        Gives the checkpoint, where one is needed.
    dtype : str
        One of ``LLAMACPP_TYPES``.
    folder : Path
    """
    path = folder / f"{stem}-{dtype}.gguf"
    if not path.exists():
        _exported(checkpoint(), path, "gguf", dtype)
    return path


def _exported(checkpoint: Path, path: Path, form: str, dtype: str) -> None:
    # A vocabulary is written where the format has one, since llama.cpp opens no file without; its pieces do not matter.
    path.parent.mkdir(parents=True, exist_ok=True)
    export(checkpoint, path, format=form, dtype=dtype, tokenizer="bytes" if form == "gguf" else "none", overwrite=True)


def cached_huggingface(stem: str, checkpoint: Callable[[], Path], folder: Path) -> Path:
    """Return the transformers folder of a checkpoint in `folder`; writes it if its weights do not exist."""
    path = folder / f"{stem}-huggingface"
    if not (path / "model.safetensors").exists():
        write_huggingface(checkpoint(), path)
    return path


@contextmanager
def _finished(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename the file to `path` when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
