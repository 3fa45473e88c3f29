"""``python -m rwkv_cy`` and ``rwkv-cy``: the command, which can be interrupted while it is still being loaded."""

from __future__ import annotations

import gc
import sys

from rwkv_cy.cli.signals import ended_by_signals
from rwkv_cy.cli.spared_modules import spare_modules

__all__ = ["main"]

#: Objects that a command makes before a search for cycles among them. With Python's 700, one in ten milliseconds of a
#: start goes to searches: what modules and headers of files are made of stays.
_COLLECT_AFTER = 50_000


def main() -> int:
    """Run the command and return its exit code; Ctrl-C ends it in one way, however early it comes."""
    try:
        with ended_by_signals():
            gc.set_threshold(_COLLECT_AFTER)
            spare_modules()
            from rwkv_cy.runtime import keep_blas_quiet

            keep_blas_quiet()
            from rwkv_cy.cli.main import main as run

            return run()
    except KeyboardInterrupt:
        print("rwkv-cy: interrupted", file=sys.stderr)
        return 130  # ExitCode.INTERRUPTED, whose module may not be loaded yet


if __name__ == "__main__":
    sys.exit(main())
