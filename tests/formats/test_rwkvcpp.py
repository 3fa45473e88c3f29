"""rwkv.cpp's files: published and hand-written ones, partial reads, and an error for each kind of damage."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from bits import flips, sampled, with_flip
from formats.foreign import (
    RWKVCPP_TYPES,
    Array,
    decode_block,
    encode,
    rwkv4_parameters,
    rwkvcpp_bytes,
    rwkvcpp_header,
    rwkvcpp_tensor,
)
from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError, KernelError, RWKVError, StorageError, UnsupportedError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.canonical import canonical
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml import source as ggml_source
from rwkv_cy.formats.rwkvcpp import open_rwkvcpp
from rwkv_cy.tensors.tensor import ParameterSource

QUANTIZED = [kind for kind in RWKVCPP_TYPES if kind.startswith("q")]
#: Half a step of the type, relative to the largest number of a block.
ERROR = {"fp32": 0.0, "fp16": 5e-4, "q4_0": 0.075, "q4_1": 0.07, "q5_0": 0.036, "q5_1": 0.034, "q8_0": 5e-3}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def read(source: ParameterSource, name: str) -> Array:
    info = source.info(name)
    buffer = np.empty(info.size, STORAGE_TYPES[info.dtype].array_dtype)
    source.read_into(name, buffer)
    return buffer.reshape(info.shape)


@pytest.mark.parametrize("kind", RWKVCPP_TYPES)
def test_rwkv4_comes_back(model: Path, kind: str) -> None:
    parameters = rwkv4_parameters()
    model.write_bytes(rwkvcpp_bytes(parameters, kind))
    with canonical(open_rwkvcpp(model)) as source:
        assert isinstance(source, ParameterSource)
        assert source.format == "rwkvcpp"
        assert source.metadata == {
            "version": "101",
            "n_vocab": "6",
            "n_embed": "32",
            "n_layer": "2",
            "data_type": kind,
        }
        assert source.names() == tuple(parameters)
        for name, array in parameters.items():
            back = read(source, name)
            assert back.shape == array.shape
            bound = ERROR[kind] if array.ndim == 2 else 2e-7 if name.endswith(".time_decay") else 0.0
            assert np.abs(back - array).max() <= bound * np.abs(array).max(), name


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_tensors_read_from_anywhere(model: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(3).standard_normal(6 * 32)
    raw = encode(kind, numbers)
    size = len(raw) // 6
    expected = [x for i in range(6) for x in decode_block(kind, raw[i * size : (i + 1) * size])]
    model.write_bytes(rwkvcpp_header() + rwkvcpp_tensor("a", (3, 64), raw, RWKVCPP_TYPES[kind]))
    monkeypatch.setattr(ggml_source, "_DECODED_AT_ONCE", 48)
    with open_rwkvcpp(model) as source:
        info = source.info("a")
        assert (info.dtype, info.source_dtype, info.source_nbytes, info.shape) == ("f32", kind, len(raw), (3, 64))
        assert source.view("a") is None
        for start in (0, 1, 31, 32, 33, 63, 64, 100, 191, 192):
            for count in (0, 1, 2, 31, 32, 33, 64, 192):
                if start + count <= 192:
                    buffer = np.full(count, np.nan, "<f4")
                    source.read_into("a", buffer, start)
                    np.testing.assert_allclose(buffer, expected[start : start + count], rtol=1e-6, atol=1e-6)


def test_plain_tensors_read_from_anywhere_and_map_where_aligned(model: Path) -> None:
    numbers = np.arange(10, dtype="<f4")
    tensors = rwkvcpp_tensor("abcd", (2, 5), numbers.tobytes()) + rwkvcpp_tensor("x", (10,), numbers.tobytes())
    model.write_bytes(rwkvcpp_header() + tensors)
    with open_rwkvcpp(model) as source:
        view = source.view("abcd")
        assert source.view("x") is None
        buffer = np.empty(3, "<f4")
        source.read_into("x", buffer, 4)
    assert view is not None
    assert view.shape == (2, 5)
    np.testing.assert_array_equal(view.reshape(-1), numbers)
    np.testing.assert_array_equal(buffer, numbers[4:7])


def test_time_decay_is_undone_in_parts_and_never_viewed(model: Path) -> None:
    parameters = rwkv4_parameters()
    model.write_bytes(rwkvcpp_bytes(parameters))
    name = "blocks.1.att.time_decay"
    with canonical(open_rwkvcpp(model)) as source:
        buffer = np.empty(5, "<f4")
        source.read_into(name, buffer, 3)
        assert source.view(name) is None
    np.testing.assert_allclose(buffer, parameters[name][3:8], rtol=0, atol=2e-7)


def decay(values: list[float]) -> bytes:
    first = rwkvcpp_tensor("blocks.0.att.time_first", (2,), bytes(8))
    return (
        rwkvcpp_header(n_layer=1) + first + rwkvcpp_tensor("blocks.0.att.time_decay", (2,), struct.pack("<2f", *values))
    )


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, 1.0, float("inf")])
def test_a_time_decay_that_is_no_exponential(model: Path, value: float) -> None:
    model.write_bytes(decay([-1.0, value]))
    with canonical(open_rwkvcpp(model)) as source:
        with pytest.raises(
            FormatError, match=r"blocks.0.att.time_decay: expected -exp\(time_decay\), which is below 0"
        ) as error:
            read(source, "blocks.0.att.time_decay")
        assert str(error.value).startswith(f"{model}: ")
        first = np.empty(1, "<f4")
        source.read_into("blocks.0.att.time_decay", first)
        assert first[0] == 0


def test_time_decay_out_of_range_stays_visible(model: Path) -> None:
    model.write_bytes(decay([float("nan"), float("-inf")]))
    with canonical(open_rwkvcpp(model)) as source:
        nan, infinite = read(source, "blocks.0.att.time_decay")
    assert np.isnan(nan)
    assert infinite == np.inf


def test_a_file_of_no_version_lists_its_tensors_as_they_are(model: Path) -> None:
    numbers = np.full(2, 0.5, "<f4")
    model.write_bytes(rwkvcpp_header(n_layer=1) + rwkvcpp_tensor("blocks.0.other.decay", (2, 1), numbers.tobytes()))
    with canonical(open_rwkvcpp(model)) as source:
        assert source.info("blocks.0.other.decay").shape == (2, 1)
        np.testing.assert_array_equal(read(source, "blocks.0.other.decay").reshape(-1), numbers)


@pytest.mark.parametrize(("kind", "number"), [("q2_k", 11), ("q3_k", 12), ("q4_k", 13), ("q5_k", 14), ("q6_k", 15)])
def test_blocks_of_256(model: Path, kind: str, number: int) -> None:
    block = BLOCK_TYPES[kind]
    raw = np.random.default_rng(2).integers(0, 256, (6, block.layout.itemsize), np.uint8)
    model.write_bytes(rwkvcpp_header(data_type=number) + rwkvcpp_tensor("a", (3, 512), raw.tobytes(), number))
    with open_rwkvcpp(model) as source, np.errstate(all="ignore"):
        assert source.metadata["data_type"] == source.info("a").source_dtype == kind
        expected = block.decode(raw.reshape(-1).view(block.layout))
        np.testing.assert_array_equal(read(source, "a"), expected.reshape(3, 512))


def test_scales_that_are_no_numbers_warn_nobody(model: Path) -> None:
    block = struct.pack("<e", float("inf")) + bytes(16)
    model.write_bytes(rwkvcpp_header() + rwkvcpp_tensor("a", (32,), block, RWKVCPP_TYPES["q4_0"]))
    with open_rwkvcpp(model) as source:
        assert np.isinf(read(source, "a")).all()


TENSOR = rwkvcpp_tensor("a", (2,), bytes(8))
HEADER_ERRORS = [
    (bytes(24), r"expected rwkv.cpp's magic b'fmgg', got b'\\x00\\x00\\x00\\x00'"),
    (rwkvcpp_header()[:23], r"expected the 24 bytes of rwkv.cpp's header, got 23"),
    (rwkvcpp_header(version=99), r"expected version 100 or 101 of rwkv.cpp's format, got 99"),
    (rwkvcpp_header(version=102), r"expected version 100 or 101 of rwkv.cpp's format, got 102"),
    (rwkvcpp_header(data_type=17), r"expected a type from 0 to 16, got 17"),
    (rwkvcpp_header(data_type=4), r"expected a type of weights, got q4_1_o, which rwkv.cpp has withdrawn; quantize"),
    (rwkvcpp_header(data_type=2, version=100), r"expected fp32 or fp16 in version 100 of rwkv.cpp's format, got q4_0"),
]


@pytest.mark.parametrize(("header", "message"), HEADER_ERRORS, ids=[message[:60] for _, message in HEADER_ERRORS])
def test_headers_that_are_refused(model: Path, header: bytes, message: str) -> None:
    model.write_bytes(header + (TENSOR if len(header) == 24 else b""))
    with pytest.raises(FormatError, match=message) as error:
        open_rwkvcpp(model)
    assert str(error.value).startswith(f"{model}: ")


TENSOR_ERRORS = [
    (struct.pack("<3I", 0, 1, 0) + b"a", r"expected a tensor of 1 to 3 dimensions at byte 36, got 0"),
    (struct.pack("<3I", 4, 1, 0) + bytes(16) + b"a", r"expected a tensor of 1 to 3 dimensions at byte 36, got 4"),
    (struct.pack("<3I", 1 << 31, 1, 0), r"expected a tensor of 1 to 3 dimensions at byte 36, got 2147483648"),
    (rwkvcpp_tensor("a", (0,), b""), r"a: expected dimensions from 1 to 2\*\*48, got 0"),
    (rwkvcpp_tensor("a", (2, 0), b""), r"a: expected dimensions from 1 to 2\*\*48, got 0"),
    (rwkvcpp_tensor("a", (0xFFFFFFFF,), bytes(8)), r"a: expected its bytes within the 49 of the file"),
    (rwkvcpp_tensor("a", (0xFFFFFFFF,) * 2, bytes(8)), r"a: expected at most 2\*\*48 elements"),
    (rwkvcpp_tensor("a", (1 << 31, 1 << 31, 4), bytes(8)), r"a: expected at most 2\*\*48 elements"),
    (rwkvcpp_tensor("a", (2,), bytes(8), 17), r"a: expected a type from 0 to 16, got 17"),
    (rwkvcpp_tensor("a", (2,), bytes(8), 0xFFFFFFFF), r"a: expected a type from 0 to 16, got 4294967295"),
    (
        rwkvcpp_tensor("a", (32,), bytes(20), 4),
        r"a: expected a type of weights, got q4_1_o, which",
    ),
    (
        rwkvcpp_tensor("a", (32,), bytes(20), 5),
        r"a: expected a type of weights, got q4_2, which",
    ),
    (
        rwkvcpp_tensor("a", (32,), bytes(24), 6),
        r"a: expected a type of weights, got q4_3, which",
    ),
    (
        rwkvcpp_tensor("a", (32,), bytes(36), 10),
        r"a: expected a type of weights, got q8_1, in which",
    ),
    (
        rwkvcpp_tensor("a", (256,), bytes(292), 16),
        r"a: expected a type of weights, got q8_k, in which",
    ),
    (rwkvcpp_tensor("a", (3, 128), bytes(210), 15), r"a: expected rows of whole blocks of 256 for q6_k, got shape"),
    (rwkvcpp_tensor("a", (32, 16), bytes(288), 2), r"a: expected rows of whole blocks of 32 for q4_0, got shape"),
    (rwkvcpp_tensor("", (2,), bytes(8)), r"got '', which is empty"),
    (rwkvcpp_tensor("../x", (2,), bytes(8)), r"got '../x', which looks like a path"),
    (rwkvcpp_tensor("/x", (2,), bytes(8)), r"got '/x', which looks like a path"),
    (rwkvcpp_tensor("a\0", (2,), bytes(8)), r"which has characters that cannot be printed"),
    (rwkvcpp_tensor(b"\xff", (2,), bytes(8)), r"expected a tensor's name in UTF-8, got b'\\xff'"),
    (rwkvcpp_tensor("x" * (1 << 20), (2,), bytes(8)), r"which is longer than 512 bytes"),
    (struct.pack("<3I", 1, 1 << 31, 0) + bytes(4), r"expected bytes within the 40 of the file"),
    (TENSOR + TENSOR, r"a: expected one tensor of that name, got two"),
    (TENSOR[:-1], r"a: expected its bytes within the 48 of the file"),
    (TENSOR + b"\0", r"expected bytes within the 50 of the file, got 12 at 49"),
    (TENSOR + bytes(12), r"expected a tensor of 1 to 3 dimensions at byte 61, got 0"),
]


@pytest.mark.parametrize(("tensor", "message"), TENSOR_ERRORS, ids=[message[:60] for _, message in TENSOR_ERRORS])
def test_tensors_that_are_refused(model: Path, tensor: bytes, message: str) -> None:
    model.write_bytes(rwkvcpp_header() + tensor)
    with pytest.raises(FormatError, match=message) as error:
        open_rwkvcpp(model)
    assert str(error.value).startswith(f"{model}: ")
    assert len(str(error.value)) < len(str(model)) + 400


def test_a_header_and_its_name_are_one_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["emb.weight", *(f"blocks.0.{'x' * length}" for length in (1, 80, 503))]
    tensors = [rwkvcpp_tensor(name, (6, 32), bytes(768)) for name in names]
    model.write_bytes(rwkvcpp_header(n_layer=1) + b"".join(tensors))
    reads: list[int] = []
    read_at = FileBytes.read_at

    def counted(self: FileBytes, offset: int, size: int) -> bytes:
        reads.append(offset)
        return read_at(self, offset, size)

    monkeypatch.setattr(FileBytes, "read_at", counted)
    with open_rwkvcpp(model) as source:
        assert list(source.names()) == names
    assert len(reads) == 1 + len(names) + 1  # the file's header; of the last, the name is read alone


@pytest.mark.parametrize("what", ["n_vocab", "n_embed", "n_layer"])
def test_dimensions_that_contradict_the_tensors(model: Path, what: str) -> None:
    good = rwkvcpp_bytes(rwkv4_parameters())
    model.write_bytes(rwkvcpp_header(**{what: 1 << 31}) + good[24:])
    with pytest.raises(
        FormatError, match=r"expected vocabulary, width and layers \(.*2147483648.*\) as the header says"
    ):
        open_rwkvcpp(model)


def small() -> bytes:
    first = rwkvcpp_tensor("emb.weight", (1, 32), encode("q5_1", np.arange(32.0)), RWKVCPP_TYPES["q5_1"])
    second = rwkvcpp_tensor("blocks.0.ln1.weight", (3,), struct.pack("<3f", 1, 2, 3))
    return rwkvcpp_header(1, 32, 1, RWKVCPP_TYPES["q5_1"]) + first + second


def test_cut_at_every_length(model: Path) -> None:
    whole = small()
    second = len(whole) - len(rwkvcpp_tensor("blocks.0.ln1.weight", (3,), bytes(12)))
    for length in range(len(whole)):
        model.write_bytes(whole[:length])
        # Between two tensors only the number of layers tells that something is missing.
        message = "is empty" if length == 0 else "layers" if length in (24, second) else "expected"
        with pytest.raises(FormatError, match=message):
            open_rwkvcpp(model)


@sampled
def test_every_bit(model: Path, step: int) -> None:
    whole = small()
    opened = 0
    for position, mask in flips(len(whole), step):
        model.write_bytes(with_flip(whole, position, mask))
        try:
            with open_rwkvcpp(model) as source:
                assert [read(source, name).size for name in source.names()] == [32, 3]
                opened += 1
        except RWKVError:
            continue
    # Every bit of the numbers and most of the names, and no other.
    assert 8 * (24 + 12) < opened * step < 8 * (24 + 12 + len("emb.weight" + "blocks.0.ln1.weight") + 1)


def test_a_request_must_fit_the_tensor(model: Path) -> None:
    model.write_bytes(small())
    with open_rwkvcpp(model) as source:
        with pytest.raises(KernelError, match=r"emb\.weight: expected elements within its 32, got 2 from 31"):
            source.read_into("emb.weight", np.empty(2, "<f4"), 31)
        with pytest.raises(KernelError, match=r"emb\.weight: expected a writable contiguous 1-D buffer of float32"):
            source.read_into("emb.weight", np.empty(2, "<f2"))
        with pytest.raises(KeyError):
            source.info("head.weight")


def test_truncated_while_open(model: Path) -> None:
    model.write_bytes(small())
    with open_rwkvcpp(model) as source:
        os.truncate(model, 60)
        with pytest.raises(FormatError, match="the file was truncated while it was open"):
            read(source, "emb.weight")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", "."):
        with pytest.raises(StorageError, match=name):
            open_rwkvcpp(tmp_path / name)


def test_unsupported_is_told_from_damaged(model: Path) -> None:
    model.write_bytes(rwkvcpp_header(version=102))
    with pytest.raises(UnsupportedError, match="version"):
        open_rwkvcpp(model)


# The published fixtures. --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "version"), [("FP32", 100), ("FP16", 100), ("Q5_0", 101), ("Q5_1", 101)])
def test_published_files(shared: Path, kind: str, version: int) -> None:
    models = shared / "models"
    exact = canonical(open_rwkvcpp(models / "tiny-rwkv-4v0-660K-FP32.bin"))
    with exact, canonical(open_rwkvcpp(models / f"tiny-rwkv-4v0-660K-{kind}.bin")) as source:
        assert source.names() == exact.names()
        assert len(source.names()) == 78
        assert source.metadata["version"] == str(version)
        assert source.metadata["data_type"] == kind.lower()
        for name in source.names():
            info, numbers, truth = source.info(name), read(source, name), read(exact, name)
            assert info.shape == exact.info(name).shape
            if info.source_dtype in BLOCK_TYPES:
                rows = truth.reshape(-1, 32)
                span = np.abs(rows).max(axis=1) if kind == "Q5_0" else np.ptp(rows, axis=1)
                step = span / (16 if kind == "Q5_0" else 31)
                # Scales are float16: below 6e-8 they vanish, and above they carry 11 bits.
                bound = 1.01 * step + 1e-3 * np.abs(rows).max(axis=1) + 32 * 6e-8
                assert (np.abs(numbers.reshape(-1, 32) - rows).max(axis=1) <= bound).all(), name
            elif info.source_dtype == "f16":
                np.testing.assert_allclose(numbers, truth, rtol=5e-4, atol=6e-8)
            else:
                np.testing.assert_array_equal(numbers, truth)


def test_published_time_decay_is_raw_again(shared: Path) -> None:
    with canonical(open_rwkvcpp(shared / "models" / "tiny-rwkv-4v0-660K-FP32.bin")) as source:
        numbers = read(source, "blocks.0.att.time_decay")
    # It was trained from 0, which is -exp(0) = -1 in the file.
    assert 0 < np.abs(numbers).max() < 0.3


@pytest.mark.parametrize("kind", ["FP32", "FP16"])
def test_published_rwkv7(shared: Path, kind: str) -> None:
    path = shared / "models" / f"tiny-rwkv-7v0-834K-{kind}.bin"
    with open_rwkvcpp(path) as raw, canonical(open_rwkvcpp(path)) as source:
        assert source.metadata["version"] == "101"
        expected = {
            "emb.weight": (256, 64),
            "blocks.0.ln0.bias": (64,),
            "blocks.0.att.x_r": (1, 1, 64),
            "blocks.11.att.x_g": (1, 1, 64),
            "blocks.11.att.w0": (1, 1, 64),
            "blocks.11.att.w1": (64, 32),
            "blocks.11.att.v2": (32, 64),
            "blocks.0.att.r_k": (1, 64),
            "blocks.0.ffn.x_k": (1, 1, 64),
            "blocks.0.ffn.key.weight": (256, 64),
            "head.weight": (256, 64),
        }
        assert {name: source.info(name).shape for name in expected} == expected
        assert len(source.names()) == 12 * 33 + 6 - 3 == len(raw.names()) + 12 * 5
        for name in raw.names():
            theirs = read(raw, name)
            if name.endswith(".x_rwkvag"):
                for which, row in zip("rwkvag", theirs, strict=True):
                    np.testing.assert_array_equal(read(source, name.replace("rwkvag", which))[0], row)
            elif name[-2:] in {m + n for m in "wavg" for n in "12"}:
                np.testing.assert_array_equal(read(source, name), theirs.T)
            else:
                np.testing.assert_array_equal(read(source, name), theirs)


def test_published_toy_lists_its_tensors(shared: Path) -> None:
    """A trained model under names of its own is a plain dictionary of tensors."""
    with open_checkpoint(shared / "models" / "reverse-L2-rwkv7.pth") as source:
        assert len(source.names()) == 99
        assert source.info("e.weight").shape == (12, 32)
        assert source.info("rwkv2.w1").shape == (32, 8)
        assert np.isfinite(read(source, "o.weight")).all()
        assert not read(source, "rosa1.rosa_qkv.emb").any()
