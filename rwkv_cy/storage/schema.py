"""The format of model files as values: names, numbers and limits, the header, and the shape of chunks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rwkv_cy.errors import FormatError, SpecError
from rwkv_cy.records import dataclass, replace
from rwkv_cy.tensors.codecs import CODECS
from rwkv_cy.tensors.tensor import TensorInfo

__all__ = [
    "ARRAYS",
    "BLOCK_BYTES",
    "CHUNKED_FROM",
    "CHUNK_BYTES",
    "FOOTER_PATH",
    "FORMAT_NAME",
    "HEADER_PATH",
    "INDEX_PATH",
    "MAJOR",
    "MATRIX_SHAPE",
    "MODEL_KIND",
    "PAGE",
    "PARAMETERS",
    "TOKENIZER_KINDS",
    "TOKENIZER_PATH",
    "TRANSPOSED_SHAPE",
    "DatasetSpec",
    "ModelHeader",
    "Progress",
    "StoredTokenizer",
    "format_version",
    "is_path",
    "parameter_name",
    "parameter_path",
]

FORMAT_NAME = "rwkv-cy"
#: The highest major version that this package reads and writes.
MAJOR = 2

#: Size of the footer, granularity of the metadata datasets, and alignment of what is not tiny.
PAGE = 4096
#: Datasets of this many bytes or more are chunked.
CHUNKED_FROM = 64 << 10
CHUNK_BYTES = 4 << 20
#: A chunk of HDF5 must stay below this.
_CHUNK_LIMIT = (1 << 32) - 1

MODEL_KIND = "model"

#: What is read, summed and written at a time; it bounds the memory of a conversion.
BLOCK_BYTES = 1 << 20

#: Called with the number of bytes just read or written.
Progress = Callable[[int], None]

PARAMETERS = "parameters"
ARRAYS = "arrays"
HEADER_PATH = "metadata/header"
TOKENIZER_PATH = "metadata/tokenizer"
INDEX_PATH = "metadata/index"
FOOTER_PATH = "metadata/seal"

#: Names of the rows and columns of a matrix among the attributes of its dataset, and in the index: of one that is
#: quantized, packed or transposed, and of one whose transpose is quantized.
MATRIX_SHAPE = "matrix_shape"
TRANSPOSED_SHAPE = "transposed_shape"
#: Minor version of 1.x that stands for the latter: such files are of version 2.4.
_TRANSPOSED_BLOCKS_SINCE = 5

TOKENIZER_KINDS = ("bytes", "world", "huggingface")

#: 1,000 layers of version 7 have 33,006 tensors.
MAX_DATASETS = 65_536
MAX_HEADER_BYTES = 1 << 20
#: The largest tokenizer.json in use has 20 MB.
MAX_TOKENIZER_BYTES = 64 << 20
MAX_PATH = 255
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 48

_PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)
_NO_NAMES = frozenset((".", ".."))

#: Bytes of the elements of stored arrays, by the names of storage types; u8 is for metadata only.
ITEMSIZES = {"u8": 1, **{name: codec.itemsize for name, codec in CODECS.items()}}


@dataclass(frozen=True)
class StoredTokenizer:
    """A tokenizer as stored in a model file.

    Attributes
    ----------
    kind : str
        ``"bytes"``, ``"world"`` or ``"huggingface"``.
    data : bytes
        What the tokenizer of that kind is made from again; empty for ``"bytes"``.
    """

    kind: str
    data: bytes


def _is_plain(item: object) -> bool:
    """Return whether an item of a config is a number, text, or a table of integers."""
    if isinstance(item, dict):
        return all(isinstance(value, int) for value in item.values())
    return isinstance(item, (int, float, str))


@dataclass(frozen=True)
class ModelHeader:
    """The header: what a model file stores beside the parameters.

    Attributes
    ----------
    architecture : str
        ``"rwkv4"``.
    config : mapping of str to int, float, str, or a table of int
        The model's dimensions and settings.
    fingerprint : str
        Hexadecimal digest of the model's parameters, carried by its states.
    tokenizer : StoredTokenizer or None
    source : mapping of str to str
        Where the parameters came from: ``name``, ``format``, ``sha256``, ``size``.
    created_by : str
        Program and version that wrote the file.
    """

    architecture: str
    config: Mapping[str, int | float | str | Mapping[str, int]]
    fingerprint: str
    tokenizer: StoredTokenizer | None
    source: Mapping[str, str]
    created_by: str

    def to_json(self) -> dict[str, Any]:
        """Return the content of the header dataset; the tokenizer's data has its own dataset."""
        return {
            "architecture": self.architecture,
            "config": dict(self.config),
            "fingerprint": self.fingerprint,
            "tokenizer": None if self.tokenizer is None else {"kind": self.tokenizer.kind},
            "source": dict(self.source),
            "created_by": self.created_by,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], data: bytes, path: Path) -> ModelHeader:
        """Return the header that was stored as `value`, with the tokenizer's `data`.

        Raises
        ------
        FormatError
            If a field is missing or of another type.
        """
        config, source, tokenizer = value.get("config"), value.get("source"), value.get("tokenizer")
        kind = tokenizer.get("kind") if isinstance(tokenizer, dict) else None
        if (
            not all(isinstance(value.get(field), str) for field in ("architecture", "fingerprint", "created_by"))
            or not isinstance(config, dict)
            or not all(_is_plain(item) for item in config.values())
            or not isinstance(source, dict)
            or not all(isinstance(item, str) for item in source.values())
            or (tokenizer is not None and kind not in TOKENIZER_KINDS)
        ):
            raise FormatError(
                f"{path}: header: expected architecture, config, fingerprint, tokenizer, source and created_by, "
                "got another header; convert the model again"
            )
        return ModelHeader(
            architecture=value["architecture"],
            config=config,
            fingerprint=value["fingerprint"],
            tokenizer=None if kind is None else StoredTokenizer(kind, data),
            source=source,
            created_by=value["created_by"],
        )

    def with_source(self, additions: Mapping[str, str]) -> ModelHeader:
        """Return the header with further fields of the source."""
        return replace(self, source={**self.source, **additions})


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a file: its path, its type and its shape, and the layout that follows from them.

    Attributes
    ----------
    path : str
        Path from the root group, without a leading slash.
    dtype : str
        A storage type (``"bf16"``), one of matrices (``"q8"``, ``"bf12"``), or ``"u8"``.
    shape : tuple of int
        One to eight dimensions, none of them 0. That of the packed blocks, for a quantized matrix; (columns, rows),
        for a transposed one of floats; the bytes of a bf12 one.
    matrix_shape : tuple of int, optional
        (rows, columns) of a quantized, packed or transposed matrix; None for all others.
    transposed_blocks : bool, default False
        The packed blocks are those of the transposed matrix.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    matrix_shape: tuple[int, ...] | None = None
    transposed_blocks: bool = False

    @staticmethod
    def of_parameter(info: TensorInfo) -> DatasetSpec:
        """Return the dataset that holds a parameter.

        Raises
        ------
        SpecError
            If it is of a type of matrices or transposed, and no matrix, or its shape is not a tuple of int.
        """
        path = parameter_path(info.name)
        if not isinstance(info.shape, tuple) or not all(isinstance(size, int) for size in info.shape):
            raise SpecError(
                f"{path[:80]}: expected a shape that is a tuple of int, got {str(info.shape)[:80]!r}; convert it"
            )
        matrices_only = info.codec.matrices_only
        if not matrices_only and not info.transposed:
            return DatasetSpec(path, info.dtype, info.shape)
        if len(info.shape) != 2:
            wanted = f"as {info.dtype}" if matrices_only else "transposed"
            raise SpecError(
                f"{path[:80]}: expected a matrix to store {wanted}, got shape {str(info.shape)[:80]}; "
                "store it in another way"
            )
        return DatasetSpec(path, info.dtype, info.array_shape, info.shape, matrices_only and info.transposed)

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """Shape of the tensor that the dataset holds."""
        return self.matrix_shape or self.shape

    @property
    def transposed(self) -> bool:
        """Whether it holds the transpose of a matrix, as floats or in blocks."""
        return self.matrix_shape is not None and (self.transposed_blocks or not CODECS[self.dtype].matrices_only)

    @property
    def shape_fields(self) -> dict[str, tuple[int, ...]]:
        """Shape of the matrix by the name that it has in a file, which tells what its blocks are; for others empty."""
        if self.matrix_shape is None:
            return {}
        return {TRANSPOSED_SHAPE if self.transposed_blocks else MATRIX_SHAPE: self.matrix_shape}

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * ITEMSIZES[self.dtype]

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """Shape of a chunk: whole rows, about 4 MiB of them; None for a contiguous dataset.

        The rows are dealt evenly to the chunks, so that the last one wastes less than a row per chunk.
        """
        return _chunk(self.shape, ITEMSIZES[self.dtype])

    @property
    def span(self) -> int:
        """Size of the dataset in the file, in whole chunks."""
        return _span(self.shape, ITEMSIZES[self.dtype])

    def check(self) -> None:
        """Raise SpecError if the dataset is not valid in a model file."""
        if not is_path(self.path):
            raise SpecError(
                f"{self.path[:80]!r}: expected a name of letters, digits, '_', '-' and '.', at most {MAX_PATH} long, "
                "got another; rename the tensor"
            )
        problem = _problem(self.dtype, self.shape, self.matrix_shape, self.transposed_blocks)
        if problem is not None:
            raise SpecError(f"{self.path}: expected {problem}")


