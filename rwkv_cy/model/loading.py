"""Loading: the parameters of a model file, memory-mapped or read into memory."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from math import prod

from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.checkpoint.fingerprint import fingerprint as compute_fingerprint
from rwkv_cy.checkpoint.memory import MemorySource
from rwkv_cy.checkpoint.tokenizer_choice import check_size, fit_warning, named_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.dtypes import check_dtype
from rwkv_cy.errors import ConfigError, NotEnoughMemoryError, NumericalError, TokenizerError
from rwkv_cy.records import replace
from rwkv_cy.runtime import available_memory, get_num_threads
from rwkv_cy.tensors.converter import Converter, Progress, describe_overflow, read_parameters
from rwkv_cy.tensors.policy import Target, choose_all
from rwkv_cy.tensors.reading import check_stored
from rwkv_cy.tensors.tensor import Parameter, ParameterSource
from rwkv_cy.text import Tokenizer
from rwkv_cy.units import byte_size

__all__ = ["Loaded", "load_parameters", "load_tokenizer_of"]

#: Kinds of parameters of which a token reads one row.
_READ_BY_ROWS = ("embedding", "table")


class Loaded:
    """The parts of a LanguageModel.

    Parameters
    ----------
    config : Config
    parameters : mapping of str to Parameter
        By canonical name.
    tokenizer : callable
        Makes the tokenizer on first use.
    fingerprint : str
        Digest of the parameters.
    check : callable
        Raises FormatError if the mapped file has been truncated.
    close : callable
        Closes that file.
    """

    def __init__(
        self,
        config: Config,
        parameters: Mapping[str, Parameter],
        tokenizer: Callable[[], Tokenizer | None],
        fingerprint: str,
        check: Callable[[], None],
        close: Callable[[], None],
    ) -> None:
        self.config = config
        self.parameters = parameters
        self.fingerprint = fingerprint
        self.check = check
        self.close = close
        self._make_tokenizer = tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, made on first use."""
        return self._make_tokenizer()

    def summary(self) -> str:
        """Return version, size and types, the most frequent one first, in words."""
        sizes: Counter[str] = Counter()
        for parameter in self.parameters.values():
            sizes[parameter.dtype] += prod(parameter.shape)
        types = " and ".join(name for name, _ in sizes.most_common())
        return (
            f"{architecture_of(self.config).label}, num_layers={self.config.num_layers}, "
            f"d_model={self.config.d_model}, {sizes.total():,} parameters in {types}"
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Check the file after the block, which computes: what it read while the file was truncated is zeros."""
        try:
            yield
        except NumericalError:
            self.check()
            raise
        self.check()

    @classmethod
    def of_arrays(
        cls, config: Config, parameters: Mapping[str, Parameter], tokenizer: Tokenizer | None, fingerprint: str | None
    ) -> Loaded:
        """Return the parts of a model whose parameters are arrays in memory."""
        source = MemorySource(config, parameters)
        return cls(
            config,
            parameters,
            lambda: tokenizer,
            fingerprint or compute_fingerprint(source),
            source.check,
            source.close,
        )


def load_parameters(
    path: str | os.PathLike[str],
    *,
    dtype: str | None,
    mmap: bool,
    tokenizer: str | os.PathLike[str] | Tokenizer | None,
    rescale_layer: int | None,
    progress: Progress | None = None,
) -> Loaded:
    """Open the model file at `path` and return its parameters; see :func:`rwkv_cy.load`."""
    dtype = check_dtype(dtype)
    checkpoint = Checkpoint.open(path)
    try:
        return _load(
            checkpoint,
            dtype=dtype,
            mmap=mmap,
            tokenizer=tokenizer,
            rescale_layer=rescale_layer,
            progress=progress,
        )
    except BaseException:
        checkpoint.close()
        raise


def load_tokenizer_of(path: str | os.PathLike[str], tokenizer: str | None = None) -> Tokenizer | None:
    """Return the tokenizer that the model at `path` would have after :func:`rwkv_cy.load`, without reading weights.

    Parameters
    ----------
    path : path-like
    tokenizer : str, optional
        Replaces the model's own, as in :func:`rwkv_cy.load`.

    Raises
    ------
    RWKVError
        As raised by :func:`rwkv_cy.load` for the headers and the tokenizer.
    """
    with Checkpoint.open(path) as checkpoint:
        return _tokenizer_maker(checkpoint, tokenizer)()


def _load(
    checkpoint: Checkpoint,
    *,
    dtype: str | None,
    mmap: bool,
    tokenizer: str | os.PathLike[str] | Tokenizer | None,
    rescale_layer: int | None,
    progress: Progress | None,
) -> Loaded:
    source, config = checkpoint.source, checkpoint.config
    if rescale_layer is not None:
        config = replace(config, rescale_layer=rescale_layer)
    if dtype is not None:
        config = replace(config, compute_dtype="f64" if dtype == "f64" else "f32")
    make_tokenizer = _tokenizer_maker(checkpoint, tokenizer)  # first, because it may fail and reading takes long
    targets = choose_all(source, checkpoint.specs, dtype, keep_orientation=True)
    _refuse_requantization(source, targets.values(), dtype)
    for name in targets:
        check_stored(source, source.info(name))
    mapped = _map(checkpoint, targets) if mmap else {}
    missing = {name: target for name, target in targets.items() if name not in mapped}
    available = available_memory()
    _check_memory(checkpoint, missing.values(), available)
    converter = Converter(source, count_copied=False)
    parameters = mapped | read_parameters(converter, source, missing, get_num_threads(), progress)
    for warning in (*checkpoint.warnings, *_paging(checkpoint, mapped, available)):
        warnings.warn(warning, RuntimeWarning, stacklevel=4)
    for name, count in converter.overflowed.items():
        warnings.warn(describe_overflow(name, count, targets[name].info.dtype), RuntimeWarning, stacklevel=4)
    loaded = Loaded(
        config,
        {name: parameters[name] for name in targets},
        make_tokenizer,
        checkpoint.fingerprint,
        source.check,
        checkpoint.close,
    )
    # A mapped file stays open: every forward checks it for truncation, and releasing the model closes it.
    if not mapped:
        loaded.check = lambda: None
        checkpoint.close()
    return loaded


def _refuse_requantization(source: ParameterSource, targets: Iterable[Target], dtype: str | None) -> None:
    twice = [target.info.name for target in targets if source.info(target.info.name).rounds_twice(target.info.dtype)]
    if twice:
        raise ConfigError(
            f"{source.path} is already quantized ({len(twice)} matrices, first {twice[0]} in "
            f"{source.info(twice[0]).source_dtype}); load it without dtype, load the original as {dtype}, or write a "
            "file with rwkv-cy quantize --force"
        )


def _map(checkpoint: Checkpoint, targets: Mapping[str, Target]) -> dict[str, Parameter]:
    """Return the matrices that can be used in place, through a memory map of the file."""
    mapped = {}
    for spec in checkpoint.specs:
        info = checkpoint.source.info(spec.name)
        if spec.used_in_place and targets[spec.name].info == info:
            view = checkpoint.source.view(spec.name)
            if view is not None:
                mapped[spec.name] = info.parameter(view)
    return mapped


def _check_memory(checkpoint: Checkpoint, targets: Iterable[Target], available: int | None) -> None:
    config = checkpoint.config
    # The initial state, and the state of a first call.
    state = 2 * config.num_layers * architecture_of(config).state_offsets(config)["end"] * 8
    needed = sum(target.info.nbytes for target in targets) + state
    if available is not None and needed > available:
        raise NotEnoughMemoryError(
            f"{checkpoint.path}: not enough memory for parameters and states: need {byte_size(needed)}, "
            f"{byte_size(available)} free; convert it to a smaller dtype with rwkv-cy convert, and map that file"
        )


def _paging(checkpoint: Checkpoint, mapped: Mapping[str, Parameter], available: int | None) -> Iterator[str]:
    """Yield a warning if the mapped weights that every token reads are larger than the memory."""
    kinds = {spec.name: spec.kind for spec in checkpoint.specs}
    weights = sum(parameter.array.nbytes for name, parameter in mapped.items() if kinds[name] not in _READ_BY_ROWS)
    if available is not None and weights > available:
        yield (
            f"{checkpoint.path}: its weights take {byte_size(weights)}, and {byte_size(available)} of memory is free: "
            "every token reads them from the disk again; convert it to a smaller dtype with rwkv-cy convert"
        )


def _tokenizer_maker(
    checkpoint: Checkpoint, requested: str | os.PathLike[str] | Tokenizer | None
) -> Callable[[], Tokenizer | None]:
    if requested is None:
        return checkpoint.tokenizer_maker()
    if isinstance(requested, (str, os.PathLike)):
        tokenizer = named_tokenizer(requested)
    elif isinstance(requested, Tokenizer):
        tokenizer = requested
    else:
        raise TokenizerError(
            f'tokenizer: expected "bytes", "world", a vocabulary file or a Tokenizer, got {type(requested).__name__}'
        )
    where, rows = str(checkpoint.path), checkpoint.config.vocab_size
    check_size(tokenizer, rows, where)
    warning = fit_warning(tokenizer, rows, where)
    if warning is not None:
        warnings.warn(warning, RuntimeWarning, stacklevel=5)
    return lambda: tokenizer
