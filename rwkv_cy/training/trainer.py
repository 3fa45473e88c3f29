"""Training runs: steps of gradients and updates, with a log, checkpoints and measurements on held-out text."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, NumericalError
from rwkv_cy.records import dataclass
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.training.adamw import AdamW
from rwkv_cy.training.checkpoint import read_checkpoint, write_checkpoint
from rwkv_cy.training.data import Batches, TokenSet
from rwkv_cy.training.log import RunLog
from rwkv_cy.training.methods import Method
from rwkv_cy.training.options import TrainingOptions
from rwkv_cy.training.schedule import learning_rate

__all__ = ["CHECKPOINT", "LOG", "HeldOut", "Step", "Trainer"]

#: Files in the folder of a run.
CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
#: Options that do not change what is learned.
_WITHOUT_EFFECT = ("checkpoint_every", "evaluate_every")
#: Steps without a finite gradient after which a run ends.
_MOST_SKIPPED = 20


@dataclass(frozen=True)
class HeldOut:
    """Text that is not learned, to measure on.

    Attributes
    ----------
    tokens : numpy.ndarray
        1-D ids.
    nbytes : int
        Bytes of all tokens but the first, which nothing predicts.
    """

    tokens: npt.NDArray[np.int64]
    nbytes: int


@dataclass(frozen=True)
class Step:
    """One update.

    Attributes
    ----------
    step : int
        Steps that are complete, this one included.
    loss : float
        Mean cross-entropy of its tokens before the update, in nats.
    learning_rate, norm : float
        Learning rate, and norm of the gradients before they were clipped.
    tokens : int
        Tokens learned in this step.
    seconds : float
        How long it took.
    held_out : float or None
        Bits per byte of the held-out text after the update, where it was measured.
    """

    step: int
    loss: float
    learning_rate: float
    norm: float
    tokens: int
    seconds: float
    held_out: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the step as a record of the log."""
        record = {
            "step": self.step,
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "norm": self.norm,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 4),
        }
        return record if self.held_out is None else {**record, "held_out_bits_per_byte": self.held_out}


class Trainer:
    """A run, which goes on from its checkpoint if its folder has one.

    Parameters
    ----------
    method : Method
        What is learned.
    data : TokenSet
    options : TrainingOptions
    folder : Path
        An existing folder for checkpoint and log.
    held_out : HeldOut, optional
    num_threads : int, optional
        The result is the same for every number.

    Raises
    ------
    ConfigError
        If the folder holds the checkpoint of another run. Another number of steps is a warning: the learning rate of
        each step follows from it.
    FormatError
        If that is damaged, or there is too little text.
    """

    def __init__(
        self,
        method: Method,
        data: TokenSet,
        options: TrainingOptions,
        folder: Path,
        *,
        held_out: HeldOut | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.method, self.options, self.folder = method, options, folder
        self._held_out = held_out
        self._num_threads = resolve_num_threads(num_threads)
        self._optimiser = AdamW(method.values, options)
        self._batches = Batches(
            data,
            sampling=options.sampling,
            context=options.context,
            batch_size=options.batch_size,
            seed=options.seed,
            vocab_size=method.config.vocab_size,
        )
        decisive = {name: value for name, value in options.to_dict().items() if name not in _WITHOUT_EFFECT}
        self._run = {**decisive, **method.identity(), "data": data.digest}
        self._gradients_of: dict[str, npt.NDArray[Any]] | None = None
        self.steps = 0
        if self.checkpoint.exists():
            self.steps, planned = read_checkpoint(self.checkpoint, method, self._optimiser, self._run)
            if planned != options.steps:
                warnings.warn(
                    f"{self.checkpoint}: goes on after {self.steps:,} of {planned:,} steps with the learning rates of "
                    f"a run of {options.steps:,}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        #: Sequences in the data.
        self.sequences = self._batches.count

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint."""
        return self.folder / CHECKPOINT

    def save(self) -> None:
        """Write a checkpoint of the steps that are complete."""
        write_checkpoint(self.checkpoint, self.method, self._optimiser, self.steps, self._run)

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Step]:
        """Yield each step after it is complete and logged; the last one is followed by a checkpoint.

        Parameters
        ----------
        stop : callable
            Asked after each step; True ends the run after a checkpoint.

        Raises
        ------
        NumericalError
            If the loss or the gradients have stopped to be finite.
        StorageError
            If the log or a checkpoint cannot be written.
        """
        skipped = 0
        with RunLog(self.folder / LOG, self.steps) as log:
            while self.steps < self.options.steps:
                step = self._step()
                skipped = 0 if math.isfinite(step.norm) else skipped + 1
                if skipped > _MOST_SKIPPED:
                    raise NumericalError(
                        f"step {step.step}: expected finite gradients, got {step.norm} in {skipped} steps; choose a "
                        "smaller --learning-rate"
                    )
                log.write(step.to_dict())
                ended = self.steps == self.options.steps or stop()
                if ended or self.steps % self.options.checkpoint_every == 0:
                    self.save()
                yield step
                if ended:
                    return

    def _step(self) -> Step:
        begin = time.perf_counter()
        rate = learning_rate(self.steps, self.options)
        sequences = self._batches.batch(self.steps)
        loss, gradients = self._gradients(sequences)
        norm = self._optimiser.step(gradients, rate, self._num_threads)
        self.steps += 1
        count = sum(sequence.size - 1 for sequence in sequences)
        seconds = time.perf_counter() - begin
        measured = self._held_out is not None and (
            self.steps % self.options.evaluate_every == 0 or self.steps == self.options.steps
        )
        return Step(self.steps, loss, rate, norm, count, seconds, self.evaluate() if measured else None)

    def _gradients(self, sequences: list[npt.NDArray[np.int64]]) -> tuple[float, dict[str, npt.NDArray[Any]]]:
        """Return the mean loss of a batch and the gradients of the method's values."""
        model, method = self.method.recorded(), self.method
        count = sum(sequence.size - 1 for sequence in sequences)
        inputs, targets = [own[:-1] for own in sequences], [own[1:] for own in sequences]
        _, _, tape = model.record(
            inputs,
            trainable=method.trainable,
            adapters=method.adapters,
            logits=False,
            num_threads=self._num_threads,
        )
        # The arrays of the last step are used again: the system would have to clear new ones, a page at a time.
        for array in (self._gradients_of or {}).values():
            array.fill(0)
        losses, found = tape.cross_entropy(
            targets, l2_wrap=self.options.l2wrap, parameters=self._gradients_of, num_threads=self._num_threads
        )
        self._gradients_of = found.parameters
        return sum(float(own.sum()) for own in losses) / count, found.parameters

    def evaluate(self) -> float:
        """Return the bits per byte of the held-out text, the state carried from its first token to its last.

        Raises
        ------
        ConfigError
            If the run does not have one.
        NumericalError
            If its logits are not finite.
        """
        if self._held_out is None:
            raise ConfigError("evaluate: expected held-out text, got none; pass held_out=")
        try:
            scores = self.method.model().score(self._held_out.tokens, num_threads=self._num_threads)
        except NumericalError:
            raise NumericalError(
                f"step {self.steps}: expected finite logits of the held-out text, got NaN or infinity; choose a "
                "smaller --learning-rate (learning_rate)"
            ) from None
        return -float(scores[1:].sum()) / math.log(2) / self._held_out.nbytes