@lru_cache(maxsize=512)  # the layers of a model are alike
def _problem(dtype: str, shape: tuple[int, ...], matrix: tuple[int, ...] | None, of_transpose: bool) -> str | None:
    """Return why a model file cannot have a dataset of that type and shape, after "expected"; None if it can."""
    if dtype not in ITEMSIZES:
        return f"one of {', '.join(ITEMSIZES)}, got {dtype[:80]!r}; convert it"
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        return (
            f"1 to {MAX_DIMENSIONS} dimensions, none of them 0, and at most 2**48 elements, "
            f"got shape {str(shape)[:80]}; leave the tensor out"
        )
    codec = CODECS.get(dtype)
    if matrix is None and not of_transpose and (codec is None or not codec.matrices_only):
        return None
    if codec is None or matrix is None or len(matrix) != 2 or min(matrix) < 1:
        return (
            "the rows and columns of a quantized, packed or transposed matrix, and of no other tensor, "
            f"got {str(matrix)[:80]} for {dtype}; convert it again"
        )
    if of_transpose and codec.factor_type is None:
        return f"{MATRIX_SHAPE} of a {dtype} matrix, got {TRANSPOSED_SHAPE}; convert it again"
    problem = None
    if codec.matrices_only:
        problem = codec.shape_problem(shape, matrix[::-1] if of_transpose else matrix)
    elif shape != matrix[::-1]:
        problem = f"columns and rows {matrix[::-1]} for {dtype} of shape {matrix}, got {shape}"
    return None if problem is None else f"{problem}; convert it again"


