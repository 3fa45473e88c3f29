"""A progress bar on standard error, where there is somebody to see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(label: str, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function of the bytes done and the bytes of all; None if no bar is `wanted` or stderr is a file."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from tqdm import tqdm  # not above: most runs draw no bar

    with tqdm(desc=label, unit="B", unit_scale=True, file=sys.stderr, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
