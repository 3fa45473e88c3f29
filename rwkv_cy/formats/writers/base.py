"""The interface of writers: an export format decides how tensors are stored, and lays out its files.

An export has three steps, and a format takes part in each.

1. The layout (:attr:`ExportFormat.layouts`) gives the tensors their names and shapes in the target. It is one of the
   tables in :mod:`rwkv_cy.formats.layouts`, the same that reads such files.
2. :meth:`ExportFormat.store` returns the :class:`StoredType` of each tensor: the type of the numbers that are
   converted for it, and, for quantized blocks, how they are encoded.
3. :meth:`ExportFormat.files` returns the files to write: for each its exact size, and a function that yields its bytes
   from the first to the last. It calls `read` for the stored bytes of a tensor, and sees neither numbers nor sources.

The caller (:mod:`rwkv_cy.toolkit.export`) reads, converts and encodes the tensors block by block, reserves the disk
space, writes the bytes as they come, and gives the files their names when all of them are complete.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy.typing as npt

from rwkv_cy.config import Config
from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.files.blocks import Block, Summed
from rwkv_cy.formats.layouts.layout import Layout, Shapes
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.rounding import Rounding

__all__ = [
    "FLOAT_TYPES",
    "NOTES_BYTES",
    "BlockCodec",
    "ExportFormat",
    "ExportTensor",
    "ExportedModel",
    "Outcome",
    "ReadTensor",
    "StoredTensor",
    "StoredType",
    "TargetFile",
    "Vocabulary",
]

Array = npt.NDArray[Any]

#: Most bytes of the small files that are written last.
NOTES_BYTES = 64 << 10


@dataclass(frozen=True)
class BlockCodec:
    """Encodes numbers in blocks; several threads may call it at once.

    Attributes
    ----------
    encode : callable
        Whole blocks of numbers, 1-D, to their bytes: uint8, of any shape.
    decode : callable
        Bytes of whole blocks, 1-D, to their numbers: of the same storage type, of any shape.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]


@dataclass(frozen=True)
class StoredType:
    """How the numbers of a tensor are stored in a target.

    Attributes
    ----------
    name : str
        The format's own name for it (``"q5_1"``); that of the storage type for plain numbers.
    numbers : str
        Storage type to which the numbers are converted before they are encoded: ``"f64"``, ``"f32"``, ``"f16"`` or
        ``"bf16"``.
    block_size : int, default 1
        Numbers that are encoded together; blocks follow each other in C order.
    block_nbytes : int
        Bytes of an encoded block.
    codec : BlockCodec, optional
        Encodes the blocks; None if the numbers are stored as they are.
    """

    name: str
    numbers: str
    block_size: int
    block_nbytes: int
    codec: BlockCodec | None = None


#: Plain numbers, by the name of their storage type.
FLOAT_TYPES: dict[str, StoredType] = {
    storage.name: StoredType(storage.name, storage.name, 1, storage.itemsize) for storage in STORAGE_TYPES.values()
}


@dataclass(frozen=True)
class ExportTensor:
    """A tensor to be stored, before its type in the target is chosen.

    Attributes
    ----------
    name : str
        In the target.
    shape : tuple of int
        In the target.
    kind : str
        Kind of the parameter that it is made of: ``"matrix"``, ``"low_rank"``, ``"vector"``, ``"embedding"``,
        ``"head"`` or ``"state"``.
    dtype : str
        Storage type that the policy chooses for it (:func:`rwkv_cy.tensors.policy.plain_type`).
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a target stores it.

    Attributes
    ----------
    name : str
    shape : tuple of int
    kind : str
    type : StoredType
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    type: StoredType

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the target."""
        return self.size // self.type.block_size * self.type.block_nbytes


#: Returns the stored bytes of a tensor in order; each part is valid until the one after the next.
ReadTensor = Callable[[StoredTensor], "Iterable[bytes | memoryview] | Summed"]


