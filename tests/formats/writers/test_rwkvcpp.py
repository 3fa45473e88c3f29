"""Exports to rwkv.cpp's format: what is in the file, read by hand, and what is refused or warned of."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_safetensors
from formats.foreign import Array
from formats.sources import read_all
from formats.writers.rwkvcpp_models import CONFIGS, parameters_of
from rwkv_cy.config import Config
from rwkv_cy.dtypes import to_storage
from rwkv_cy.errors import ConfigError, NumericalError, UnsupportedError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import ENCODERS, encode_blocks
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export

#: The format's numbers for its types, and the bytes of a block of so many numbers.
NUMBERS = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 7, "q5_1": 8, "q8_0": 9}
SIZES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 7: (32, 22), 8: (32, 24), 9: (32, 34)}
MATRICES = ("receptance", "key", "value", "output")


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: the sizes as they stand there, row first."""

    sizes: tuple[int, ...]
    type: int
    data: bytes


def parse(path: Path) -> tuple[tuple[int, ...], dict[str, Entry]]:
    """Return the header, and the tensors in their order: docs/FILE_FORMAT.md, read once more."""
    raw = path.read_bytes()
    return struct.unpack_from("<6I", raw), dict(_entries(raw))


def _entries(raw: bytes) -> Iterator[tuple[str, Entry]]:
    at = 24
    while at < len(raw):
        count, length, kind = struct.unpack_from("<3I", raw, at)
        sizes = struct.unpack_from(f"<{count}I", raw, at + 12)
        at += 12 + 4 * count
        name = raw[at : at + length].decode()
        at += length
        block, nbytes = SIZES[kind]
        size = int(np.prod(sizes)) // block * nbytes
        yield name, Entry(sizes, kind, raw[at : at + size])
        at += size
    assert at == len(raw)


def exported(tmp_path: Path, parameters: dict[str, Array], dtype: str | None = None) -> Path:
    source = write_safetensors(tmp_path / "model.safetensors", parameters)
    export(source, tmp_path / "model.bin", dtype=dtype)
    return tmp_path / "model.bin"


@pytest.mark.parametrize(("dtype", "number"), [(None, 0), *NUMBERS.items()])
def test_header_and_types_of_rwkv7(tmp_path: Path, dtype: str | None, number: int) -> None:
    header, entries = parse(exported(tmp_path, parameters_of(CONFIGS["rwkv7"]), dtype))
    assert header == (0x67676D66, 101, 300, 128, 3, number)
    plain = 0 if dtype in (None, "f32") else 1
    expected = dict.fromkeys(("emb.weight", "head.weight"), plain)
    for i in range(3):
        expected |= {f"blocks.{i}.att.{name}.weight": number for name in MATRICES}
        expected |= {f"blocks.{i}.ffn.{name}.weight": number for name in ("key", "value")}
        expected |= {f"blocks.{i}.att.{m}{n}": plain for m in "wavg" for n in "12" if i or m != "v"}
    assert {name: entry.type for name, entry in entries.items() if entry.type} == {
        name: kind for name, kind in expected.items() if kind
    }
    assert entries["blocks.1.att.x_rwkvag"].sizes == (128, 1, 6)
    assert entries["blocks.1.att.w0"].sizes == (128, 1, 1)
    assert entries["blocks.1.att.w1"].sizes == (128, 32)
    assert entries["blocks.1.att.r_k"].sizes == (64, 2)
    assert entries["blocks.2.ffn.key.weight"].sizes == (128, 256)
    assert not any(name.startswith("blocks.0.att.v") and len(name) == 15 for name in entries)


def test_types_of_rwkv4(tmp_path: Path) -> None:
    header, entries = parse(exported(tmp_path, parameters_of(CONFIGS["rwkv4"]), "q5_1"))
    assert header[5] == NUMBERS["q5_1"]
    counts = {kind: sum(entry.type == kind for entry in entries.values()) for kind in (0, 1, 8)}
    # Embedding and head; four matrices of the time mix and three of the channel mix in each layer.
    assert counts == {0: len(entries) - 2 - 3 * 7, 1: 2, 8: 3 * 7}
    assert entries["blocks.0.att.time_mix_k"].sizes == (128,)


