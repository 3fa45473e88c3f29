"""Synthetic checkpoints of the official shapes: seeded, written as torch.save writes them, in bounded memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.torch_archive import ArchiveTensor, write_archive
from rwkv_cy import Config
from rwkv_cy.architectures import architecture_of
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.dtypes import PACKED, QUANTIZED_TYPES, to_storage
from rwkv_cy.toolkit.convert import convert

__all__ = [
    "DTYPES",
    "FOLDER",
    "SHAPES",
    "VERSION_SHAPES",
    "cached_checkpoint",
    "cached_model",
    "name_of",
    "write_checkpoint",
]

#: Of version 7 and its relatives, and of version 6, in models of 0.1B.
_RANKS_7 = {"w": 64, "a": 64, "v": 32, "g": 128}
_RANKS_6 = {"maa": 32, "decay": 64}


def _small(architecture: str, **changed: Any) -> Config:
    """Return the Config of a model of 0.1B."""
    usual = {"d_model": 768, "num_layers": 12, "vocab_size": 65536, "head_size": 64}
    return Config(architecture=architecture, **usual | changed)


#: Every version as a model of 0.1B, by the name of its shape.
VERSION_SHAPES = {
    "169m": Config(d_model=768, num_layers=12, vocab_size=50277),
    "5.0-0.1b": _small("rwkv5.0", d_ffn=3072),
    "5.1-0.1b": _small("rwkv5.1", d_ffn=2304),
    "5.2-0.1b": _small("rwkv5.2", d_ffn=2688),
    "6-0.1b": _small("rwkv6", d_ffn=2688, ranks=_RANKS_6),
    "7-0.1b": _small("rwkv7", ranks=_RANKS_7),
    "7a-0.1b": _small("rwkv7a", ranks={**_RANKS_7, "s": 32}),
    "8-rc00-0.1b": _small("rwkv8_rc00", ranks=_RANKS_7),
}
SHAPES = {
    **VERSION_SHAPES,
    "430m": Config(d_model=1024, num_layers=24, vocab_size=50277),
    "7-0.4b": Config(d_model=1024, num_layers=24, vocab_size=65536, architecture="rwkv7", head_size=64, ranks=_RANKS_7),
    "7-1.5b": Config(
        d_model=2048,
        num_layers=24,
        vocab_size=65536,
        architecture="rwkv7",
        head_size=64,
        ranks={"w": 96, "a": 96, "v": 64, "g": 256},
    ),
    "7-2.9b": Config(
        d_model=2560,
        num_layers=32,
        vocab_size=65536,
        architecture="rwkv7",
        head_size=64,
        ranks={"w": 96, "a": 96, "v": 64, "g": 320},
    ),
}
#: Shapes whose quantized models are made from bf16, as their authors publish them: float32 takes 6 and 12 GB.
_LARGE = {"7-1.5b", "7-2.9b"}
DTYPES = ("f32", "f16", "bf16")
#: Default folder of the benchmarks' files.
FOLDER = Path("build") / "bench"

#: Elements drawn at a time.
_BLOCK = 1 << 20
#: Scales of the official initialisation; matrices that it leaves zero are filled with half of the usual scale.
_SCALES = {"att.value": 1.0, "ffn.key": 1.0}
_OTHER_SCALE = 0.5


def name_of(shape: str) -> str:
    """Return the version and the size of a shape."""
    return f"{architecture_of(SHAPES[shape]).label} {shape.removeprefix('7-')}"


def write_checkpoint(path: Path, config: Config, dtype: str = "f32", seed: int = 0) -> None:
    """Write a checkpoint of random weights; the same arguments give the same bytes.

    As official ones, it has no initial state, and vectors have their official initial values. A matrix is drawn from a
    normal distribution with the variance that the elements of the official orthogonal one have, scale² / columns, since
    an orthogonal draw of the head alone takes longer than all of this. The embedding is uniform in ±1e-4, as the
    official one.

    Parameters
    ----------
    path : Path
        The file. It appears there when it is finished; an older one is replaced.
    config : Config
        Dimensions, with a vocabulary.
    dtype : {"f32", "f16", "bf16", "f64"}
        Storage type of every tensor.
    seed : int
        Of the random numbers.
    """
    tensors = [
        ArchiveTensor(spec.name, dtype, spec.shape, _blocks(spec, dtype, np.random.default_rng((seed, index))))
        for index, spec in enumerate(architecture_of(config).parameters(config))
        if spec.kind != "state"
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        write_archive(unfinished, tensors)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _blocks(spec: ParameterSpec, dtype: str, rng: np.random.Generator) -> Iterator[npt.NDArray[Any]]:
    if spec.kind == "vector":
        yield to_storage(spec.initialise(rng).astype("<f4").reshape(-1), "f32", dtype)
        return
    size = int(np.prod(spec.shape))
    for start in range(0, size, _BLOCK):
        count = min(_BLOCK, size - start)
        yield to_storage(_draw(spec, rng, count), "f32", dtype)


def _draw(spec: ParameterSpec, rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    if spec.kind == "embedding":
        return (rng.random(count, np.float32) - np.float32(0.5)) * np.float32(2e-4)
    name = ".".join(spec.name.split(".")[-3:-1])
    scale = _SCALES.get(name, _OTHER_SCALE) / np.sqrt(spec.shape[1])
    return rng.standard_normal(count, np.float32) * np.float32(scale)


def cached_checkpoint(shape: str, dtype: str, folder: Path = FOLDER) -> Path:
    """Return the checkpoint of this shape and type in `folder`; writes it if it does not exist."""
    path = folder / f"{shape}-{dtype}.pth"
    if not path.exists():
        write_checkpoint(path, SHAPES[shape], dtype)
    return path


def cached_model(shape: str, dtype: str, folder: Path = FOLDER) -> Path:
    """Return the model file of a checkpoint; converts it if it does not exist, quantized types from float32 or bf16."""
    path = folder / f"{shape}-{dtype}.h5"
    if not path.exists():
        if dtype in QUANTIZED_TYPES:
            source = cached_checkpoint(shape, "bf16" if shape in _LARGE else "f32", folder)
            convert(source, path, dtype=dtype, tokenizer="none")
        elif dtype == PACKED:
            convert(cached_checkpoint(shape, "bf16", folder), path, dtype=dtype, tokenizer="none")
        else:
            convert(cached_checkpoint(shape, dtype, folder), path, tokenizer="none")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.path.exists():
        print(f"{arguments.path} is there already")
        return
    write_checkpoint(arguments.path, SHAPES[arguments.shape], arguments.dtype, arguments.seed)
    print(f"{arguments.path}: {arguments.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
