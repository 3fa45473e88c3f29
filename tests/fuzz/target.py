"""What a fuzz target is: files to begin with, and what is done with a damaged one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _as_it_is(data: bytes) -> bytes:
    return data


@dataclass(frozen=True)
class Target:
    """One reader, under damaged files.

    Attributes
    ----------
    name : str
    seeds : callable
        Returns valid files, small ones.
    run : callable
        Reads a file of these bytes. Errors of the package are the right answer to a damaged file; anything else that it
        raises is a bug.
    repair : callable
        Makes lengths and checksums fit the bytes as far as they can be found, so that damage reaches what is behind
        them. It leaves a valid file as it is.
    words : tuple of bytes
        What the format has names for; a mutator inserts them.
    guided : bool
        Whether the target is fast enough for millions of runs.
    finish : callable
        Called after the last run.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes], None]
    repair: Callable[[bytes], bytes] = _as_it_is
    words: tuple[bytes, ...] = ()
    guided: bool = True
    finish: Callable[[], None] = lambda: None