@pytest.mark.parametrize("dtype", ENCODERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_are_those_of_the_parameters(tmp_path: Path, dtype: str, name: str) -> None:
    parameters = parameters_of(CONFIGS[name])
    _, entries = parse(exported(tmp_path, parameters, dtype))
    quantized = [name for name, entry in entries.items() if entry.type == NUMBERS[dtype]]
    assert len(quantized) >= 3 * 6
    for key in quantized:
        array = parameters[key].T if key.endswith(("_w1", "_w2")) else parameters[key]
        if name.startswith("rwkv5") and key.endswith(".att.value.weight"):
            array = array / np.float32(8)
        assert entries[key].data == encode_blocks(dtype, array.reshape(-1, 32), "").tobytes(), key


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_reads_back(tmp_path: Path, name: str) -> None:
    parameters = parameters_of(CONFIGS[name])
    found = read_all(open_checkpoint(exported(tmp_path, parameters)))
    per_head = name == "rwkv5.1"  # read as 5.2
    for key, (_, array) in found.items():
        if key.endswith(".time_decay") and name != "rwkv6":
            expected = np.repeat(parameters[key][:, None], 64, axis=1) if per_head else parameters[key]
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-4)
        elif key.endswith(".time_faaaa") and per_head:
            np.testing.assert_array_equal(array, np.repeat(parameters[key][:, None], 64, axis=1))
        else:
            assert array.tobytes() == parameters[key].tobytes(), key
    assert set(parameters) - set(found) <= {f"blocks.0.att.v{n}" for n in "012"}


@pytest.mark.parametrize(("stored", "expected"), [("bf16", "fp32"), ("f16", "fp16"), ("f64", "fp32"), ("q8", "fp16")])
def test_the_type_of_the_source_is_kept_where_the_format_has_it(tmp_path: Path, stored: str, expected: str) -> None:
    parameters = {
        name: to_storage(array, "f32", stored if stored != "q8" else "f32")
        for name, array in parameters_of(CONFIGS["rwkv4"]).items()
    }
    source = write_safetensors(tmp_path / "model.safetensors", parameters)
    if stored == "q8":
        convert(source, tmp_path / "model.h5", dtype="q8")
        source = tmp_path / "model.h5"
    export(source, tmp_path / "model.bin")
    with open_checkpoint(tmp_path / "model.bin") as back:
        assert back.metadata["data_type"] == expected
        assert back.info("blocks.0.att.key.weight").dtype == ("f16" if expected == "fp16" else "f32")
        assert back.info("blocks.0.ln1.weight").dtype == "f32"


def test_rows_that_are_not_whole_blocks_are_not_quantized(tmp_path: Path) -> None:
    config = Config(d_model=48, num_layers=1, vocab_size=20, d_ffn=64)
    _, entries = parse(exported(tmp_path, parameters_of(config), "q8_0"))
    assert entries["blocks.0.ffn.value.weight"].type == NUMBERS["q8_0"]
    assert entries["blocks.0.ffn.key.weight"].type == NUMBERS["f16"]
    assert entries["blocks.0.att.output.weight"].type == NUMBERS["f16"]


def test_numbers_that_blocks_cannot_hold_leave_no_file(tmp_path: Path) -> None:
    parameters = parameters_of(CONFIGS["rwkv4"])
    parameters["blocks.1.ffn.key.weight"][3, 5] = np.nan
    with pytest.raises(
        NumericalError, match=r"blocks\.1\.ffn\.key\.weight: expected finite weights to quantize to q4_1"
    ):
        exported(tmp_path, parameters, "q4_1")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Matrices of 32 MB, written and read with less in memory at once; what model files transpose takes strips."""
    config = replace(CONFIGS["rwkv4"], d_model=64, d_att=64, d_ffn=131_072, num_layers=1)
    source = write_safetensors(tmp_path / "s", parameters_of(config))
    export(write_safetensors(tmp_path / "warm", parameters_of(CONFIGS["rwkv4"])), tmp_path / "warm.bin")  # imports
    for dtype in (None, "f16", "q8_0", "q4_0"):
        tracemalloc.start()
        export(source, tmp_path / "t.bin", dtype=dtype, overwrite=True)
        _, exporting = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        convert(tmp_path / "t.bin", tmp_path / "t.h5", overwrite=True)
        _, converting = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert exporting < 12e6
        assert converting < 25e6


def test_an_initial_state_is_refused(tmp_path: Path) -> None:
    parameters = parameters_of(CONFIGS["rwkv7"])
    parameters |= {f"blocks.{i}.att.time_state": np.ones((2, 64, 64), np.float32) for i in range(3)}
    message = r"layout rwkv\.cpp: expected a model without an initial state, got one with time_state"
    with pytest.raises(UnsupportedError, match=message):
        exported(tmp_path, parameters)


def test_an_attention_of_another_width_is_refused(tmp_path: Path) -> None:
    config = Config(d_model=64, num_layers=1, vocab_size=20, d_att=96)
    with pytest.raises(ConfigError, match=r"rwkv\.cpp \.bin: expected an attention as wide as the model, 64, got 96"):
        exported(tmp_path, parameters_of(config))


def test_every_type_is_one_that_is_read() -> None:
    for kind, (size, nbytes) in SIZES.items():
        name = next(name for name, number in NUMBERS.items() if number == kind)
        if name in BLOCK_TYPES:
            assert (size, nbytes) == (BLOCK_TYPES[name].size, BLOCK_TYPES[name].layout.itemsize)
