"""``python -m rwkv_cy`` and ``rwkv-cy``: the command, which can be interrupted while it is still being loaded."""

from __future__ import annotations

import sys

from rwkv_cy.cli.signals import ended_by_signals

__all__ = ["main"]


def main() -> int:
    """Run the command and return its exit code; Ctrl-C ends it in one way, however early it comes."""
    try:
        with ended_by_signals():
            from rwkv_cy.runtime import keep_blas_quiet

            keep_blas_quiet()
            from rwkv_cy.cli.main import main as run

            return run()
    except KeyboardInterrupt:
        print("rwkv-cy: interrupted", file=sys.stderr)
        return 130  # ExitCode.INTERRUPTED, whose module may not be loaded yet


if __name__ == "__main__":
    sys.exit(main())
