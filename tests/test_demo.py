from __future__ import annotations

from pathlib import Path

import pytest

from pages import ROOT
from rwkv_cy import demo
from rwkv_cy.errors import StorageError


def test_the_demo_model_is_that_of_the_checkout() -> None:
    path = demo.demo_model_path()
    assert path.read_bytes() == (ROOT / "data" / "kjv7.pth").read_bytes()
    assert path.stat().st_size <= 4_000_000


def test_an_installed_package_has_it_beside_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "rwkv_cy" / "data" / "kjv7.pth"
    model.parent.mkdir(parents=True)
    model.touch()
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "rwkv_cy" / "demo.py"))
    assert demo.demo_model_path() == model


def test_without_it_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "rwkv_cy" / "demo.py"))
    with pytest.raises(StorageError, match="expected the demo model, got no such file; install rwkv-cy again"):
        demo.demo_model_path()
