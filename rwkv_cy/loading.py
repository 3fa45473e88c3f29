"""Loading: from a model file to parameters in memory, mapped where the file allows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.blocks import number_type
from rwkv_cy.config import Config
from rwkv_cy.dtypes import GROUP_ROWS, MATRIX_TYPES, PACKED, QUANTIZED_TYPES, array_dtype, storage_type, to_storage
from rwkv_cy.errors import NotEnoughMemoryError, TokenizerError
from rwkv_cy.fingerprint import fingerprint as compute_fingerprint
from rwkv_cy.groups import pack_rows, read_rows, rows_at_once
from rwkv_cy.orientation import read_matrix_rows
from rwkv_cy.packing import PackedStream, plan_packing
from rwkv_cy.parameters import Parameter, ParameterSource, ParameterSpec, TensorInfo
from rwkv_cy.runtime import available_memory
from rwkv_cy.sources import ArraySource, open_source, source_config, source_fingerprint
from rwkv_cy.storage import ModelFile
from rwkv_cy.text import Tokenizer, find_tokenizer, load_tokenizer
from rwkv_cy.tokenizer_choice import guess_tokenizer
from rwkv_cy.unpacking import check_packed

__all__ = ["Loaded", "load_parameters", "resident_bytes"]

#: Elements that are converted at a time.
_BLOCK = 1 << 20


class Loaded:
    """What a LanguageModel is made of.

    Parameters
    ----------
    config : Config
        Of the model.
    parameters : mapping of str to Parameter
        By canonical name.
    tokenizer : callable
        Makes the tokenizer, when it is first asked for.
    fingerprint : str
        Of the parameters.
    check : callable
        Raises FormatError if the file behind the parameters has been cut short.
    """

    def __init__(
        self,
        config: Config,
        parameters: Mapping[str, Parameter],
        tokenizer: Callable[[], Tokenizer | None],
        fingerprint: str,
        check: Callable[[], None],
    ) -> None:
        self.config = config
        self.parameters = parameters
        self.fingerprint = fingerprint
        self.check = check
        self._make_tokenizer = tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; made when it is first asked for."""
        return self._make_tokenizer()

    @classmethod
    def of_arrays(
        cls, config: Config, parameters: Mapping[str, Parameter], tokenizer: Tokenizer | None, fingerprint: str | None
    ) -> Loaded:
        """Return a model that lies in memory already."""
        source = ArraySource(config, parameters)
        return cls(config, parameters, lambda: tokenizer, fingerprint or compute_fingerprint(source), source.check)


def load_parameters(
    path: str | os.PathLike[str],
    *,
    dtype: str | None,
    mmap: bool,
    tokenizer: str | os.PathLike[str] | Tokenizer | None,
    rescale_layer: int | None,
) -> Loaded:
    """Open the model file at `path` and return its parameters; see :func:`rwkv_cy.load`."""
    if dtype is not None and dtype not in MATRIX_TYPES:
        storage_type(dtype)
    source = open_source(path, mmap=mmap)
    try:
        loaded = _load(source, dtype=dtype, mmap=mmap, tokenizer=tokenizer, rescale_layer=rescale_layer)
    except BaseException:
        source.close()
        raise
    return loaded


def _load(
    source: ParameterSource,
    *,
    dtype: str | None,
    mmap: bool,
    tokenizer: str | os.PathLike[str] | Tokenizer | None,
    rescale_layer: int | None,
) -> Loaded:
    config = source_config(source)
    if rescale_layer is not None:
        config = replace(config, rescale_layer=rescale_layer)
    if dtype is not None:
        config = replace(config, dtype="f64" if dtype == "f64" else "f32")
    specs = ARCHITECTURES[config.architecture].parameters(config)
    _check_memory(source, specs, dtype, mmap=mmap)
    parameters = {spec.name: _read(source, spec, dtype, mmap=mmap) for spec in specs}
    loaded = Loaded(
        config,
        parameters,
        _tokenizer_maker(source, tokenizer, config),
        source_fingerprint(source),
        source.check,
    )
    # A mapped file stays open: it is looked at before every forward, and closed when the model is let go.
    if not (mmap and any(_is_mapped(source, spec, parameters[spec.name].dtype) for spec in specs)):
        loaded.check = lambda: None
        source.close()
    return loaded


def resident_bytes(source: ParameterSource, specs: tuple[ParameterSpec, ...], dtype: str | None, *, mmap: bool) -> int:
    """Return the bytes of memory, beside mapped pages of the file, that the parameters take."""
    total = 0
    for spec in specs:
        info, stored = source.info(spec.name), _stored_dtype(source, spec, dtype)
        if not (mmap and _is_mapped(source, spec, stored)):
            # What packing gains is known when the numbers have been read.
            counted = "bf16" if stored == PACKED and info.dtype != PACKED else stored
            total += replace(info, dtype=counted).nbytes
    return total


