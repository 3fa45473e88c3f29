"""Servers of data/kjv.pth on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rwkv_cy.model.language_model import LanguageModel, load

if TYPE_CHECKING:
    from server.running import Client

MISSING = [name for name in ("msgspec", "prometheus_client", "starlette", "uvicorn") if find_spec(name) is None]
#: Nothing here can be imported without the packages of the extra "serve".
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    """Say why tests are missing."""
    return f"tests/server is skipped: not installed: {', '.join(MISSING)}" if MISSING else None


@pytest.fixture(scope="session")
def kjv(kjv_checkpoint: Path) -> LanguageModel:
    """Return the model of data/kjv.pth."""
    return load(kjv_checkpoint)


@pytest.fixture(scope="session")
def client(kjv: LanguageModel) -> Iterator[Client]:
    """Return a client of a server with default settings."""
    from server.running import running

    with running(kjv) as server:
        yield server


@pytest.fixture(scope="session")
def g1(kjv: LanguageModel) -> Iterator[Client]:
    """Return a client of a server whose prompts are those of G1 models."""
    from server.running import running

    with running(kjv, chat="g1") as server:
        yield server
