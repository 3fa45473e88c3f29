"""``python -m rwkv_cy`` and ``rwkv-cy``: the command, which can be interrupted while it is still being loaded."""

from __future__ import annotations

import atexit
import gc
import sys

from rwkv_cy.cli.signals import ended_by_signals
from rwkv_cy.cli.spared_modules import spare_modules

__all__ = ["main"]

#: Objects that a brief command makes before a search for cycles among them; Python's own number is 700. One file's
#: headers are more than that, and stay until the command ends.
_SELDOM = 50_000


def main() -> int:
    """Run the command and return its exit code; Ctrl-C ends it in one way, however early it comes."""
    try:
        with ended_by_signals():
            gc.disable()  # while modules are loaded: what they are made of stays
            spare_modules()
            from rwkv_cy.runtime import keep_blas_quiet

            keep_blas_quiet()
            from rwkv_cy.cli.main import main as run

            return run(started=_collect)
    except KeyboardInterrupt:
        print("rwkv-cy: interrupted", file=sys.stderr)
        return 130  # ExitCode.INTERRUPTED, whose module may not be loaded yet
    finally:
        gc.enable()


def _collect(brief: bool) -> None:
    """Search for cycles from now on, as usual or seldom, and never among the objects of the modules."""
    gc.freeze()
    if brief:
        gc.set_threshold(_SELDOM)
        atexit.register(gc.freeze)  # Python's own search as it ends would go through all that the file says
    gc.enable()


if __name__ == "__main__":
    sys.exit(main())
