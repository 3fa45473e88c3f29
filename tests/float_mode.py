"""The floating point mode of a thread, read and set through the C library: rounding, and flushing to zero."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["FLAGS", "MODES", "NEEDS_MODES", "current", "mode"]

#: By machine: bytes of glibc's fenv_t, where its control word begins, and the values of the modes that are tried.
_MACHINES = {
    "x86_64": (32, 28, {"usual": 0x1F80, "upward": 0x5F80, "downward": 0x3F80, "flushing": 0x9FC0}),
    "aarch64": (8, 0, {"usual": 0, "upward": 1 << 22, "downward": 2 << 22, "flushing": 1 << 24}),
}
_SIZE, _AT, MODES = _MACHINES.get(platform.machine(), (0, 0, {"usual": 0}))
#: Bits of the control word that are exceptions which any code of the thread raised: on x86 the lowest six.
FLAGS = 0x3F if platform.machine() == "x86_64" else 0
NEEDS_MODES = pytest.mark.skipif(
    not _SIZE or platform.libc_ver()[0] != "glibc", reason="floating point modes are set through glibc here"
)


def _environment() -> tuple[ctypes.CDLL, ctypes.Array[ctypes.c_char]]:
    return ctypes.CDLL(ctypes.util.find_library("m")), ctypes.create_string_buffer(_SIZE)


def current() -> int:
    """Return the control word of this thread; on x86 its lowest bits are exceptions that were raised."""
    library, environment = _environment()
    library.fegetenv(environment)
    return int.from_bytes(environment.raw[_AT : _AT + 4], "little")


def _set(word: int) -> None:
    library, environment = _environment()
    library.fegetenv(environment)
    environment[_AT : _AT + 4] = word.to_bytes(4, "little")  # type: ignore[assignment]
    library.fesetenv(environment)


@contextmanager
def mode(name: str) -> Iterator[int]:
    """Compute in a mode of MODES within the block; gives its control word."""
    before = current()
    _set(MODES[name])
    try:
        yield MODES[name]
    finally:
        _set(before)
