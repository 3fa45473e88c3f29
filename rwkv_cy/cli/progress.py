"""A progress bar on standard error, if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rwkv_cy.cli.output import is_quiet

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(
    label: str, enabled: bool = True, *, unit: str = "B", delay: float = 0
) -> Iterator[Callable[[int, int], None] | None]:
    """Yield ``advance(done, total)``; None unless `enabled`, without --quiet, and standard error is a terminal.

    The bar appears after `delay` seconds.
    """
    if not (enabled and sys.stderr.isatty()) or is_quiet():
        yield None
        return
    from tqdm import tqdm  # imported here: most runs show no bar

    with tqdm(desc=label, unit=unit, unit_scale=True, file=sys.stderr, leave=False, delay=delay) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
