"""Speed of a model on this machine: decode and prefill, compared with plain reads of the same bytes."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rwkv_cy.architectures import architecture_of
from rwkv_cy.errors import ConfigError
from rwkv_cy.kernels.dispatch import active_instruction_set
from rwkv_cy.kernels.stream import Stream
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.runtime import get_num_threads, process_memory, resolve_num_threads
from rwkv_cy.toolkit.schema_names import named

__all__ = ["BenchReport", "Measurement", "Round", "Spread", "ThreadsReport", "benchmark"]

#: Larger numbers are mistakes: they would take hours.
_MOST_TOKENS, _MOST_ROUNDS = 1 << 20, 1000


@dataclass(frozen=True)
class Spread:
    """Median and range of several measurements.

    Attributes
    ----------
    median, lowest, highest : float
    """

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class ThreadsReport:
    """Results for one number of threads; every spread is over the rounds.

    Attributes
    ----------
    threads : int
    decode : Spread
        Tokens per second, one at a time.
    prefill : Spread
        Tokens of a prompt per second.
    read : Spread
        Bytes per second when the same threads only read the bytes that one token needs.
    share : Spread
        The part of a token's time that reading these bytes takes: decode reaches this part of the read bandwidth. It
        can exceed 1, since a sparse input lets decode leave rows of a matrix unread.
    """

    threads: int
    decode: Spread
    prefill: Spread
    read: Spread
    share: Spread


@dataclass(frozen=True)
class BenchReport:
    """What :func:`benchmark` measured.

    Attributes
    ----------
    path, architecture : str
    parameters : int
        Of the whole model, including the embedding.
    dtypes : tuple of str
        Storage types of the matrices in memory.
    mmap : bool
        Whether the matrices are memory-mapped.
    activations : str
        Type to which activations are rounded before they are multiplied with bf16 matrices.
    instruction_set : str
    matrix_bytes, low_rank_bytes : int
        Bytes of all matrices, the head included, and of all low-rank factors. A token reads each of them once.
    state_bytes : int
        Bytes of the state, which a token reads and writes once.
    token_bytes : int
        Memory traffic of one token: matrices and low-rank factors once, the state twice. Excludes vectors, and the rows
        of the embedding and of tables.
    load_seconds : float
    anonymous_bytes, file_bytes : int or None
        Memory of this process after the measurements: its own, and pages of mapped files, which processes share.
        None if the system does not report it.
    prefill_tokens, decode_tokens, rounds : int
        What a round measured, and how many rounds there were.
    results : tuple of ThreadsReport
        In the requested order.
    """

    path: str
    architecture: str
    parameters: int
    dtypes: tuple[str, ...]
    mmap: bool
    activations: str
    instruction_set: str
    matrix_bytes: int
    low_rank_bytes: int
    state_bytes: int
    token_bytes: int
    load_seconds: float
    anonymous_bytes: int | None
    file_bytes: int | None
    prefill_tokens: int
    decode_tokens: int
    rounds: int
    results: tuple[ThreadsReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return named("bench", asdict(self))


def benchmark(
    path: str | os.PathLike[str],
    *,
    threads: int | Sequence[int] | None = None,
    prefill: int = 512,
    decode: int = 16,
    rounds: int = 5,
    dtype: str | None = None,
    mmap: bool = True,
    activations: str = "f32",
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Measure how fast a model runs.

    A round measures every number of threads. For decode, tokens alternate with plain reads of the bytes that a token
    needs, so that other load on the machine affects both; the speed of a round is that of the median token.

    Parameters
    ----------
    path : path-like
        A model file or checkpoint.
    threads : int or sequence of int, optional
        Numbers of threads to measure; None measures the default number only.
    prefill : int, default 512
        Tokens of the prompt.
    decode : int, default 16
        Tokens after it, one at a time.
    rounds : int, default 5
        How often each is measured.
    dtype, mmap, activations
        As for :func:`rwkv_cy.load`.
    progress : callable, optional
        Called with the rounds done and all rounds.

    Returns
    -------
    BenchReport

    Raises
    ------
    ConfigError
        If a number is out of range, or a number of threads is given twice.
    RWKVError
        As raised by loading and running the model.
    """
    requested = (get_num_threads(),) if threads is None else (threads,) if isinstance(threads, int) else threads
    counts = [resolve_num_threads(count) for count in requested]
    if not counts or len(set(counts)) != len(counts):
        raise ConfigError(f"threads: expected at least one number of threads, each once, got {counts}")
    for name, value, most in (
        ("prefill", prefill, _MOST_TOKENS),
        ("decode", decode, _MOST_TOKENS),
        ("rounds", rounds, _MOST_ROUNDS),
    ):
        if not 1 <= value <= most:
            raise ConfigError(f"{name}: expected a number from 1 to {most}, got {value}")
    start = time.perf_counter()
    model = load(path, dtype=dtype, mmap=mmap, activations=activations)
    load_seconds = time.perf_counter() - start
    run = Measurement(model, prefill, decode)
    measurements: dict[int, list[Round]] = {count: [] for count in counts}
    run.warm_up(max(counts))
    for done in range(rounds):
        for count, measured in measurements.items():
            measured.append(run.round(count))
        if progress is not None:
            progress(done + 1, rounds)
    anonymous_bytes, file_bytes = process_memory() or (None, None)
    return BenchReport(
        path=os.fspath(path),
        architecture=architecture_of(model.config).label,
        parameters=sum(math.prod(parameter.shape) for parameter in model.parameters.values()),
        dtypes=run.dtypes,
        mmap=mmap,
        activations=activations,
        instruction_set=active_instruction_set(),
        matrix_bytes=run.matrix_bytes,
        low_rank_bytes=run.low_rank_bytes,
        state_bytes=run.state_bytes,
        token_bytes=run.token_bytes,
        load_seconds=load_seconds,
        anonymous_bytes=anonymous_bytes,
        file_bytes=file_bytes,
        prefill_tokens=prefill,
        decode_tokens=decode,
        rounds=rounds,
        results=tuple(_summary(count, measured, run.token_bytes) for count, measured in measurements.items()),
    )


