"""What a run will take: memory by parts, and time from a measured sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_cy.errors import TokenizerError
from rwkv_cy.kernels.head_gradient import LOGITS_BYTES
from rwkv_cy.model.gradients import MEMORY
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.training.data import mean_sequence
from rwkv_cy.training.methods import Method
from rwkv_cy.training.options import TrainingOptions

__all__ = ["TrainingEstimate", "estimate"]

#: Tokens of a sample: enough for products near the speed of a long run.
_SAMPLE_TOKENS = 512
#: Seconds of a sample that is not repeated.
_LONG_SAMPLE = 2.0


@dataclass(frozen=True)
class TrainingEstimate:
    """Memory in bytes, and time in seconds.

    Attributes
    ----------
    learned : int
        Numbers that are learned.
    weights, optimiser, activations : int
        Bytes of parameters that are not learned; of values, gradients and means; and of what a pass records, an upper
        bound.
    tokens_per_second : float
        Of a sample on this machine.
    seconds : float
        For all steps at that speed.
    sequence : float
        Tokens of a sequence: those of the context, or the mean of the documents.
    """

    learned: int
    weights: int
    optimiser: int
    activations: int
    tokens_per_second: float
    seconds: float
    sequence: float

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values, ready for JSON."""
        return asdict(self)


def estimate(
    method: Method, options: TrainingOptions, num_threads: int | None = None, *, data: Sequence[Path] = ()
) -> TrainingEstimate:
    """Estimate the memory and the time of a run; runs samples of up to 512 tokens forward and backward.

    Parameters
    ----------
    method : Method
    options : TrainingOptions
    num_threads : int, optional
    data : sequence of Path
        The texts: of documents, a sequence has as many tokens as the first of them have on average. Without texts, and
        for windows, it has those of the context.

    Raises
    ------
    TokenizerError
        If the model does not have a vocabulary, or there are documents and no tokenizer.
    FormatError, StorageError
        As for reading the documents.
    """
    config = method.config
    if config.vocab_size < 1:
        raise TokenizerError("estimate: expected a model with a vocabulary, got one of vectors")
    sequence = float(options.context)
    if data and options.sampling == "documents":
        if method.tokenizer is None:
            raise TokenizerError("training: expected a model with a tokenizer, got none; pass tokenizer= (--tokenizer)")
        sequence = mean_sequence(data, method.tokenizer, options.context)
    length = min(round(sequence), _SAMPLE_TOKENS)
    count = max(1, min(options.batch_size, _SAMPLE_TOKENS // length))
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, config.vocab_size, length) for _ in range(count)]
    model = method.recorded()
    gradients = None
    # A second sample finds its memory ready, as the steps of a run do; it makes no difference after seconds.
    for _ in range(2):
        begin = time.perf_counter()
        tape = model.record(
            sequences,
            trainable=method.trainable,
            adapters=method.adapters,
            logits=False,
            num_threads=num_threads,
        )[2]
        gradients = tape.cross_entropy(sequences, parameters=gradients, num_threads=num_threads)[1].parameters
        seconds = time.perf_counter() - begin
        if seconds > _LONG_SAMPLE:
            break
    batch = options.batch_size * options.context
    speed = length * count / seconds
    learned = sum(array.size for array in method.values.values())
    itemsize = method.dtype.itemsize
    return TrainingEstimate(
        learned=learned,
        weights=sum(parameter.array.nbytes for parameter in method.kept.values()),
        optimiser=4 * learned * itemsize,
        activations=min(MEMORY, tape.activation_bytes(batch)) + min(batch * config.vocab_size * itemsize, LOGITS_BYTES),
        tokens_per_second=speed,
        seconds=options.steps * options.batch_size * sequence / speed,
        sequence=sequence,
    )
