"""Safetensors: valid files in whole, in parts and as views, and an error for each kind of damage."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bits import flips, sampled, with_flip
from formats.foreign import (
    SAFETENSORS_TYPES,
    open_files,
    rwkv4_parameters,
    safetensors_bytes,
    safetensors_file,
    safetensors_header,
)
from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError, KernelError, RWKVError, StorageError, UnsupportedError
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def mixed() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {name.lower(): rng.integers(0, 100, (3, 5)).astype(dtype) for name, dtype in SAFETENSORS_TYPES.items()} | {
        "scalar": np.array(2.5, "<f4")
    }


def test_every_type_reads_as_written(model: Path) -> None:
    arrays = mixed()
    model.write_bytes(safetensors_bytes(arrays, {"format": "pt", "é": "\n"}))
    with open_safetensors(model) as source:
        assert isinstance(source, ParameterSource)
        assert source.format == "safetensors"
        assert source.path == model
        assert source.metadata == {"format": "pt", "é": "\n"}
        assert source.names() == tuple(arrays)
        source.check()
        for name, array in arrays.items():
            info = source.info(name)
            assert info.shape == array.shape
            assert (info.source_name, info.source_dtype, info.source_nbytes) == (name, info.dtype, array.nbytes)
            whole = np.empty(info.size, array.dtype)
            source.read_into(name, whole)
            np.testing.assert_array_equal(whole.reshape(array.shape), array)
        part = np.empty(4, "<f4")
        source.read_into("f32", part, 7)
        np.testing.assert_array_equal(part, arrays["f32"].reshape(-1)[7:11])
        assert source.info("bf16") == TensorInfo("bf16", (3, 5), "bf16", "bf16", "bf16", 30)


def test_views_need_alignment(model: Path) -> None:
    odd = {"a": np.zeros(1, "<f2"), "b": np.arange(3, dtype="<f4"), "c": np.arange(3, dtype="<f2")}
    model.write_bytes(safetensors_bytes(odd))
    with open_safetensors(model) as source:
        c = source.view("c")
        assert source.view("b") is None
    assert c is not None
    assert not c.flags.writeable
    np.testing.assert_array_equal(c, odd["c"])


def test_agrees_with_the_library(model: Path) -> None:
    parameters = rwkv4_parameters()
    safetensors.numpy.save_file(parameters, model, {"format": "pt"})
    with open_safetensors(model) as source:
        assert source.metadata == {"format": "pt"}
        assert set(source.names()) == set(parameters)
        for name, array in parameters.items():
            view = source.view(name)
            assert view is not None
            np.testing.assert_array_equal(view, array)
    ours = model.with_name("ours")
    ours.write_bytes(safetensors_bytes(parameters))
    theirs = safetensors.numpy.load_file(ours)
    assert all(np.array_equal(theirs[name], array) for name, array in parameters.items())


def test_order_in_the_header_is_free(model: Path) -> None:
    arrays = {"a": np.arange(2, dtype="<f4"), "b": np.arange(3, dtype="<f4")}
    header = safetensors_header(arrays)
    data = b"".join(array.tobytes() for array in arrays.values())
    model.write_bytes(safetensors_file({"b": header["b"], "a": header["a"]}, data))
    with open_safetensors(model) as source:
        assert source.names() == ("b", "a")
        buffer = np.empty(2, "<f4")
        source.read_into("a", buffer)
        np.testing.assert_array_equal(buffer, arrays["a"])


def test_no_tensors_at_all(model: Path) -> None:
    model.write_bytes(safetensors_file("{}", b""))
    with open_safetensors(model) as source:
        assert source.names() == ()
        assert source.metadata == {}


def entry(**changes: object) -> dict[str, object]:
    return {"a": {**F32, **changes}}


TWO = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
DAMAGED: list[tuple[object, bytes, str]] = [
    (b" {}", b"", r"expected a header that begins with '\{', got b' \{\}'"),
    (b"", b"", r"expected a header that begins with '\{', got b''"),
    (b"[]", b"", r"expected a header that begins with"),
    (b"{", b"", r"header: expected a plain JSON object"),
    (b'{"a": "\xff"}', b"", r"got bytes that are not valid UTF-8"),
    ('{"a":' * 4 + "1" + "}" * 4, b"", r"more than 3 levels of nesting"),
    ('{"a":' * 100_000, b"", r"more than 3 levels of nesting"),
    (f'{{"a": {json.dumps(F32)}, "a": {json.dumps(F32)}}}', bytes(8), r"the key 'a' twice"),
    ('{"a": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}', bytes(8), "'dtype' twice"),
    ({"__metadata__": ["x"]}, b"", r"__metadata__: expected texts by name"),
    ({"__metadata__": {"x": 1}}, b"", r"__metadata__: expected texts by name"),
    ({"a": 1}, b"", r"a: expected dtype, shape and data_offsets"),
    ({"a": {"dtype": "F32", "shape": [2]}}, b"", r"a: expected dtype, shape and data_offsets"),
    (entry(extra=1), bytes(8), r"a: expected dtype, shape and data_offsets"),
    (entry(shape=2), bytes(8), r"a: expected a list of dimensions"),
    (entry(shape="2"), bytes(8), r"a: expected a list of dimensions"),
    (entry(shape=[True, 2]), bytes(8), r"a: expected dimensions from 0 to 2\*\*48, got True"),
    (entry(shape=[2.0]), bytes(8), r"a: expected dimensions from 0 to 2\*\*48, got float"),
    (entry(shape=[None]), bytes(8), r"a: expected dimensions from 0 to 2\*\*48, got NoneType"),
    (entry(shape=[-2]), bytes(8), r"a: expected dimensions from 0 to 2\*\*48, got -2"),
    (entry(shape=[0]), bytes(8), r"a: expected 0 bytes for F32 of shape \(0,\), got 8"),
    (entry(dtype="F4", shape=[3], data_offsets=[0, 1]), bytes(1), r"a: expected 1 bytes for F4 of shape \(3,\), got 1"),
    (entry(shape=[1 << 63]), bytes(8), r"a: expected dimensions from 0 to 2\*\*48"),
    (entry(shape=[1 << 32, 1 << 32]), bytes(8), r"a: expected at most 2\*\*48 elements"),
    (entry(shape=[1] * 9), bytes(8), r"a: expected at most 8 dimensions, got 9"),
    (entry(shape=[3]), bytes(8), r"a: expected 12 bytes for F32 of shape \(3,\), got 8"),
    (entry(dtype="F16"), bytes(8), r"a: expected 4 bytes for F16 of shape \(2,\), got 8"),
    (entry(data_offsets=[8, 0]), bytes(8), r"a: expected data_offsets \[begin, end\], got \[8, 0\]"),
    (entry(data_offsets=[-8, 0]), bytes(8), r"a: expected data_offsets"),
    (entry(data_offsets=[False, 8]), bytes(8), r"a: expected data_offsets"),
    (entry(data_offsets=[0.0, 8]), bytes(8), r"a: expected data_offsets"),
    (entry(data_offsets=[0]), bytes(8), r"a: expected data_offsets"),
    (entry(data_offsets=[0, 8, 8]), bytes(8), r"a: expected data_offsets"),
    (entry(data_offsets={}), bytes(8), r"a: expected data_offsets"),
    (
        entry(data_offsets=[(1 << 64) - 8, 1 << 64]),
        bytes(8),
        r"a: expected its data at byte 0, got 18446744073709551608",
    ),
    (
        entry(data_offsets=[0, 1 << 50], shape=[1 << 48]),
        bytes(8),
        r"expected \d+ bytes( \(1.13 PB\))? as its header says",
    ),
    (entry(data_offsets=[4, 12]), bytes(12), r"a: expected its data at byte 0, got 4: a hole"),
    (
        {"a": F32, "b": {**TWO, "data_offsets": [4, 12]}},
        bytes(16),
        r"b: expected its data at byte 8, got 4: an overlap",
    ),
    ({"a": F32, "b": F32}, bytes(8), r"b: expected its data at byte 8, got 0: an overlap"),
    ({"a": F32}, bytes(7), r"expected \d+ bytes as its header says, got \d+ bytes; the file is cut short"),
    (
        {"a": F32},
        bytes(9),
        r"expected (\d+) bytes as its header says, got \d+ bytes: 1 bytes follow .*truncate -s \1\)",
    ),
    ({"a": F32, "b": TWO}, bytes(8), r"expected \d+ bytes( \(1.13 PB\))? as its header says"),
    ({"": F32}, bytes(8), r"got '', which is empty"),
    ({"../x": F32}, bytes(8), r"got '../x', which looks like a path"),
    ({"/x": F32}, bytes(8), r"got '/x', which looks like a path"),
    ({"a\0": F32}, bytes(8), r"which has characters that cannot be printed"),
    ({"\ud800": F32}, bytes(8), r"which has characters that cannot be printed"),
    ({"x" * (1 << 20): F32}, bytes(8), r"which is longer than 512 bytes"),
]


@pytest.mark.parametrize(("header", "data", "message"), DAMAGED, ids=[message[:40] for _, _, message in DAMAGED])
def test_refusals(model: Path, header: object, data: bytes, message: str) -> None:
    model.write_bytes(safetensors_file(header, data))
    with pytest.raises(FormatError, match=message) as error:
        open_safetensors(model)
    assert str(error.value).startswith(f"{model}: ")
    assert len(str(error.value)) < len(str(model)) + 400


SPANS = {
    "one span twice": {"a": [0, 8], "b": [0, 8]},
    "one span twice, and the next": {"a": [0, 8], "b": [0, 8], "c": [8, 16]},
    "one within another": {"a": [0, 16], "b": [0, 8]},
    "one at the end of another": {"a": [0, 16], "b": [8, 16]},
    "empty ones at one place": {"a": [0, 0], "b": [0, 0], "c": [0, 8]},
    "an empty one between others": {"a": [0, 8], "b": [8, 8], "c": [8, 16]},
    "empty ones at the end": {"a": [0, 8], "b": [8, 8], "c": [8, 8]},
    "an empty one within another": {"a": [0, 8], "b": [4, 4]},
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_spans_that_are_shared(model: Path, spans: dict[str, list[int]], reverse: bool) -> None:
    """Tensors share no bytes, as in the reference library: tied weights are one tensor, or two copies."""
    names = sorted(spans, reverse=reverse)
    header = {n: {"dtype": "F32", "shape": [(spans[n][1] - spans[n][0]) // 4], "data_offsets": spans[n]} for n in names}
    model.write_bytes(safetensors_file(header, bytes(max(end for _, end in spans.values()))))
    try:
        expected = {name: array.shape for name, array in safetensors.numpy.load_file(model).items()}
    except safetensors.SafetensorError:
        with pytest.raises(FormatError, match="expected its data at byte .*: an overlap; the file is damaged"):
            open_safetensors(model)
        return
    with open_safetensors(model) as source:
        found = {name: source.info(name).shape for name in source.names()}
        assert {**found, **dict.fromkeys(source.left_out, (0,))} == expected


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes", "what"),
    [
        ("I64", [1], 8, "I64, shape (1,)"),
        ("BOOL", [2, 3], 6, "BOOL, shape (2, 3)"),
        ("F8_E4M3", [5], 5, "F8_E4M3, shape (5,)"),
        ("F4", [6], 3, "F4, shape (6,)"),
        ("F32", [0], 0, "empty F32, shape (0,)"),
        ("F16", [4, 0], 0, "empty F16, shape (4, 0)"),
    ],
)
def test_tensors_that_no_model_can_have(model: Path, dtype: str, shape: list[int], nbytes: int, what: str) -> None:
    header = {
        "a": F32,
        "b": {"dtype": dtype, "shape": shape, "data_offsets": [8, 8 + nbytes]},
        "c": {**F32, "data_offsets": [8 + nbytes, 16 + nbytes]},
    }
    model.write_bytes(safetensors_file(header, np.arange(2, dtype="<f4").tobytes() + bytes(nbytes) + b"\0\0\x80?" * 2))
    with open_safetensors(model) as source:
        assert source.names() == ("a", "c")
        assert source.left_out == {"b": what}
        buffer = np.empty(2, "<f4")
        source.read_into("c", buffer)
    np.testing.assert_array_equal(buffer, 1)


@pytest.mark.parametrize("dtype", ["f32", "", "X" * 1000])
def test_types_that_no_checkpoint_has(model: Path, dtype: str) -> None:
    model.write_bytes(safetensors_file(entry(dtype=dtype), bytes(8)))
    with pytest.raises(
        UnsupportedError, match=rf"a: expected one of the types F64, F32, F16, BF16, got '{dtype[:20]}'"
    ):
        open_safetensors(model)


@pytest.mark.parametrize("dtype", [None, 1, ["F32"], {"F32": 1}])
def test_types_that_are_no_text(model: Path, dtype: object) -> None:
    model.write_bytes(safetensors_file(entry(dtype=dtype), bytes(8)))
    with pytest.raises(UnsupportedError, match=f"got {type(dtype).__name__}; convert the checkpoint"):
        open_safetensors(model)


@pytest.mark.parametrize("length", [3, 1 << 20, 1 << 50, 1 << 63, (1 << 64) - 1])
def test_header_lengths_that_lie(model: Path, length: int) -> None:
    model.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(FormatError, match=f"expected a header of at most 67108864 bytes .* got one of {length};"):
        open_safetensors(model)


def test_a_header_beyond_the_cap_is_not_read(model: Path) -> None:
    with model.open("wb") as file:
        file.write(struct.pack("<Q", 65 << 20) + b"{")
        file.truncate(70 << 20)
    with pytest.raises(FormatError, match="expected a header of at most 67108864 bytes"):
        open_safetensors(model)


def test_cut_at_every_length(model: Path) -> None:
    whole = safetensors_bytes({"a": np.arange(3, dtype="<f4"), "b": np.arange(2, dtype="<f2")}, {"x": "y"})
    for length in range(len(whole)):
        model.write_bytes(whole[:length])
        message = "is empty" if length == 0 else "bytes of a header's length" if length < 8 else "as its header says"
        if 8 <= length < 8 + int.from_bytes(whole[:8], "little"):
            message = "expected a header of at most"
        with pytest.raises(FormatError, match=message):
            open_safetensors(model)


@sampled
def test_every_bit_of_the_header(model: Path, step: int) -> None:
    arrays = {"a": np.arange(3, dtype="<f4"), "b": np.arange(2, dtype="<f2")}
    whole = safetensors_bytes(arrays, {"x": "y"})
    opened = 0
    for position, mask in flips(len(whole) - 16, step):
        model.write_bytes(with_flip(whole, position, mask))
        try:
            source = open_safetensors(model)
        except RWKVError:
            continue
        # What is let through is what the reference library reads from the same bytes.
        opened += 1
        with source, safetensors.safe_open(model, "numpy") as reference:
            assert set(source.names()) == set(reference.keys())
            for name in source.names():
                info = source.info(name)
                assert info.shape == tuple(reference.get_slice(name).get_shape())
                buffer = np.empty(info.size, STORAGE_TYPES[info.dtype].array_dtype)
                source.read_into(name, buffer)
                if info.dtype != "bf16":
                    assert buffer.tobytes() == reference.get_tensor(name).tobytes()
    assert opened


def test_random_bits_of_the_data_change_that_tensor_only(model: Path) -> None:
    arrays = {"a": np.arange(3, dtype="<f4"), "b": np.arange(2, dtype="<f2")}
    damaged = bytearray(safetensors_bytes(arrays))
    damaged[-1] ^= 0x10
    model.write_bytes(damaged)
    with open_safetensors(model) as source:
        a, b = source.view("a"), source.view("b")
    np.testing.assert_array_equal(a, arrays["a"])
    assert not np.array_equal(b, arrays["b"])


def test_a_request_must_fit_the_tensor(model: Path) -> None:
    model.write_bytes(safetensors_bytes({"a": np.arange(3, dtype="<f4"), "b": np.zeros(9, "<f4")}))
    with open_safetensors(model) as source:
        with pytest.raises(KernelError, match="a: expected elements within its 3, got 2 from 2"):
            source.read_into("a", np.empty(2, "<f4"), 2)
        with pytest.raises(KernelError, match="a: expected a writable contiguous 1-D buffer of float32"):
            source.read_into("a", np.empty(3, "<f8"))
        with pytest.raises(KeyError):
            source.info("c")


def test_truncated_while_open(model: Path) -> None:
    model.write_bytes(safetensors_bytes({"a": np.arange(3, dtype="<f4")}))
    with open_safetensors(model) as source:
        os.truncate(model, 20)
        with pytest.raises(FormatError, match="the file was truncated while it was open"):
            source.check()
        with pytest.raises(FormatError, match="the file was truncated while it was open"):
            source.read_into("a", np.empty(3, "<f4"))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("missing", "fifo", "loop", "."):
        with pytest.raises(StorageError, match=name):
            open_safetensors(tmp_path / name)


def test_refused_files_are_closed(model: Path) -> None:
    model.write_bytes(safetensors_file({"a": 1}, b""))
    for _ in range(3):
        with pytest.raises(FormatError, match="expected dtype"):
            open_safetensors(model)
    assert not open_files(model.parent)


def test_many_tensors_take_linear_time(model: Path) -> None:
    header = {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(20_000)}
    model.write_bytes(safetensors_file(header, bytes(80_000)))
    with open_safetensors(model) as source:
        assert len(source.names()) == 20_000


def test_more_tensors_than_any_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.formats.safetensors.MAX_TENSORS", 1)
    model.write_bytes(safetensors_file({"a": F32, "b": TWO}, bytes(16)))
    with pytest.raises(FormatError, match="expected at most 1 tensors, got more"):
        open_safetensors(model)
