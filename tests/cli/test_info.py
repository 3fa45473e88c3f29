from __future__ import annotations

import json

import pytest

import rwkv_cy
from cli.conftest import Run
from rwkv_cy.cli import info
from rwkv_cy.errors import StorageError
from rwkv_cy.kernels import dispatch


def test_info(run: Run) -> None:
    result = run("info")
    assert (result.code, result.err) == (0, "")
    for word in (
        rwkv_cy.__version__,
        "threads",
        "instruction set",
        "thread backend",
        "numpy",
        "demo model",
        "kjv7.pth",
    ):
        assert word in result.out


def test_json(run: Run) -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["version"] == rwkv_cy.__version__
    assert facts["threads"] >= 1
    assert facts["cores"] >= 1
    assert facts["instruction_set"] in facts["instruction_sets_available"]
    assert set(facts["instruction_sets_available"]) <= set(facts["instruction_sets_built"])
    assert facts["kernels"]["floats"] in facts["instruction_sets_available"]
    assert set(facts["kernels"].values()) <= {*facts["instruction_sets_available"], None}
    assert not set(facts["instruction_sets_left_out"]) & set(facts["instruction_sets_built"])
    assert facts["libraries"]["numpy"]


def test_kernels_and_what_the_compiler_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    families = {"floats": "avx512", "quantized": "avx512vnni", "bf16": "amx", "int8 tiles": None}
    monkeypatch.setattr(dispatch, "kernel_families", lambda: families)
    monkeypatch.setattr(dispatch, "built_instruction_sets", lambda: ("avx2", "portable"))
    monkeypatch.setattr(dispatch, "left_out_instruction_sets", lambda: ("avxvnni", "amx"))
    out = " ".join(run("info").out.split())
    assert "kernels floats avx512, quantized avx512vnni, bf16 amx CPU" in out
    too_old = "not avxvnni: the compiler is too old; not amx: the compiler is too old"
    assert f"build contains avx2, portable; {too_old}" in out


def test_what_is_missing_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise StorageError("not here")

    monkeypatch.setattr(info, "demo_model_path", missing)
    monkeypatch.setattr(info, "_LIBRARIES", ("no-such-library",))
    result = run("info")
    assert "no-such-library not installed" in result.out
    assert "demo model" in result.out
    assert json.loads(run("info", "--json").out)["demo_model"] is None


def test_a_wrong_setting_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWKV_CY_NUM_THREADS", "many")
    monkeypatch.setattr("rwkv_cy.runtime._num_threads", None)
    result = run("info")
    assert result.code == 1
    assert "RWKV_CY_NUM_THREADS" in result.err