@dataclass(frozen=True)
class TargetFile:
    """A file to write.

    Attributes
    ----------
    name : str
        Its name within a folder; empty for an export that is one file.
    size : int
        Bytes.
    blocks : callable
        Given what reads tensors, yields the bytes of the file from the first to the last.
    """

    name: str
    size: int
    blocks: Callable[[ReadTensor], Iterable[Block]]

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> TargetFile:
        """Return a file of bytes in memory."""
        return cls(name, len(data), lambda read: (data,))


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of a model, as formats store it.

    Attributes
    ----------
    kind : str
        ``"bytes"``, ``"world"`` or ``"huggingface"``.
    data : bytes
        What a model file stores of it: for ``"huggingface"`` the text of a tokenizer.json.
    end_of_text : int or None
        The id that ends a text.
    tokens : callable
        Returns the bytes of each id; called only where a format needs them.
    text : callable
        Returns a World vocabulary in its published text format.
    """

    kind: str
    data: bytes
    end_of_text: int | None
    tokens: Callable[[], Sequence[bytes]]
    text: Callable[[], bytes]


@dataclass(frozen=True)
class ExportedModel:
    """What a format may say of the model.

    Attributes
    ----------
    config : Config
    label : str
        The version, for people (``"RWKV-4"``).
    name : str
        Name of the source, without its suffix.
    layout : Layout
        The layout of the tensors.
    shapes : mapping of str to tuple of int
        Canonical names and shapes of the model.
    vocabulary : Vocabulary or None
    shard_size : int
        Most bytes of a file of weights, for formats that split them.
    """

    config: Config
    label: str
    name: str
    layout: Layout
    shapes: Shapes
    vocabulary: Vocabulary | None
    shard_size: int


@dataclass(frozen=True)
class Outcome:
    """What is known when all tensors are written.

    Attributes
    ----------
    source_name, source_format : str
    source_sha256 : str
        Of the concatenated files of the source, in hexadecimal.
    rounding : mapping of str to Rounding
        Measured errors of the tensors that were rounded or quantized, by their names in the target.
    warnings : tuple of str
    """

    source_name: str
    source_format: str
    source_sha256: str
    rounding: Mapping[str, Rounding]
    warnings: tuple[str, ...]


class ExportFormat(ABC):
    """One format that models are exported to.

    Attributes
    ----------
    name : str
        Key in the registry, and value of the option ``--format``.
    label : str
        Name for people.
    suffixes : tuple of str
        Suffixes of target names that mean this format, in lower case.
    signatures : tuple of bytes
        What files of this format begin with: only such a file is replaced.
    layouts : tuple of str
        Keys of :data:`rwkv_cy.formats.layouts.EXPORT_LAYOUTS` that may be chosen; the first is the default.
    dtypes : tuple of str
        Names of types that may be requested for the matrices.
    folder : bool
        Whether the target is a folder.
    stores_tokenizer : bool
        Whether the tokenizer is a part of it.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    signatures: ClassVar[tuple[bytes, ...]] = ()
    layouts: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]] = ("f64", "f32", "f16", "bf16")
    folder: ClassVar[bool] = False
    stores_tokenizer: ClassVar[bool] = False

    def recognises(self, head: bytes) -> bool:
        """Tell whether a file that begins with these bytes is of this format; it may be damaged or truncated."""
        return head.startswith(self.signatures)

    def store(self, tensor: ExportTensor, dtype: str | None) -> StoredType:
        """Choose how a tensor is stored: as the policy says, if this is not overridden.

        Parameters
        ----------
        tensor : ExportTensor
        dtype : str or None
            The requested type, one of `dtypes`.
        """
        return FLOAT_TYPES[tensor.dtype]

    def problems(self, model: ExportedModel) -> Iterator[str]:
        """Yield what the programs that read this format cannot do with such a model.

        By default: what files of tensors alone do not say, so that those programs, and this package when it reads such
        a file, compute something else.
        """
        config = model.config
        epsilons = [("LayerNorms", Config.layer_norm_eps, config.layer_norm_eps)]
        if config.head_size:
            epsilons.append(("GroupNorm", Config.group_norm_eps, config.group_norm_eps))
        for name, usual, own in epsilons:
            if own != usual:
                yield f"has {usual:g} for the epsilon of the {name}, and the model {own:g}"

    def notes(self, model: ExportedModel, tensors: Sequence[StoredTensor], outcome: Outcome) -> Mapping[str, bytes]:
        """Return small files that tell of the export, by name, to be written last; none by default.

        Only formats of folders may have some. They are :data:`NOTES_BYTES` at most.
        """
        return {}

    @abstractmethod
    def files(self, model: ExportedModel, tensors: Sequence[StoredTensor]) -> Sequence[TargetFile]:
        """Lay out the files of an export.

        Parameters
        ----------
        model : ExportedModel
        tensors : sequence of StoredTensor
            In the order of the architecture's parameters.

        Raises
        ------
        ConfigError
            If the format cannot store such a model.
        """