@dataclass(frozen=True)
class Round:
    """Times of one round.

    Attributes
    ----------
    decode, read, prefill : float
        Seconds of a token, of reading the bytes that it needs, and of a token of the prompt.
    share : float
        Part of a token's time that the reading takes: the median over pairs of neighbours.
    """

    decode: float
    read: float
    prefill: float
    share: float


class Measurement:
    """A model to be measured, round by round.

    Parameters
    ----------
    model : LanguageModel
    prefill, decode : int
        Tokens of a round: of the prompt, and after it.

    Attributes
    ----------
    dtypes : tuple of str
        Storage types of the matrices.
    matrix_bytes, low_rank_bytes, state_bytes, token_bytes : int
        As in :class:`BenchReport`.
    stream : Stream
        Everything that a token reads or writes, to be read.
    """

    def __init__(self, model: LanguageModel, prefill: int, decode: int) -> None:
        specs = architecture_of(model.config).parameters(model.config)
        # Optional parameters are not read: tokens have no use for them.
        kinds = {spec.name: spec.kind for spec in specs if not spec.optional and spec.name in model.parameters}
        matrices = [model.parameters[name] for name, kind in kinds.items() if kind in ("matrix", "head")]
        low_rank = [model.parameters[name].array for name, kind in kinds.items() if kind == "low_rank"]
        state = model.initial_state()
        self.dtypes = tuple(sorted({matrix.dtype for matrix in matrices}))
        self.matrix_bytes = sum(matrix.array.nbytes for matrix in matrices)
        self.low_rank_bytes = sum(array.nbytes for array in low_rank)
        self.state_bytes = state.nbytes
        # Reading the state twice stands for reading and writing it.
        self.stream = Stream([*(matrix.array for matrix in matrices), *low_rank, state.data, state.data])
        self.token_bytes = self.stream.nbytes
        self._model = model
        # The speed does not depend on which tokens they are.
        rng = np.random.default_rng(0)
        self._prompt = rng.integers(0, model.vocab_size, prefill)
        self._tokens = rng.integers(0, model.vocab_size, decode)

    def warm_up(self, threads: int) -> None:
        """Load all pages, and start the threads."""
        self.stream.read(threads)
        self._model.forward(int(self._tokens[0]), num_threads=threads)

    def round(self, threads: int) -> Round:
        """Measure once with that number of threads."""
        start = time.perf_counter()
        _, state = self._model.forward(self._prompt, num_threads=threads)
        prefill = time.perf_counter() - start
        reading, decoding = [], []
        for token in self._tokens:
            start = time.perf_counter()
            self.stream.read(threads)
            middle = time.perf_counter()
            self._model.forward(int(token), state, in_place=True, num_threads=threads)
            decoding.append(time.perf_counter() - middle)
            reading.append(middle - start)
        shares = [one / other for one, other in zip(reading, decoding, strict=True)]
        return Round(
            statistics.median(decoding),
            statistics.median(reading),
            prefill / len(self._prompt),
            statistics.median(shares),
        )


def _summary(threads: int, rounds: Sequence[Round], nbytes: int) -> ThreadsReport:
    return ThreadsReport(
        threads=threads,
        decode=Spread.of([1 / one.decode for one in rounds]),
        prefill=Spread.of([1 / one.prefill for one in rounds]),
        read=Spread.of([nbytes / one.read for one in rounds]),
        share=Spread.of([one.share for one in rounds]),
    )
