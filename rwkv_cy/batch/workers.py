"""Workers: who works on the blocks of a batch, other than this process; and what they need to know."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rwkv_cy.batch.inputs import Input
from rwkv_cy.batch.records import Done
from rwkv_cy.batch.task import Task
from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.records import dataclass, field

__all__ = ["Count", "ModelPath", "Work", "Workers", "identity_of"]

#: Called with records and their tokens.
Count = Callable[[int, int], None]


@dataclass(frozen=True)
class Work:
    """The blocks that a run does.

    Attributes
    ----------
    task : Task
    rows : Input
    numbers : sequence of int
        Of the blocks.
    created : int
        The time that response objects carry.
    identity : mapping
        Of the model, as :func:`identity_of` returns it.
    """

    task: Task
    rows: Input
    numbers: Sequence[int]
    created: int
    identity: Mapping[str, Any]


class Workers(Protocol):
    """Processes on this machine or on others. What they answer is, to the last bit, what one process answers."""

    def run(self, work: Work, count: Count) -> Generator[Done, None, None]:
        """Work on blocks, and yield each when it is complete, in any order; closing the generator ends the processes.

        Parameters
        ----------
        work : Work
        count : callable
            Called now and then with records that are done, and their tokens.
        """
        ...


@dataclass(frozen=True)
class ModelPath:
    """A model as workers load it: each from the same path.

    Attributes
    ----------
    path : path-like
    options : mapping
        Of :func:`rwkv_cy.load`.
    """

    path: str | os.PathLike[str]
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, identity: Mapping[str, Any], place: str) -> LanguageModel:
        """Load the model, if it is the one of this identity.

        Parameters
        ----------
        identity : mapping
        place : str
            Where, for the message.

        Raises
        ------
        ConfigError
            If it is another one.
        RWKVError
            As :func:`rwkv_cy.load`.
        """
        model = load(Path(self.path), **self.options)
        found = identity_of(model)
        for name, expected in identity.items():
            if found[name] != expected:
                raise ConfigError(
                    f"{self.path}: expected the same {name} everywhere, {json.dumps(expected)}, "
                    f"got {json.dumps(found[name])} in {place}; copy the same file there"
                )
        return model


def identity_of(model: LanguageModel) -> dict[str, Any]:
    """Return what answers depend on, as plain values: the weights, how they are used, and the tokenizer."""
    return {
        "model": {
            "fingerprint": model.fingerprint,
            "dtypes": sorted({str(parameter.dtype) for parameter in model.parameters.values()}),
            "activations": model.activations,
        },
        "tokenizer": _tokenizer_digest(model),
    }


def _tokenizer_digest(model: LanguageModel) -> str | None:
    """Return a digest of what each token stands for."""
    if model.tokenizer is None:
        return None
    digest = hashlib.sha256()
    for token in range(model.tokenizer.vocab_size):
        data = model.tokenizer.decode_bytes([token])
        digest.update(len(data).to_bytes(4, "little") + data)
    return digest.hexdigest()
