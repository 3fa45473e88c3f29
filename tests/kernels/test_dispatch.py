"""Available instruction sets, and how to select one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rwkv_cy.errors import ConfigError
from rwkv_cy.kernels import dispatch


def test_portable_is_always_there() -> None:
    assert "portable" in dispatch.built_instruction_sets()
    assert "portable" in dispatch.available_instruction_sets()
    assert set(dispatch.available_instruction_sets()) <= set(dispatch.built_instruction_sets())


def test_every_one_of_this_cpu_can_be_forced_from_the_environment() -> None:
    program = "from rwkv_cy.kernels import dispatch; print(dispatch.active_instruction_set())"
    for name in dispatch.available_instruction_sets():
        environment = {**os.environ, "RWKV_CY_ISA": name.upper()}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == name, done.stderr


def test_those_that_this_cpu_cannot_run_are_refused() -> None:
    available = dispatch.available_instruction_sets()
    active = dispatch.active_instruction_set()
    message = rf"expected one that this CPU can run \({', '.join(available)}\)"
    for name in {*dispatch.built_instruction_sets(), *dispatch.left_out_instruction_sets(), "amx"} - set(available):
        with pytest.raises(ConfigError, match=f"{message}, got '{name}'"):
            dispatch.select_instruction_set(name)
    assert dispatch.active_instruction_set() == active


def test_families_come_from_the_instruction_set_or_lower_ones(isa: str) -> None:
    families = dispatch.kernel_families()
    available = dispatch.available_instruction_sets()
    lower = available[available.index(isa) :]
    assert families["floats"] in lower
    assert families["quantized"] in lower
    assert {families["bf16"], families["int8 tiles"]} <= {*lower, None}


def test_an_unknown_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="instruction set: expected one that this CPU can run .* got 'mmx'"):
        dispatch.select_instruction_set("mmx")
    monkeypatch.setenv("RWKV_CY_ISA", "sse9")
    with pytest.raises(ConfigError, match="RWKV_CY_ISA: expected one that this CPU can run .* got 'sse9'"):
        dispatch.select_instruction_set()
