"""Every kernel test runs on every instruction set that this CPU has, and in both precisions."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["f32", "f64"])
def real(request: pytest.FixtureRequest) -> str:
    return str(request.param)
