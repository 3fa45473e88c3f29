"""The set-up prints one sentence about what the machine lacks."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "preflight.py"


def missing() -> str | None:
    """Ask the script."""
    found: dict[str, Any] = runpy.run_path(str(SCRIPT))
    answer: str | None = found["missing"]()
    return answer


def test_this_machine_lacks_nothing() -> None:
    assert missing() is None


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    assert f"needs Python 3.11 or later, got 3.10 ({sys.executable}); name another one: make PYTHON=" in str(missing())


def test_a_python_without_venv_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert "install its venv module (Debian, Ubuntu: python3-venv)" in str(missing())


def test_a_python_without_headers_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "this Python has no C headers; install them" in str(missing())


def test_a_compiler_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert "the C compiler 'no-such-compiler' does not run; install gcc or clang" in str(missing())


def test_the_exit_code_and_the_sentence() -> None:
    environment = {**os.environ, "CC": "no-such-compiler"}
    run = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("rwkv_cy: the C compiler")
    assert len(run.stderr.splitlines()) == 1
