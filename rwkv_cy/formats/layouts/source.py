"""A source seen through a layout: tensors under other names, in other forms, read and computed as they are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rwkv_cy.dtypes import storage_type, to_storage, widen
from rwkv_cy.errors import FormatError
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.formats.layouts.layout import Part, Recipe
from rwkv_cy.formats.strided import read_strided
from rwkv_cy.tensors.tensor import Advance, ParameterSource, TensorInfo, check_buffer

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["TranslatedSource"]

#: Most elements of a tensor that is reordered, in memory. The largest low-rank factors have 2**21.
MAX_REORDERED = 1 << 26


class TranslatedSource:
    """A :class:`~rwkv_cy.tensors.tensor.ParameterSource` of tensors that are made from those of another one.

    Tensors that are renamed, reshaped or cut out of another along its first axis stay views of the memory map.

    Parameters
    ----------
    source : ParameterSource
        Closed with this one. What is quantized or bf12 in it keeps its form; what is transposed does, or is a whole
        matrix whose elements change their order.
    recipes : mapping of str to Recipe
        By the name that the tensor gets.

    Raises
    ------
    FormatError
        If a tensor whose elements change their order has more than MAX_REORDERED.
    """

    def __init__(self, source: ParameterSource, recipes: Mapping[str, Recipe]) -> None:
        self.path = source.path
        self.format = source.format
        self.metadata: Mapping[str, str] = source.metadata
        self.left_out: Mapping[str, str] = source.left_out
        self._source = source
        self._recipes = dict(recipes)
        self._infos = {name: self._describe(name, recipe) for name, recipe in recipes.items()}

    def _describe(self, name: str, recipe: Recipe) -> TensorInfo:
        first = recipe.parts[0]
        info = self._source.info(first.name)
        dtype, nbytes, transposed = info.dtype, info.source_nbytes, info.transposed
        if first.operations or len(recipe.parts) > 1 or first.shape != info.shape:
            inner = [(part, self._source.info(part.name)) for part in recipe.parts]
            dtypes = {"f32" if part.computes and info.dtype != "f64" else info.dtype for part, info in inner}
            for part in recipe.parts:
                if part.reorders and part.size > MAX_REORDERED:
                    raise FormatError(
                        f"{self.path}: {name}: expected a low-rank factor of at most {MAX_REORDERED} elements, "
                        f"got {part.size}; this is not an RWKV model"
                    )
            nbytes = sum([info.source_nbytes * part.size // info.size for part, info in inner])
            dtype = dtypes.pop() if len(dtypes) == 1 else "f64" if "f64" in dtypes else "f32"
            transposed = transposed and not first.reorders
        # Not replace(), which takes three times as long: a file has thousands of them.
        return TensorInfo(
            name, recipe.shape, dtype, info.source_name, info.source_dtype, nbytes, transposed, info.encoded_nbytes
        )

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The files that hold the weights, as they were opened."""
        return self._source.files

    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in the file's order."""
        return tuple(self._infos)

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        return self._infos[name]

    def recipe(self, name: str) -> Recipe:
        """Return how the tensor `name` is made; KeyError if there is none."""
        return self._recipes[name]

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with elements from `start`, in C order.

        Raises
        ------
        FormatError
            If a number is one that the layout cannot hold.
        """
        self.read_scaled(name, buffer, start, 1.0)

    def read_scaled(self, name: str, buffer: npt.NDArray[Any], start: int, factor: float) -> None:
        """Read as :meth:`read_into`, with the numbers of the file that others are computed from times `factor`.

        With a factor near 1, it shows how far the rounding of the file moves what is computed.
        """
        info = self._infos[name]
        parts = self._recipes[name].parts
        check_buffer(info, buffer, start)
        if self._keeps_form(parts):
            self._source.read_into(parts[0].name, buffer, start)
            return
        position = 0  # of the part's first element in the tensor
        for part in parts:
            size = math.prod(part.result_shape)
            begin, end = max(start, position), min(start + buffer.size, position + size)
            if begin < end:
                self._read_part(info, part, buffer[begin - start : end - start], begin - position, factor)
            position += size

    def _keeps_form(self, parts: tuple[Part, ...]) -> bool:
        """Tell whether the tensor is one of the source's as it is, but for its name and shape."""
        if len(parts) > 1:
            return False
        (part,) = parts
        return not part.reorders and not part.computes and part.size == self._source.info(part.name).size

    def _read_part(self, info: TensorInfo, part: Part, buffer: npt.NDArray[Any], start: int, factor: float) -> None:
        """Fill `buffer` with elements of the result of a part, from its element `start` on."""
        own = self._source.info(part.name).dtype
        block = (
            buffer
            if own == info.dtype and not part.computes
            else read_buffer(buffer.size, storage_type(own).array_dtype)
        )
        if part.reorders:
            read_strided(self._reordered(part), block, start)
            self._source.check()  # it may be a map
        else:
            self._source.read_into(part.name, block, part.start + start)
        if part.computes:
            numbers = widen(block, own, "f64") * factor
            for operation in part.operations:
                if operation.computes:
                    numbers = operation.run(numbers, f"{self.path}: {info.source_name}")
            block, own = numbers, "f64"
        if block is not buffer:
            buffer[:] = to_storage(block, own, info.dtype)

    def _reordered(self, part: Part) -> npt.NDArray[Any]:
        """Return the whole part with its elements in their new order, before anything is computed."""
        info = self._source.info(part.name)
        array = self._source.view(part.name)
        if array is None:
            array = read_buffer(info.size, storage_type(info.dtype).array_dtype)
            self._source.read_into(part.name, array)
        if info.transposed:
            array = array.reshape(info.array_shape).T
        else:
            array = array.reshape(-1)[part.start : part.start + part.size].reshape(part.shape)
        for operation in part.operations:
            if not operation.computes:
                array = operation.run(array, "")
        return array

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the tensor as a read-only array over the memory map, or None where it is computed or reordered."""
        info = self._infos[name]
        parts = self._recipes[name].parts
        if len(parts) > 1 or parts[0].reorders or parts[0].computes:
            return None
        (part,) = parts
        array = self._source.view(part.name)
        if array is None:
            return None
        if self._keeps_form(parts) and array.shape == info.array_shape:
            return array
        return array.reshape(-1)[part.start : part.start + part.size].reshape(info.shape)

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Compare the checksums of the bytes that a tensor comes from; False where the source has none."""
        checked = [self._source.check_bytes(part.name, advance) for part in self._recipes[name].parts]
        return all(checked)

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32 of a tensor that is another one with its bytes as they are, if the source has it."""
        parts = self._recipes[name].parts
        first, own = self._source.info(parts[0].name), self._infos[name]
        whole = len(parts) == 1 and not (parts[0].reorders or parts[0].computes) and parts[0].size == first.size
        same = (first.dtype, first.transposed) == (own.dtype, own.transposed)
        return self._source.checksum(parts[0].name) if whole and same else None

    def check(self) -> None:
        """Raise FormatError if a file has been truncated since it was opened."""
        self._source.check()

    def close(self) -> None:
        """Close the source. Arrays from :meth:`view` stay valid."""
        self._source.close()

    def __enter__(self) -> TranslatedSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
