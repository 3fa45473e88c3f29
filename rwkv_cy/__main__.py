"""``python -m rwkv_cy`` and ``rwkv-cy``: the command, which can be interrupted while it is still being loaded."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command and return its exit code; Ctrl-C ends it in one way, however early it comes."""
    # NumPy's BLAS multiplies nothing here, and would start threads that spin beside ours.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from rwkv_cy.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("rwkv-cy: interrupted", file=sys.stderr)
        return 130  # ExitCode.INTERRUPTED, whose module may not be loaded yet


if __name__ == "__main__":
    sys.exit(main())
