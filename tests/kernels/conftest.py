"""Every kernel test runs on every instruction set that this CPU has, and in both precisions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwkv_cy.kernels import dispatch


@pytest.fixture(params=dispatch.available_instruction_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = dispatch.active_instruction_set()
    yield dispatch.select_instruction_set(request.param)
    dispatch.select_instruction_set(before)


@pytest.fixture(params=["f32", "f64"])
def real(request: pytest.FixtureRequest) -> str:
    return str(request.param)
