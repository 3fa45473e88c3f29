"""Runs a subcommand of ``rwkv-cy`` from a checkout where the package is built but not installed."""

import sys
from pathlib import Path

__all__ = ["run"]


def run(command: str) -> None:
    """Run ``rwkv-cy COMMAND`` with the arguments of this script, and exit as it does."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.argv.insert(1, command)
    from rwkv_cy.__main__ import main

    sys.exit(main())