@lru_cache(maxsize=512)
def _chunk(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...] | None:
    nbytes = math.prod(shape) * itemsize
    if nbytes < CHUNKED_FROM:
        return None
    axis = next(i for i, size in enumerate(shape) if size > 1)
    row = nbytes // shape[axis]
    if row > _CHUNK_LIMIT:
        return None
    chunks = min(-(-nbytes // CHUNK_BYTES), shape[axis])
    return (*shape[:axis], -(-shape[axis] // chunks), *shape[axis + 1 :])


@lru_cache(maxsize=512)
def _span(shape: tuple[int, ...], itemsize: int) -> int:
    chunk = _chunk(shape, itemsize)
    rounded = shape if chunk is None else [-(-size // part) * part for size, part in zip(shape, chunk, strict=True)]
    return math.prod(rounded) * itemsize


def format_version(specs: Iterable[DatasetSpec]) -> tuple[int, int]:
    """Return the version of a file of these datasets, major and minor: the lowest that describes it.

    A program that knows 1.x alone would take a transposed matrix for another tensor, or, if it is square, for the
    matrix itself: it must refuse the file.
    """
    datasets = tuple(specs)
    newest = max(_since(spec) for spec in datasets)
    return (2, max(0, newest - 1)) if any(spec.transposed for spec in datasets) else (1, newest)


def _since(spec: DatasetSpec) -> int:
    """Return the minor version of 1.x that introduced what a dataset needs, but for transposed floats."""
    if spec.transposed_blocks:
        return _TRANSPOSED_BLOCKS_SINCE
    return CODECS[spec.dtype].since if spec.dtype in CODECS else 0


def is_path(path: str) -> bool:
    """Return whether `path` may name a dataset: plain ASCII parts, none of them ``.`` or ``..``."""
    return len(path) <= MAX_PATH and _PATH.fullmatch(path) is not None and _NO_NAMES.isdisjoint(path.split("/"))


def parameter_path(name: str) -> str:
    """Return the path of the parameter `name`: those of one layer share a group.

    >>> parameter_path("blocks.3.att.key.weight")
    'parameters/blocks.3/att.key.weight'
    """
    words = name.split(".", 2)
    if len(words) == 3 and words[0] == "blocks" and words[2] and words[1].isdecimal() and words[1].isascii():
        return f"{PARAMETERS}/blocks.{words[1]}/{words[2]}"
    return f"{PARAMETERS}/{name}"


def parameter_name(path: str) -> str | None:
    """Return the name of the parameter at `path`, or None if no parameter has that path."""
    group, _, rest = path.partition("/")
    name = rest.replace("/", ".")
    return name if group == PARAMETERS and parameter_path(name) == path else None