def _stored_dtype(source: ParameterSource, spec: ParameterSpec, dtype: str | None) -> str:
    """Return the type that a parameter is kept in: vectors as they are, and the embedding never in blocks."""
    own = source.info(spec.name).dtype
    if dtype is None or spec.role == "vector" or (spec.role == "embedding" and dtype in QUANTIZED_TYPES):
        return own
    return "bf16" if spec.role == "embedding" and dtype == PACKED else dtype


def _is_mapped(source: ParameterSource, spec: ParameterSpec, stored: str) -> bool:
    return spec.role != "vector" and stored == source.info(spec.name).dtype and source.view(spec.name) is not None


def _check_memory(source: ParameterSource, specs: tuple[ParameterSpec, ...], dtype: str | None, *, mmap: bool) -> None:
    needed, available = resident_bytes(source, specs, dtype, mmap=mmap), available_memory()
    if available is not None and needed > available:
        raise NotEnoughMemoryError(
            f"{source.path}: expected {needed / 2**20:,.0f} MiB of memory for the parameters, "
            f"there are {available / 2**20:,.0f} MiB; convert it to a smaller dtype with rwkv-cy convert, and map that"
        )


def _read(source: ParameterSource, spec: ParameterSpec, dtype: str | None, *, mmap: bool) -> Parameter:
    info = source.info(spec.name)
    stored = _stored_dtype(source, spec, dtype)
    if info.dtype == PACKED:
        check_packed(source, info)
    elif stored == PACKED:
        packing = None if info.transposed else plan_packing(source, info)
        if packing is not None:
            packed = np.empty(packing.nbytes, np.uint8)
            PackedStream(source, info, packing).fill(packed)
            return Parameter(packed, PACKED, info.shape)
        stored = "bf16"
    packed_from = info.shape if stored in MATRIX_TYPES else None
    if mmap and _is_mapped(source, spec, stored):
        view = source.view(spec.name)
        if view is not None:
            return Parameter(view, stored, packed_from, info.transposed)
    array: npt.NDArray[Any] = np.empty(replace(info, dtype=stored).array_shape, array_dtype(stored))
    if stored == info.dtype:
        source.read_into(spec.name, array.reshape(-1))
    elif stored in QUANTIZED_TYPES or info.dtype in MATRIX_TYPES:
        _through_floats(source, info, stored, array)
    else:
        flat = array.reshape(-1)
        for start in range(0, info.size, _BLOCK):
            block = np.empty(min(_BLOCK, info.size - start), dtype=array_dtype(info.dtype))
            source.read_into(spec.name, block, start)
            flat[start : start + block.size] = to_storage(block, info.dtype, stored)
    return Parameter(array, stored, packed_from, info.transposed and stored not in QUANTIZED_TYPES)


def _through_floats(source: ParameterSource, info: TensorInfo, stored: str, array: npt.NDArray[Any]) -> None:
    """Fill `array`, of type `stored`, by whole groups: from a matrix in blocks, or into such a one."""
    rows, columns = info.shape
    step = rows_at_once(columns, _BLOCK)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        if info.dtype in MATRIX_TYPES:
            block = read_rows(source, info, first, count)
        else:
            block = read_matrix_rows(source, info, first, count)
        if stored in QUANTIZED_TYPES:
            groups = slice(first // GROUP_ROWS, -(-(first + count) // GROUP_ROWS))
            array[groups] = pack_rows(
                to_storage(block, number_type(info), "f32"), stored, f"{source.path}: {info.name}"
            )
        else:
            array[first : first + count] = to_storage(block, number_type(info), stored)


def _tokenizer_maker(
    source: ParameterSource, asked: str | os.PathLike[str] | Tokenizer | None, config: Config
) -> Callable[[], Tokenizer | None]:
    if isinstance(asked, (str, os.PathLike)):
        found = find_tokenizer(os.fspath(asked))
        return lambda: found
    if asked is not None:
        if not isinstance(asked, Tokenizer):
            raise TokenizerError(
                f'tokenizer: expected "bytes", "world", a vocabulary file or a Tokenizer, got {type(asked).__name__}'
            )
        return lambda: asked
    if isinstance(source, ModelFile):
        stored = source.header.tokenizer
        return lambda: None if stored is None else load_tokenizer(stored.kind, stored.data)
    guess = guess_tokenizer(source.path, config.vocab_size)
    return lambda: None if guess is None else find_tokenizer(guess)
