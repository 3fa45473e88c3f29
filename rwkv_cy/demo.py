"""The demo model that comes with the package: its path and a prompt for it."""

from __future__ import annotations

from pathlib import Path

from rwkv_cy.errors import StorageError

__all__ = ["DEMO_PROMPT", "demo_model_path"]

#: A prompt that suits the demo model, which was trained on the King James Bible.
DEMO_PROMPT = "In the beginning"
_FILE = "kjv7.pth"


def demo_model_path() -> Path:
    """Return the path of the demo model: a byte-level model in a PyTorch checkpoint.

    An installed package holds it beside its modules, a source checkout in its ``data`` folder.

    Raises
    ------
    StorageError
        If neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        path = folder / _FILE
        if path.is_file():
            return path
    raise StorageError(
        f"{package / 'data' / _FILE}: expected the demo model, got no such file; "
        "install rwkv-cy again, or give the path of a model"
    )
