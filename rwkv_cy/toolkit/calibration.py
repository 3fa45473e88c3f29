"""Calibration: what the matrices of a model are multiplied with, in a text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.errors import TokenError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.records import dataclass, replace
from rwkv_cy.tensors.feedback import Inputs
from rwkv_cy.text.score import as_tokens

__all__ = ["Calibration", "calibrate"]

#: Tokens whose activations are recorded, evenly spaced over the text.
_SAMPLED = 256


@dataclass(frozen=True)
class Calibration:
    """What the matrices of a model are multiplied with, in a text.

    Attributes
    ----------
    inputs : mapping of str to Inputs
        Of each matrix by name: a sample of the tokens.
    tokens : int
        Tokens of the text.
    sha256 : str
        Of the tokens, as little-endian int64, in hexadecimal.
    """

    inputs: Mapping[str, Inputs]
    tokens: int
    sha256: str

    def describe(self) -> str:
        """Return what a model file records of it."""
        return f"{self.tokens} tokens, sha256 {self.sha256}"


def calibrate(
    source: str | os.PathLike[str],
    text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    tokenizer: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int | None = None,
    name: str = "text",
) -> Calibration:
    """Run a model over a text, and record what its matrices are multiplied with.

    The weights are used as the source stores them. The result is the same for any number of threads.

    Parameters
    ----------
    source : path-like
        A model file or a checkpoint, as for :func:`rwkv_cy.load`.
    text : str, bytes or sequence of int
        The text, or its tokens; some ten thousand are enough.
    tokenizer : str, optional
        Encodes the text instead of the model's own tokenizer, as for :func:`rwkv_cy.load`.
    progress : callable, optional
        Called with the tokens done and the tokens of the text.
    num_threads : int, optional
        Threads to use.
    name : str, default "text"
        Name of the text in messages.

    Raises
    ------
    TokenError
        If the text is empty.
    ConfigError
        If `text` is text and there is not a tokenizer.
    NumericalError
        If activations are not finite.
    RWKVError
        As raised by :func:`rwkv_cy.load`.
    """
    if not len(text):
        raise TokenError(f"{name}: expected a text to calibrate with, got an empty one")
    with load(source, tokenizer=tokenizer) as model:
        tokens = as_tokens(model, text)
        ends = np.unique(np.linspace(0, len(tokens), min(_SAMPLED, len(tokens)) + 1).astype(int)[1:])
        records = {
            spec.name: np.zeros((len(ends), model.parameters[spec.name].shape[1]), np.float32)
            for spec in architecture_of(model.config).parameters(model.config)
            if spec.quantizable and spec.name in model.parameters
        }
        observed = {key: replace(parameter, inputs=records.get(key)) for key, parameter in model.parameters.items()}
        state, start = None, 0
        with LanguageModel(model.config, observed, fingerprint=model.fingerprint) as observer:
            for end in ends.tolist():
                # The last token alone, so that the last layer and the head see it too.
                for part, reader in ((tokens[start : end - 1], model), (tokens[end - 1 : end], observer)):
                    if len(part):
                        _, state = reader.forward(part, state, in_place=state is not None, num_threads=num_threads)
                start = end
                if progress is not None:
                    progress(end, len(tokens))
    digest = hashlib.sha256(np.ascontiguousarray(tokens, "<i8").data).hexdigest()
    return Calibration({key: Inputs(rows) for key, rows in records.items()}, len(tokens), digest)
