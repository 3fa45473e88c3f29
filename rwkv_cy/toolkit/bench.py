"""Speed of a model on this machine: decode and prefill, beside how fast its weights can be read at all."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rwkv_cy.architectures import architecture_of
from rwkv_cy.errors import ConfigError
from rwkv_cy.kernels.dispatch import active_instruction_set
from rwkv_cy.kernels.stream import Stream
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.runtime import MemoryKind, get_num_threads, process_memory, resolve_num_threads

__all__ = ["BenchReport", "Measurement", "Round", "Spread", "ThreadsReport", "benchmark"]

#: More than this is a mistake in every case: hours of computing.
_MOST_TOKENS, _MOST_ROUNDS = 1 << 20, 1000


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing.

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
    """What was measured with one number of threads; every spread is over the rounds.

    Attributes
    ----------
    threads : int
    decode : Spread
        Tokens a second, one at a time.
    prefill : Spread
        Tokens of a prompt a second.
    read : Spread
        Bytes a second that the same threads read of the same weights when they do nothing else.
    share : Spread
        What part of that decode reaches: reading all weights once takes this part of a token's time.
    """

    threads: int
    decode: Spread
    prefill: Spread
    read: Spread
    share: Spread


@dataclass(frozen=True)
class BenchReport:
    """What :func:`bench` measured.

    Attributes
    ----------
    path, architecture : str
    parameters : int
        Of the whole model, the embedding included.
    dtypes : tuple of str
        Storage types that the matrices have in memory.
    memory : str
        ``"map"`` or ``"resident"``.
    activations : str
        What matrices in bf16 are multiplied with: as they are, "f32", or rounded, "bf16".
    instruction_set : str
    weight_bytes : int
        Bytes of weights that one token reads: every matrix once. The embedding, of which it reads a row, and the
        vectors are left out.
    load_seconds : float
    anonymous_bytes, file_bytes : int or None
        Memory of this process after the measurements: its own, and pages of mapped files, which processes share.
        None where the system does not tell.
    prefill_tokens, decode_tokens, rounds : int
        What a round measured, and how many rounds there were.
    results : tuple of ThreadsReport
        In the order in which they were asked for.
    """

    path: str
    architecture: str
    parameters: int
    dtypes: tuple[str, ...]
    memory: str
    activations: str
    instruction_set: str
    weight_bytes: int
    load_seconds: float
    anonymous_bytes: int | None
    file_bytes: int | None
    prefill_tokens: int
    decode_tokens: int
    rounds: int
    results: tuple[ThreadsReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


def benchmark(
    path: str | os.PathLike[str],
    *,
    threads: int | Sequence[int] | None = None,
    prefill: int = 512,
    decode: int = 16,
    rounds: int = 5,
    dtype: str | None = None,
    memory: MemoryKind = "map",
    activations: str = "f32",
) -> BenchReport:
    """Measure how fast a model runs.

    A round measures every number of threads. For decode, reading the weights and a token take turns, so that what
    disturbs the one disturbs the other; a round's speed is that of the median token.

    Parameters
    ----------
    path : path-like
        A model file or checkpoint.
    threads : int or sequence of int, optional
        Numbers of threads to measure; None is the default number alone.
    prefill : int, default 512
        Tokens of the prompt.
    decode : int, default 16
        Tokens after it, one at a time.
    rounds : int, default 5
        How often each is measured.
    dtype, memory, activations
        As for :func:`rwkv_cy.load`.

    Returns
    -------
    BenchReport

    Raises
    ------
    ConfigError
        If a number is out of its range, or a number of threads is given twice.
    RWKVError
        Whatever loading and running the model raise.
    """
    wanted = (get_num_threads(),) if threads is None else (threads,) if isinstance(threads, int) else threads
    counts = [resolve_num_threads(count) for count in wanted]
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
    model = load(path, dtype=dtype, memory=memory, activations=activations)
    load_seconds = time.perf_counter() - start
    run = Measurement(model, prefill, decode)
    found: dict[int, list[Round]] = {count: [] for count in counts}
    run.warm_up(max(counts))
    for _ in range(rounds):
        for count, measured in found.items():
            measured.append(run.round(count))
    anonymous_bytes, file_bytes = process_memory() or (None, None)
    return BenchReport(
        path=os.fspath(path),
        architecture=architecture_of(model.config).label,
        parameters=sum(math.prod(parameter.shape) for parameter in model.parameters.values()),
        dtypes=run.dtypes,
        memory=memory,
        activations=activations,
        instruction_set=active_instruction_set(),
        weight_bytes=run.weight_bytes,
        load_seconds=load_seconds,
        anonymous_bytes=anonymous_bytes,
        file_bytes=file_bytes,
        prefill_tokens=prefill,
        decode_tokens=decode,
        rounds=rounds,
        results=tuple(_summary(count, measured, run.weight_bytes) for count, measured in found.items()),
    )


@dataclass(frozen=True)
class Round:
    """What one round took.

    Attributes
    ----------
    decode, read, prefill : float
        Seconds of a token, of reading the weights, and of a token of the prompt.
    share : float
        Of reading the weights in a token's time: the median over pairs of neighbours.
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
    weight_bytes : int
        Bytes of all matrices.
    stream : Stream
        All matrices, to be read.
    """

    def __init__(self, model: LanguageModel, prefill: int, decode: int) -> None:
        specs = architecture_of(model.config).parameters(model.config)
        matrices = [model.parameters[spec.name] for spec in specs if spec.quantizable]
        self.dtypes = tuple(sorted({matrix.dtype for matrix in matrices}))
        self.stream = Stream(matrix.array for matrix in matrices)
        self.weight_bytes = self.stream.nbytes
        self._model = model
        # Which tokens they are matters to nobody's speed.
        rng = np.random.default_rng(0)
        self._prompt = rng.integers(0, model.vocab_size, prefill)
        self._tokens = rng.integers(0, model.vocab_size, decode)

    def warm_up(self, threads: int) -> None:
        """Bring the pages in, and start the threads."""
        self.stream.read(threads)
        self._model.forward(int(self._tokens[0]), num_threads=threads)

    def round(self, threads: int) -> Round:
        """Measure once with so many threads."""
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
