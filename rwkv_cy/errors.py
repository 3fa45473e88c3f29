"""The exceptions of the package: every error that a user can cause is one of these.

Each message says where, what was expected, what was found and what to do, in one sentence.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "FormatError",
    "GenerationError",
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
    """Base of every exception that this package raises on purpose."""


class ConfigError(RWKVError, ValueError):
    """A setting is out of its range or contradicts another one."""


class KernelError(RWKVError, ValueError):
    """An array given to a kernel has the wrong shape, type or layout."""


class FormatError(RWKVError, ValueError):
    """The bytes of a file are not what its format says they must be."""


class UnsupportedError(FormatError):
    """A file is well formed, but of a kind or version that this package does not run."""


class SpecError(FormatError):
    """The parameters of a model are missing, unexpected, or of the wrong shape or type."""


class StateError(RWKVError, ValueError):
    """A state does not fit the model that it was given to, or its file is damaged."""


class TokenError(RWKVError, ValueError):
    """A token id lies outside the vocabulary, or is no integer."""


class TokenizerError(RWKVError, ValueError):
    """A vocabulary is damaged or missing, or a text cannot be encoded with it."""


class GenerationError(RWKVError, ValueError):
    """Text cannot be generated: a sampling option is out of range, or the logits are not numbers."""


class StorageError(RWKVError, OSError):
    """The operating system refused a read or a write, or a file is in the way, or changed while it was read."""


class MissingDependencyError(RWKVError, ImportError):
    """An optional package is needed; the message names the ``pip install`` line that brings it."""


class NumericalError(RWKVError, ArithmeticError):
    """Logits, or weights to be quantized, are not finite, or the latter too large; the message says where."""


class NotEnoughMemoryError(RWKVError, MemoryError):
    """A model needs more memory than there is; the message says how much of each."""
