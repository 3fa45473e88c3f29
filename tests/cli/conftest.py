"""Running the command in this process or in a separate one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from rwkv_cy import runtime
from rwkv_cy.cli.main import main


class Result(NamedTuple):
    """What a run of the command gave."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def call(*arguments: object) -> Result:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err or "--debug" in arguments
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def spawn() -> Run:
    """Run the command in a process of its own; keywords go to subprocess.run."""

    def call(*arguments: object, **options: Any) -> Result:
        command = [sys.executable, "-m", "rwkv_cy", *map(str, arguments)]
        done = subprocess.run(
            command, **{"capture_output": True, "text": True, "timeout": 60, "check": False} | options
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the number of threads back after a test that sets it."""
    monkeypatch.setattr(runtime, "_num_threads", runtime.get_num_threads())
