"""Tensors that no model can have: described and left out with a warning, unless the model needs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import small_parameters, write_safetensors, write_small
from formats.make_pth import archive, call, dictionary, name, storage, tensor, tensors
from rwkv_cy import load
from rwkv_cy.errors import SpecError, UnsupportedError
from rwkv_cy.toolkit.convert import convert, plan_conversion
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.verify import verify

STEP = tensor(storage("LongStorage", "90", 1), (1,))
MASK = tensor(storage("BoolStorage", "91", 4), (2, 2))
EMPTY = tensor(storage("FloatStorage", "92", 0), (0,))
SPARSE = call(name("torch._utils", "_rebuild_sparse_tensor"))
WARNING = r"m\.pth: left out what no model needs: step \(int64, shape \(1,\)\), mask \(bool, shape \(2, 2\)\), "


def write(path: Path, **others: bytes) -> Path:
    """Write the small model as a .pth, with other tensors; `__` stands for the dots of their names."""
    arrays = {name: ("f32", array) for name, array in small_parameters().items()}
    body = tensors(arrays) | {title.replace("__", "."): opcodes for title, opcodes in others.items()}
    return archive(dictionary(body), [array.tobytes() for _, array in arrays.values()]).write(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "m.pth", step=STEP, mask=MASK, blocks__0__att__cache=EMPTY, table=SPARSE)


def test_convert_warns(checkpoint: Path, tmp_path: Path) -> None:
    plan = plan_conversion(checkpoint, tmp_path / "t")
    report = convert(checkpoint, tmp_path / "t")
    expected = convert(write_small(tmp_path / "s"), tmp_path / "u")
    assert report.warnings == plan.warnings != ()
    assert report.warnings[0].startswith(
        f"{checkpoint}: left out what no model needs: step (int64, shape (1,)), mask ("
    )
    assert "table (a sparse tensor)" in report.warnings[0]
    assert report.fingerprint == expected.fingerprint
    assert verify(checkpoint).ok


def test_load_warns(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match=WARNING):
        model = load(checkpoint)
    expected, _ = load(write_small(tmp_path / "s")).forward([1, 2])
    np.testing.assert_array_equal(model.forward([1, 2])[0], expected)


def test_inspect_describes(checkpoint: Path) -> None:
    report = inspect(checkpoint)
    assert report.problems == ()
    assert report.left_out == {
        "step": "int64, shape (1,)",
        "mask": "bool, shape (2, 2)",
        "blocks.0.att.cache": "empty float32, shape (0,)",
        "table": "a sparse tensor",
    }


def test_what_the_model_needs(tmp_path: Path) -> None:
    wrong = tensor(storage("CharStorage", "95", 32), (32,))
    with pytest.raises(
        SpecError,
        match=r"missing ln_out\.weight \(32,\); the file is not a whole, unchanged model; "
        r"left out, because weights are floats: ln_out\.weight \(int8, shape \(32,\)\)",
    ):
        load(write(tmp_path / "m.pth", ln_out__weight=wrong))
    with pytest.raises(SpecError, match=r"left out, because weights are floats: emb\.weight \(a sparse tensor\)"):
        load(write(tmp_path / "m.pth", emb__weight=SPARSE))


def test_nothing_but_what_no_model_can_have(tmp_path: Path) -> None:
    quantized = {f"blocks.{i}.att.key.weight": tensor(storage("CharStorage", str(i), 4), (2, 2)) for i in range(3)}
    path = archive(dictionary(quantized), []).write(tmp_path / "m.pth")
    with pytest.raises(
        UnsupportedError,
        match=r"m\.pth: blocks\.0\.att\.key\.weight: expected numbers of type float64, float32, float16 or bfloat16, "
        r"got int8, shape \(2, 2\), and 2 others like it; save the weights as one of those types",
    ):
        inspect(path)


@pytest.mark.parametrize("kept", [0, 3])
def test_a_part_of_a_checkpoint_in_any_format(tmp_path: Path, kept: int) -> None:
    parameters = {
        name: array if at < kept else array.reshape(-1)[:0]
        for at, (name, array) in enumerate(small_parameters().items())
    }
    path = write_safetensors(tmp_path / "m.safetensors", parameters)
    count = len(parameters)
    with pytest.raises(
        UnsupportedError, match=f"got {count - kept} empty tensors of {count}, .* ZeRO-3 checkpoint; run"
    ):
        inspect(path)


def test_very_many_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", **{f"step{i}": STEP for i in range(9)})
    with pytest.warns(RuntimeWarning, match=r"step4 \(int64, shape \(1,\)\) and 4 more$"):
        load(path)
