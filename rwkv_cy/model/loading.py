"""Loading: from a model file to parameters, mapped where they lie in the file or read into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

from rwkv_cy.architectures import architecture_of
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.checkpoint.fingerprint import fingerprint as compute_fingerprint
from rwkv_cy.checkpoint.sources import ArraySource, open_source, source_config, source_fingerprint
from rwkv_cy.checkpoint.tokenizer_choice import guess_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.dtypes import MATRIX_TYPES, PACKED, QUANTIZED_TYPES, STORAGE_TYPES
from rwkv_cy.errors import ConfigError, NotEnoughMemoryError, TokenizerError
from rwkv_cy.runtime import MEMORY_KINDS, MemoryKind, available_memory, get_num_threads
from rwkv_cy.storage import ModelFile
from rwkv_cy.tensors.filling import read_parameters
from rwkv_cy.tensors.packing import Packing, plan_packing
from rwkv_cy.tensors.tensor import Parameter, ParameterSource, TensorInfo
from rwkv_cy.tensors.unpacking import check_packed
from rwkv_cy.text import Tokenizer, find_tokenizer, load_tokenizer

__all__ = ["Loaded", "load_parameters"]


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
    memory: MemoryKind,
    tokenizer: str | os.PathLike[str] | Tokenizer | None,
    rescale_layer: int | None,
) -> Loaded:
    """Open the model file at `path` and return its parameters; see :func:`rwkv_cy.load`."""
    if memory not in MEMORY_KINDS:
        raise ConfigError(f"load: expected memory 'map' or 'resident', got {memory!r}")
    known = (*STORAGE_TYPES, *MATRIX_TYPES)
    if dtype is not None and dtype not in known:
        raise ConfigError(f"dtype: expected one of {', '.join(sorted(known))}, got {dtype!r}")
    source = open_source(path)
    try:
        loaded = _load(source, dtype=dtype, memory=memory, tokenizer=tokenizer, rescale_layer=rescale_layer)
    except BaseException:
        source.close()
        raise
    return loaded


def _load(
    source: ParameterSource,
    *,
    dtype: str | None,
    memory: MemoryKind,
    tokenizer: str | os.PathLike[str] | Tokenizer | None,
    rescale_layer: int | None,
) -> Loaded:
    config = source_config(source)
    if rescale_layer is not None:
        config = replace(config, rescale_layer=rescale_layer)
    if dtype is not None:
        config = replace(config, dtype="f64" if dtype == "f64" else "f32")
    make_tokenizer = _tokenizer_maker(source, tokenizer, config)  # one that cannot be had is told before all is read
    specs = architecture_of(config).parameters(config)
    packings = _plan_packings(source, specs) if dtype == PACKED else {}
    kept = {spec.name: _kept(source, spec, dtype, packings.get(spec.name)) for spec in specs}
    twice = [name for name, info in kept.items() if source.info(name).rounds_twice(info.dtype)]
    if twice:
        raise ConfigError(
            f"{source.path}: expected matrices that are not quantized yet to load as {dtype}, got {len(twice)} that "
            f"are, first {twice[0]} ({source.info(twice[0]).source_dtype}); load them as they are (no dtype), load the "
            "original, or write a file of them with rwkv-cy quantize --force"
        )
    for name in kept:
        if source.info(name).dtype == PACKED:
            check_packed(source, source.info(name))
    mapped = _map(source, specs, kept) if memory == "map" else {}
    missing = [info for name, info in kept.items() if name not in mapped]
    _check_memory(source, missing)
    found = mapped | read_parameters(source, missing, get_num_threads(), packings)
    loaded = Loaded(
        config,
        {spec.name: found[spec.name] for spec in specs},
        make_tokenizer,
        source_fingerprint(source),
        source.check,
    )
    # A mapped file stays open: it is looked at before every forward, and closed when the model is let go.
    if not mapped:
        loaded.check = lambda: None
        source.close()
    return loaded


def _plan_packings(source: ParameterSource, specs: tuple[ParameterSpec, ...]) -> dict[str, Packing]:
    """Say how matrices are packed, where that pays; what lies transposed is read in part, which saves more."""
    found = {}
    for spec in specs:
        info = source.info(spec.name)
        if spec.quantizable and info.dtype != PACKED and not info.transposed:
            packing = plan_packing(source, info)
            if packing is not None:
                found[spec.name] = packing
    return found


def _kept(source: ParameterSource, spec: ParameterSpec, dtype: str | None, packing: Packing | None) -> TensorInfo:
    """Return the parameter as it is kept: vectors as they are, and the embedding never in blocks."""
    info = source.info(spec.name)
    if dtype in (None, info.dtype) or not spec.converted or (spec.kind == "embedding" and dtype in QUANTIZED_TYPES):
        return info
    if packing is not None:
        return replace(info, dtype=PACKED, packed_nbytes=packing.nbytes)
    dtype = "bf16" if dtype == PACKED else dtype
    return replace(info, dtype=dtype, transposed=info.transposed and dtype not in QUANTIZED_TYPES)


def _map(
    source: ParameterSource, specs: tuple[ParameterSpec, ...], infos: Mapping[str, TensorInfo]
) -> dict[str, Parameter]:
    """Return the matrices that can be used where they lie in the file."""
    found = {}
    for spec in specs:
        kept = infos[spec.name]
        if not spec.converted or kept != source.info(spec.name):
            continue
        view = source.view(spec.name)
        if view is not None:
            packed_from = kept.shape if kept.dtype in MATRIX_TYPES else None
            found[spec.name] = Parameter(view, kept.dtype, packed_from, kept.transposed)
    return found


def _check_memory(source: ParameterSource, missing: list[TensorInfo]) -> None:
    needed, available = sum(info.nbytes for info in missing), available_memory()
    if available is not None and needed > available:
        raise NotEnoughMemoryError(
            f"{source.path}: expected {needed / 2**20:,.0f} MiB of memory for the parameters, "
            f"there are {available / 2**20:,.0f} MiB; convert it to a smaller dtype with rwkv-cy convert, and map that"
        )


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
