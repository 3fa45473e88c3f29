"""``python -m rwkv_cy`` is the command ``rwkv-cy``."""

from __future__ import annotations

import sys

from rwkv_cy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
