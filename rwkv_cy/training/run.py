"""``train`` and ``tune``: whole runs, from text files to a model, an adapter or a tuned state."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from rwkv_cy.architectures import architecture_of, trained_on
from rwkv_cy.checkpoint.tokenizer_choice import named_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.dtypes import to_storage
from rwkv_cy.errors import ConfigError, NotEnoughMemoryError, TokenizerError
from rwkv_cy.files.reading import new_file_path
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.records import dataclass, replace
from rwkv_cy.runtime import available_memory
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.text import Tokenizer
from rwkv_cy.training.data import open_text, tokenize
from rwkv_cy.training.files import check_apart, check_files, run_folder
from rwkv_cy.training.log import finite
from rwkv_cy.training.methods import FullMethod, LoraMethod, Method, StateMethod
from rwkv_cy.training.options import TrainingOptions
from rwkv_cy.training.tensor_file import write_tensors
from rwkv_cy.training.trainer import HeldOut, Step, Trainer
from rwkv_cy.units import byte_size, short_count

__all__ = ["TrainingReport", "new_model", "prepare", "train", "tune"]

PathLike = str | os.PathLike[str]
Texts = PathLike | Sequence[PathLike]


@dataclass(frozen=True)
class TrainingReport:
    """Result of a run.

    Attributes
    ----------
    path : Path
        What was written; the checkpoint if the run was stopped before its end.
    folder : Path
        Folder of the run: tokens, log, checkpoint.
    method : str
    steps : int
        Steps that are complete.
    finished : bool
        Whether these are all.
    tokens : int
        Tokens learned, in this call.
    seconds : float
        Time of this call's steps.
    loss : float or None
        Mean loss of the last steps of this call, a tenth of all but at most 100, in nats; None without steps.
    held_out : float or None
        Last measured bits per byte of the held-out text.
    """

    path: Path
    folder: Path
    method: str
    steps: int
    finished: bool
    tokens: int
    seconds: float
    loss: float | None
    held_out: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        record = {
            "path": str(self.path),
            "folder": str(self.folder),
            "method": self.method,
            "steps": self.steps,
            "finished": self.finished,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "loss": self.loss,
            "held_out_bits_per_byte": self.held_out,
        }
        return finite(record)


def train(
    config: Config,
    data: Texts,
    target: PathLike,
    options: TrainingOptions,
    *,
    tokenizer: str | Tokenizer = "bytes",
    dtype: str | None = None,
    held_out: PathLike | None = None,
    folder: PathLike | None = None,
    overwrite: bool = False,
    num_threads: int | None = None,
    progress: Callable[[Step], None] | None = None,
) -> TrainingReport:
    """Train a new model from initial values, and write a model file.

    A run that was stopped or killed goes on from its last checkpoint when it is started again with the same arguments.
    With more `steps` it goes on too, also one that has ended; a warning says so, since the learning rates of the steps
    to come are then those of a longer run.

    Parameters
    ----------
    config : Config
        Of the model; a `vocab_size` of 0 stands for that of the tokenizer.
    data : path or sequence of paths
        Text files, or JSONL with a document in each line's ``text``.
    target : path
        The model file to write.
    options : TrainingOptions
    tokenizer : str or Tokenizer, default "bytes"
        As for :func:`rwkv_cy.load`.
    dtype : {"f32", "f16", "bf16"}, optional
        Type of the parameters in the file; by default that of the computation.
    held_out : path, optional
        A text to measure on every ``options.evaluate_every`` steps.
    folder : path, optional
        For tokens, log and checkpoint; by default the target's name with ``.training``.
    overwrite : bool, default False
        Whether an existing model file at `target` is replaced.
    num_threads : int, optional
        The result is the same for every number.
    progress : callable, optional
        Called after each step.

    Returns
    -------
    TrainingReport

    Raises
    ------
    ConfigError
        If the version does not have gradients, a value is out of its range, or the folder belongs to another run.
    FormatError
        If the data are damaged, or too little.
    NotEnoughMemoryError
        If the model, its gradients and the optimiser's means are larger than the memory.
    NumericalError
        If the loss diverges.
    StorageError
        If a file cannot be read or written, or another process works on the run.
    """
    if not isinstance(config, Config):
        raise TypeError(f"train: expected a Config, got {type(config).__name__}; tune changes a model that exists")
    _check_options(options)
    method = FullMethod(new_model(config, tokenizer, options.seed))
    return _run(method, data, new_file_path(target), options, dtype, held_out, folder, overwrite, num_threads, progress)


def tune(
    model: PathLike | LanguageModel,
    data: Texts,
    target: PathLike,
    options: TrainingOptions,
    *,
    method: str = "lora",
    rank: int = 8,
    alpha: float = 32.0,
    tokenizer: str | None = None,
    dtype: str | None = None,
    held_out: PathLike | None = None,
    folder: PathLike | None = None,
    overwrite: bool = False,
    num_threads: int | None = None,
    progress: Callable[[Step], None] | None = None,
) -> TrainingReport:
    """Tune a model: its initial state, low-rank adapters, or all of it.

    Parameters
    ----------
    model : path or LanguageModel
        The model, in any format and precision that is read. It is not modified.
    data, options, dtype, held_out, folder, overwrite, num_threads, progress
        As for :func:`train`.
    target : path
        For ``"full"`` a model file; otherwise a ``.pth`` or ``.safetensors`` file with the names of the authors' tools:
        :meth:`rwkv_cy.LanguageModel.load_state` reads states, :func:`rwkv_cy.merge` merges adapters.
    method : {"state", "lora", "full"}
    rank, alpha : int and float, default 8 and 32
        Of LoRA.
    tokenizer : str, optional
        Replaces the model's own, as for :func:`rwkv_cy.load`.

    Returns
    -------
    TrainingReport

    Raises
    ------
    ConfigError, FormatError, NumericalError, StorageError
        As for :func:`train`.
    TokenizerError
        If there is neither a tokenizer in the model nor one given.
    UnsupportedError
        If the version does not have an initial state to tune.
    """
    _check_options(options)
    if isinstance(model, LanguageModel):
        chosen = prepare(model, method, rank=rank, alpha=alpha, seed=options.seed)
    else:
        check_apart(Path(target), [model])
        # Only the method refers to this model: one whose numbers it has copied is freed.
        chosen = prepare(load(model, tokenizer=tokenizer), method, rank=rank, alpha=alpha, seed=options.seed)
    return _run(chosen, data, new_file_path(target), options, dtype, held_out, folder, overwrite, num_threads, progress)


def _check_options(options: object) -> None:
    if not isinstance(options, TrainingOptions):
        raise TypeError(f"options: expected TrainingOptions, got {type(options).__name__}")


def prepare(base: LanguageModel, method: str, *, rank: int = 8, alpha: float = 32.0, seed: int = 0) -> Method:
    """Return a method for a model; ConfigError if there is none of that name."""
    makers: Mapping[str, Callable[[], Method]] = {
        "state": lambda: StateMethod(base),
        "lora": lambda: LoraMethod(base, rank=rank, alpha=alpha, seed=seed),
        "full": lambda: FullMethod(base),
    }
    if method not in makers:
        raise ConfigError(f"method: expected one of {', '.join(makers)}, got {method!r}")
    return makers[method]()


def new_model(config: Config, tokenizer: str | Tokenizer, seed: int) -> LanguageModel:
    """Return a model with initial values; a `vocab_size` of 0 stands for that of the tokenizer.

    Raises
    ------
    NotEnoughMemoryError
        If it cannot be trained in the memory.
    """
    if isinstance(tokenizer, str):
        tokenizer = named_tokenizer(tokenizer)
    if not config.vocab_size:
        config = replace(config, vocab_size=tokenizer.vocab_size)
    _check_memory(architecture_of(config).complete(config))
    return LanguageModel.new(config, seed, tokenizer)


def _check_memory(config: Config) -> None:
    numbers = sum(prod(spec.shape) for spec in architecture_of(config).parameters(config) if not spec.optional)
    # Values, gradients, and two means.
    needed, available = 4 * numbers * (8 if config.compute_dtype == "f64" else 4), available_memory()
    if available is not None and needed > available:
        raise NotEnoughMemoryError(
            f"d_model {config.d_model:,}, {config.num_layers:,} layers: {short_count(numbers)} parameters take "
            f"{byte_size(needed)} to train, and {byte_size(available)} of memory is free; choose a smaller model"
        )


def _run(
    method: Method,
    data: Texts,
    target: Path,
    options: TrainingOptions,
    dtype: str | None,
    held_out: PathLike | None,
    folder: PathLike | None,
    overwrite: bool,
    num_threads: int | None,
    progress: Callable[[Step], None] | None,
) -> TrainingReport:
    tokenizer = method.tokenizer
    if tokenizer is None:
        raise TokenizerError("training: expected a model with a tokenizer, got none; pass tokenizer= (--tokenizer)")
    folder = Path(folder) if folder is not None else target.with_name(target.name + ".training")
    paths = [Path(data)] if isinstance(data, (str, os.PathLike)) else [Path(path) for path in data]
    if not paths:
        raise ConfigError("data: expected at least one text, got none")
    check_files(method.name, paths, target, held_out=held_out, overwrite=overwrite)
    with run_folder(folder) as begun:
        tokens = tokenize(paths, tokenizer, folder)
        measured = None if held_out is None else _held_out(Path(held_out), tokenizer)
        trainer = Trainer(method, tokens, options, folder, held_out=measured, num_threads=num_threads)
        begun()
        begin, count, losses, last = time.perf_counter(), 0, [], None
        with _interrupted() as stop:
            for step in trainer.run(stop):
                count += step.tokens
                losses.append(step.loss)
                last = last if step.held_out is None else step.held_out
                if progress is not None:
                    progress(step)
        seconds = time.perf_counter() - begin
        finished = trainer.steps == options.steps
        if finished:
            _write(method, target, dtype, overwrite)
    tail = losses[-max(1, min(100, len(losses) // 10)) :]
    return TrainingReport(
        path=target if finished else trainer.checkpoint,
        folder=folder,
        method=method.name,
        steps=trainer.steps,
        finished=finished,
        tokens=count,
        seconds=seconds,
        loss=float(np.mean(tail)) if tail else None,
        held_out=last,
    )


def _write(method: Method, target: Path, dtype: str | None, overwrite: bool) -> None:
    if method.name != "full":
        write_tensors(target, method.tensors(), dtype=dtype, metadata=trained_on(method.config), overwrite=overwrite)
        return
    own = "f64" if method.dtype == np.float64 else "f32"
    stored = dtype or own
    parameters = {name: Parameter(to_storage(array, own, stored), stored) for name, array in method.values.items()}
    LanguageModel(method.config, {**method.kept, **parameters}, method.tokenizer).save(target, overwrite=overwrite)


def _held_out(path: Path, tokenizer: Tokenizer) -> HeldOut:
    with open_text(path) as file:
        text = file.read()
    tokens = np.array(tokenizer.encode_bytes(text), np.int64)
    if tokens.size < 2:
        raise ConfigError(f"{path}: expected a held-out text of at least two tokens, got {tokens.size}")
    return HeldOut(tokens, len(tokenizer.decode_bytes(tokens[1:].tolist())))


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C or SIGTERM has come; a second one ends the process as usual.

    Outside of the main thread it always says no.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
