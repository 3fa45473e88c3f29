"""What a conversion is going to do, found out from headers alone: types, sizes, memory, space, tokenizer."""

from __future__ import annotations

import math
import os
from collections.abc import Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rwkv_cy.architectures import architecture_of
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.checkpoint.sources import source_config
from rwkv_cy.checkpoint.tokenizer_choice import choose_tokenizer, describe_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.dtypes import GROUP_ROWS, MATRIX_TYPES, PACKED, QUANTIZED_TYPES, STORAGE_TYPES, array_dtype
from rwkv_cy.errors import ConfigError, StorageError
from rwkv_cy.files.reading import is_folder, os_errors
from rwkv_cy.formats import companions
from rwkv_cy.storage import StoredTokenizer
from rwkv_cy.tensors.blocks import BLOCK_SIZE
from rwkv_cy.tensors.orientation import STRIP_BYTES
from rwkv_cy.tensors.packing import Packing, plan_packing
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["ConversionPlan", "TensorPlan", "make_plan", "planned_info"]

#: Stored instead of another program's quantized blocks, where no other type is asked for; and what an embedding that
#: is wider gets in a quantized model.
_FOR_QUANTIZED = "f16"
#: Most that one tensor's alignment and its entry among the file's metadata take.
_OVERHEAD_PER_TENSOR = 8192
_OVERHEAD = 1 << 20
#: The writer's block of 1 MiB, the hash's, and HDF5's own structures; measured at 13 MB for a model of 24 layers.
_FIXED_MEMORY = 16 << 20


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    Attributes
    ----------
    name : str
        Canonical name.
    shape : tuple of int
    kind : str
        ``"matrix"``, ``"embedding"`` or ``"vector"``.
    source_dtype : str
        Type in the source file (``"q5_1"``).
    dtype : str
        Storage type in the target.
    source_nbytes, nbytes : int
        Bytes in the source and in the target.
    transposed : bool
        Whether it lies as (in, out) in the target.
    packing : Packing or None
        How a matrix is packed that becomes bf12.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    source_dtype: str
    dtype: str
    source_nbytes: int
    nbytes: int
    transposed: bool
    packing: Packing | None = None


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion is going to do.

    Attributes
    ----------
    source, target : Path
    source_format : str
        ``"pth"``, ``"safetensors"``, ...
    source_files : tuple of Path
        The files that hold the weights, in the order in which they are hashed; one, except for shards.
    config : Config
        Architecture and dimensions.
    tensors : tuple of TensorPlan
        In the order in which they are written.
    tokenizer : StoredTokenizer or None
        What is stored beside the parameters.
    memory : int
        Bytes of working memory that the conversion takes at most, whatever the model's size.
    disk_needed, disk_free : int
        Bytes that the target takes at most, and bytes free where it will lie.
    replaces : bool
        Whether there is a file at the target.
    warnings : tuple of str
    """

    source: Path
    target: Path
    source_format: str
    source_files: tuple[Path, ...]
    config: Config
    tensors: tuple[TensorPlan, ...]
    tokenizer: StoredTokenizer | None
    memory: int
    disk_needed: int
    disk_free: int
    replaces: bool
    warnings: tuple[str, ...]

    @property
    def num_parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def source_nbytes(self) -> int:
        """Bytes of all tensors in the source."""
        return sum(tensor.source_nbytes for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the target."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        return {
            **asdict(replace(self, tokenizer=None)),
            "source": str(self.source),
            "target": str(self.target),
            "source_files": [str(path) for path in self.source_files],
            "config": self.config.to_dict(),
            "tokenizer": describe_tokenizer(self.tokenizer),
            "num_parameters": self.num_parameters,
            "source_nbytes": self.source_nbytes,
            "nbytes": self.nbytes,
        }


def stored_dtype(info: TensorInfo, kind: str, dtype: str | None) -> str:
    """Return the storage type that a tensor gets in the target.

    Vectors stay as the checkpoint has them: they are small, and time_decay and its like lose their meaning in few
    bits. Matrices and the embedding get `dtype`, or keep their own type. An embedding is read row by row, and a
    group of rows is no row: it is not quantized, but stored in 16 bits.
    """
    if kind not in ("matrix", "head", "embedding"):
        return info.dtype
    decoded = info.source_dtype != info.dtype
    if kind == "embedding" and dtype == PACKED:
        return "bf16"
    if kind == "embedding" and dtype in QUANTIZED_TYPES:
        return info.dtype if info.dtype in ("f16", "bf16") and not decoded else _FOR_QUANTIZED
    return dtype or (_FOR_QUANTIZED if decoded else info.dtype)


def planned_info(info: TensorInfo, target: TensorPlan) -> TensorInfo:
    """Return the tensor of the source as it will be in the target."""
    packed_nbytes = info.packed_nbytes if target.packing is None else target.packing.nbytes
    return replace(info, dtype=target.dtype, packed_nbytes=packed_nbytes, transposed=target.transposed)


def stored_transposed(info: TensorInfo, spec: ParameterSpec, stored: str) -> bool:
    """Tell whether a matrix lies transposed in the target: one with many zeros in its input.

    Not in blocks, which have an order of their own; and not out of them, since they are decoded by rows.
    """
    return spec.sparse_input and stored in STORAGE_TYPES and info.dtype in STORAGE_TYPES


def make_plan(
    source: ParameterSource, target: Path, dtype: str | None, tokenizer: str | None, *, requantize: bool = False
) -> ConversionPlan:
    """Say what a conversion of the open `source` into the file `target` is going to do.

    Writes nothing, and reads no weights, except to find out how they are packed for bf12. The options are those of
    :func:`rwkv_cy.toolkit.convert.convert`.

    Raises
    ------
    UnsupportedError, SpecError
        If the source is no model of a version that this package runs, or its parameters are not that model's.
    ConfigError
        If `dtype` is no storage type, or a quantized matrix would be quantized again without `requantize`.
    TokenizerError, MissingDependencyError
        If the tokenizer asked for cannot be had.
    StorageError
        If the target is the source itself, a folder, or in a folder that is not there.
    """
    known = (*STORAGE_TYPES, *MATRIX_TYPES)
    if dtype is not None and dtype not in known:
        raise ConfigError(f"dtype: expected one of {', '.join(sorted(known))}, got {dtype!r}")
    files = tuple(file.path for file in source.files)
    with os_errors(target, "look at"):
        replaces = _check_target(target, {*files, source.path, *companions(source.path)})
    config = source_config(source)
    if dtype is not None:
        config = replace(config, dtype="f64" if dtype == "f64" else "f32")
    infos = {name: source.info(name) for name in source.names()}
    tensors = []
    twice = []
    for spec in architecture_of(config).parameters(config):
        info = infos[spec.name]
        stored = stored_dtype(info, spec.kind, dtype)
        packing = None
        if stored == PACKED and info.dtype != PACKED:
            # What lies transposed is read in part: that saves more than packing, which reads all of it.
            packing = None if stored_transposed(info, spec, "bf16") else plan_packing(source, info)
            stored = "bf16" if packing is None else PACKED
        tensor = TensorPlan(
            name=spec.name,
            shape=info.shape,
            kind=spec.kind,
            source_dtype=info.source_dtype,
            dtype=stored,
            source_nbytes=info.source_nbytes,
            nbytes=0,
            transposed=stored_transposed(info, spec, stored),
            packing=packing,
        )
        tensors.append(replace(tensor, nbytes=planned_info(info, tensor).nbytes))
        if info.rounds_twice(stored):
            twice.append(f"{spec.name} ({info.source_dtype})")
    if twice and not requantize:
        raise ConfigError(
            f"{source.path}: expected matrices that are not quantized yet to quantize to {dtype}, got {len(twice)} "
            f"that are, first {twice[0]}; convert the original, or force it (--force, requantize=True)"
        )
    chosen, warnings = choose_tokenizer(source, config.vocab_size, tokenizer)
    if twice:
        warnings += (f"{source.path}: {len(twice)} quantized matrices are rounded a second time, to {dtype}",)
    needed = sum(tensor.nbytes for tensor in tensors) + _OVERHEAD_PER_TENSOR * len(tensors) + _OVERHEAD
    if chosen is not None:
        needed += len(chosen.data)
    free = _free_space(target.parent)
    if needed > free:
        warnings += (f"{target}: needs {needed} bytes, and {free} are free there",)
    return ConversionPlan(
        source=source.path,
        target=target,
        source_format=source.format,
        source_files=files,
        config=config,
        tensors=tuple(tensors),
        tokenizer=chosen,
        memory=_FIXED_MEMORY + max(_block_memory(infos[tensor.name], tensor) for tensor in tensors),
        disk_needed=needed,
        disk_free=free,
        replaces=replaces,
        warnings=warnings,
    )


def _check_target(target: Path, sources: Set[Path]) -> bool:
    """Return whether there is a file at `target`; StorageError if none can be written there."""
    if not is_folder(target.parent):
        raise StorageError(f"{target.parent}: expected a folder for the target, got none; create it first")
    if target.is_dir():
        raise StorageError(f"{target}: expected the name of a file to write, got a folder; name a file in it")
    if not target.exists():
        return False
    if any(target.samefile(path) for path in sources if path.exists()):
        raise StorageError(f"{target}: expected a target other than the source, got the same file; name another one")
    return True


def _free_space(folder: Path) -> int:
    """Return the bytes that this user may still write in `folder`."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot ask for its free space: {error.strerror}; check the path") from error
    return status.f_bavail * status.f_frsize


def _block_memory(info: TensorInfo, target: TensorPlan) -> int:
    """Return the bytes that one block takes on its way: read, looked through, widened, rounded.

    What is quantized goes by whole groups of rows, of which two may be needed in part. What is transposed goes by
    strips, which are there twice for a moment. The lists of escapes of a packed matrix are kept until its rows are
    written.
    """
    dtype = target.dtype
    row = info.array_shape[0] * array_dtype(info.dtype).itemsize
    strips = 2 * min(max(STRIP_BYTES, row), info.nbytes) if info.transposed != target.transposed else 0
    lists = 0 if target.packing is None else 3 * 4 * target.packing.escapes + 3 * 8 * info.shape[0]
    quantized = info.dtype in MATRIX_TYPES or dtype in MATRIX_TYPES
    group = GROUP_ROWS * info.shape[-1] if quantized else 0
    wide = 0 if info.dtype == dtype else 16
    itemsizes = 2 * array_dtype(info.dtype).itemsize + wide + array_dtype(dtype).itemsize
    return min(BLOCK_SIZE + 2 * group, info.size + group) * itemsizes + 2 * group + strips + lists
