"""The converter, to and from quantized matrices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import numbers, random_checkpoint, small_parameters, write_safetensors, write_small
from contracts.cases import CONFIGS
from formats import foreign
from rwkv_cy import load
from rwkv_cy.dtypes import QUANTIZED_TYPES, STORAGE_TYPES, array_dtype, to_storage
from rwkv_cy.errors import ConfigError, NumericalError
from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.storage import open_model
from rwkv_cy.tensors import converter
from rwkv_cy.toolkit.convert import convert, plan_conversion

pytestmark = pytest.mark.usefixtures("structure_checked_here")

KEY = "blocks.0.ffn.key.weight"
TWICE = r"is already quantized \(\d+ matrices in {}\); convert the original, or force it \(--force, requantize=True\)"


def stored(path: Path, name: str) -> tuple[str, np.ndarray]:
    with open_model(path) as model:
        info = model.info(name)
        array = np.empty(info.nbytes, np.uint8).view(array_dtype(info.dtype))
        model.read_into(name, array)
        return info.dtype, array.reshape(info.array_shape)


@pytest.fixture
def q8(small: Path, tmp_path: Path) -> Path:
    convert(small, tmp_path / "q8.h5", dtype="q8")
    return tmp_path / "q8.h5"


@pytest.mark.parametrize("own", STORAGE_TYPES)
@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_matrices_are_quantized_and_nothing_else(own: str, dtype: str, tmp_path: Path) -> None:
    parameters = {name: to_storage(array, "f32", own) for name, array in small_parameters().items()}
    report = convert(write_safetensors(tmp_path / "s", parameters), tmp_path / "t", dtype=dtype)
    for tensor in report.plan.tensors:
        name, source = tensor.name, parameters[tensor.name]
        found_dtype, found = stored(tmp_path / "t", name)
        if tensor.kind in ("matrix", "head"):
            assert found_dtype == dtype
            np.testing.assert_array_equal(found, pack(to_storage(source, own, "f32"), dtype))
        else:
            wide = tensor.kind == "embedding" and own in ("f32", "f64")
            assert found_dtype == ("f16" if wide else own)
            np.testing.assert_array_equal(found, to_storage(source, own, found_dtype))
        assert (tensor.dtype, tensor.nbytes) == (found_dtype, found.nbytes)
    assert report.plan.nbytes < report.plan.source_nbytes
    assert report.size <= report.plan.disk_needed
    assert report.warnings == ()
    with open_model(tmp_path / "t") as model:
        assert model.header.config["compute_dtype"] == "f32"
        assert model.verify().ok


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
@pytest.mark.parametrize("quantized", QUANTIZED_TYPES)
def test_back_to_numbers(small: Path, tmp_path: Path, quantized: str, dtype: str) -> None:
    convert(small, tmp_path / "q", dtype=quantized)
    report = convert(tmp_path / "q", tmp_path / "t", dtype=dtype)
    for name in (KEY, "head.weight"):
        packed = stored(tmp_path / "q", name)[1]
        weights = unpack(packed, quantized, small_parameters()[name].shape)
        found_dtype, found = stored(tmp_path / "t", name)
        assert found_dtype == dtype
        np.testing.assert_array_equal(found, to_storage(weights, "f32", dtype))
    assert report.warnings == ()


@pytest.mark.parametrize("dtype", [None, "q8"])
def test_blocks_of_the_same_type_are_copied(q8: Path, tmp_path: Path, dtype: str | None) -> None:
    report = convert(q8, tmp_path / "t", dtype=dtype)
    for tensor in report.plan.tensors:
        np.testing.assert_array_equal(stored(tmp_path / "t", tensor.name)[1], stored(q8, tensor.name)[1])
    assert report.warnings == ()


def test_our_blocks_are_quantized_again_only_on_request(q8: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=TWICE.format("q8")):
        convert(q8, tmp_path / "t", dtype="q4")
    with pytest.raises(ConfigError, match=TWICE.format("q8")):
        plan_conversion(q8, tmp_path / "t", "q4")
    assert not (tmp_path / "t").exists()
    report = convert(q8, tmp_path / "t", dtype="q4", requantize=True)
    count = sum(tensor.kind in ("matrix", "head") for tensor in report.plan.tensors)
    assert report.warnings == (f"{q8}: {count} quantized matrices are rounded a second time, to q4",)
    weights = unpack(stored(q8, KEY)[1], "q8", small_parameters()[KEY].shape)
    np.testing.assert_array_equal(stored(tmp_path / "t", KEY)[1], pack(weights, "q4"))


def test_blocks_of_others_are_quantized_again_only_on_request(tmp_path: Path) -> None:
    source = tmp_path / "q.bin"
    source.write_bytes(foreign.rwkvcpp_bytes(small_parameters(), "q8_0"))
    with pytest.raises(ConfigError, match=TWICE.format("q8_0")):
        convert(source, tmp_path / "t", dtype="q8")
    convert(source, tmp_path / "t", dtype="q8", requantize=True)
    assert stored(tmp_path / "t", KEY)[0] == "q8"
    assert stored(tmp_path / "t", "emb.weight")[0] == "f16"


def test_a_plan_says_what_is_quantized_again(q8: Path, tmp_path: Path) -> None:
    plan = plan_conversion(q8, tmp_path / "t", "q4", requantize=True)
    types = {(tensor.kind, tensor.source_dtype, tensor.dtype) for tensor in plan.tensors}
    assert types == {
        ("matrix", "q8", "q4"),
        ("head", "q8", "q4"),
        ("embedding", "f16", "f16"),
        ("vector", "f32", "f32"),
    }
    assert "rounded a second time" in json.loads(json.dumps(plan.to_dict()))["warnings"][0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_what_is_not_finite_is_refused(tmp_path: Path, dtype: str, bad: float) -> None:
    source = write_small(tmp_path / "s", head__weight=numbers(0, bad, shape=(256, 32)))
    with pytest.raises(
        NumericalError, match=rf"s: head\.weight: expected finite weights to quantize to {dtype}, got NaN or infinity; "
    ):
        convert(source, tmp_path / "t", dtype=dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_a_low_rank_factor_that_is_not_finite_is_refused(tmp_path: Path, dtype: str) -> None:
    """Unless it keeps its type."""
    parameters = random_checkpoint(CONFIGS["rwkv7"])
    name = "blocks.0.att.w1"
    parameters[name][3, 2] = np.nan
    source = write_safetensors(tmp_path / "s", parameters)
    with pytest.raises(NumericalError, match=rf"s: {name}: expected finite weights to quantize to q8, got NaN or infi"):
        convert(source, tmp_path / "t", dtype=dtype, tokenizer="none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]
    report = convert(source, tmp_path / "t", dtype=dtype, keep={name: None}, tokenizer="none")
    assert list(report.nonfinite) == [name]


@pytest.mark.parametrize(("dtype", "own"), [("q8", "f32"), ("q6", "f32"), ("q4", "f32"), ("q8", "f64"), ("q4", "bf16")])
def test_what_is_too_large_is_refused(tmp_path: Path, dtype: str, own: str) -> None:
    large = to_storage(numbers(0, 1e7, shape=(256, 32)), "f32", own)
    source = write_small(tmp_path / "s", head__weight=large)
    with pytest.raises(
        NumericalError, match=rf"head\.weight: expected weights that {dtype} can hold, got up to .*e\+07;"
    ):
        convert(source, tmp_path / "t", dtype=dtype)


def test_what_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    source = write_small(tmp_path / "s", head__weight=numbers(0, shape=(256, 32)).astype("<f8") + 1e300)
    with pytest.raises(NumericalError, match="got NaN or infinity"):
        convert(source, tmp_path / "t", dtype="q8")


def test_an_embedding_may_overflow_and_is_told(tmp_path: Path) -> None:
    source = write_small(tmp_path / "s", emb__weight=numbers(70_000, shape=(256, 32)))
    assert convert(source, tmp_path / "t", dtype="q8").overflowed == {"emb.weight": 1}


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_matrices_of_many_blocks_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """More than the writer's block of 1 MiB in both directions, and no whole number of groups."""
    monkeypatch.setattr(converter, "get_num_threads", lambda: threads)
    parameters = foreign.rwkv4_parameters(vocab=50_277, width=32, layers=1)
    source = write_safetensors(tmp_path / "s", parameters)
    done: list[tuple[int, int]] = []
    report = convert(source, tmp_path / "q", dtype="q8", progress=lambda *counts: done.append(counts))
    head = parameters["head.weight"]
    packed = pack(head, "q8")
    np.testing.assert_array_equal(stored(tmp_path / "q", "head.weight")[1], packed)
    assert done[-1] == (report.plan.nbytes, report.plan.nbytes)
    convert(tmp_path / "q", tmp_path / "t", dtype="f64")
    np.testing.assert_array_equal(stored(tmp_path / "t", "head.weight")[1], unpack(packed, "q8", head.shape))
    convert(tmp_path / "q", tmp_path / "four", dtype="q4", requantize=True)
    expected = pack(unpack(packed, "q8", head.shape), "q4")
    np.testing.assert_array_equal(stored(tmp_path / "four", "head.weight")[1], expected)


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
@pytest.mark.parametrize("mmap", [True, False])
def test_a_quantized_file_computes_what_one_quantized_at_load_does(
    kjv_checkpoint: Path, tmp_path: Path, dtype: str, mmap: bool
) -> None:
    convert(kjv_checkpoint, tmp_path / "q", dtype=dtype)
    stored_model, loaded = load(tmp_path / "q", mmap=mmap), load(kjv_checkpoint, dtype=dtype)
    found, expected = stored_model.forward([10, 20, 30])[0], loaded.forward([10, 20, 30])[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("own", "dtype"), [("f32", "f16"), ("f32", "q8"), ("q8", "f16")])
def test_memory_is_bounded_by_a_block(tmp_path: Path, own: str, dtype: str) -> None:
    """Anonymous memory grows by no more than the plan says, for a matrix of 64 MB."""
    large = np.zeros((500_000, 32), np.float32)
    source = write_small(tmp_path / "s", emb__weight=large, head__weight=large)
    if own == "q8":
        convert(source, tmp_path / "q", dtype=own)
        source = tmp_path / "q"
    script = (
        "import sys, re\n"
        "from rwkv_cy.toolkit.convert import convert\n"
        "def anonymous():\n"
        "    with open('/proc/self/status') as file:\n"
        "        return 1024 * int(re.search(r'RssAnon:\\s+(\\d+)', file.read())[1])\n"
        "before, peak = anonymous(), [0]\n"
        "def watch(done, total):\n"
        "    peak[0] = max(peak[0], anonymous())\n"
        "report = convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3], progress=watch)\n"
        "print(peak[0] - before, report.plan.memory)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, source, tmp_path / "t", dtype], capture_output=True, text=True, check=True
    )
    grown, promised = map(int, run.stdout.split())
    assert grown <= promised < 30e6
