"""The exceptions of the package: every error that a user can cause is one of these.

Each message is one sentence: where, what was expected, what was found, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BusyError",
    "ConfigError",
    "FormatError",
    "GenerationError",
    "HubError",
    "KernelError",
    "MissingDependencyError",
    "NotEnoughMemoryError",
    "NumericalError",
    "RWKVError",
    "SpecError",
    "StateError",
    "StorageError",
    "TokenError",
    "TokenizerError",
    "UnsupportedError",
]


class RWKVError(Exception):
    """Base class of the exceptions of this package."""


class ConfigError(RWKVError, ValueError):
    """A setting is out of range or contradicts another."""


class KernelError(RWKVError, ValueError):
    """An array given to a kernel has the wrong shape, type or layout."""


class FormatError(RWKVError, ValueError):
    """A file violates its format."""


class UnsupportedError(FormatError):
    """A file is valid, but of a kind or version that this package does not run."""


class SpecError(FormatError):
    """The parameters of a model are missing, unexpected, or of the wrong shape or type."""


class StateError(RWKVError, ValueError):
    """A state does not fit the model, was left invalid by a failed call in place, or its file is damaged."""


class TokenError(RWKVError, ValueError):
    """A token id is outside the vocabulary, or not an integer."""


class TokenizerError(RWKVError, ValueError):
    """A vocabulary is damaged or missing, or a text cannot be encoded with it."""


class GenerationError(RWKVError, ValueError):
    """Text cannot be generated: a sampling option is out of range, or the logits are NaN."""


class BusyError(RWKVError):
    """The queue of an engine is full; the same request may succeed later."""


class StorageError(RWKVError, OSError):
    """A read or write failed, a file already exists, or a file changed while it was read."""


class HubError(StorageError):
    """A model cannot be fetched from the Hugging Face hub: its name, the network, access, or what arrived.

    Parameters
    ----------
    message : str
    files : sequence of (str, int), default ()
        Names and sizes of the files to choose from, where the message is about a choice.
    transient : bool, default False
        Whether the same request may succeed later.
    """

    def __init__(self, message: str, files: Sequence[tuple[str, int]] = (), *, transient: bool = False) -> None:
        super().__init__(message)
        self.files = tuple(files)
        self.transient = transient


class MissingDependencyError(RWKVError, ImportError):
    """An optional package is needed; the message gives the ``pip install`` command."""


class NumericalError(RWKVError, ArithmeticError):
    """Logits or weights are NaN or infinite, or weights are too large to quantize; the message says where."""


class NotEnoughMemoryError(RWKVError, MemoryError):
    """A model needs more memory than is available; the message gives both."""
