"""GGUF containers: what good files hold, and the answer to each kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from formats.make_gguf import TENSOR_TYPES, Gguf, Tensor, string, value
from rwkv_cy.errors import FormatError, RWKVError, UnsupportedError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.formats.gguf import header
from rwkv_cy.formats.gguf.container import Container, read_container
from rwkv_cy.formats.gguf.header import Array

ONE = Tensor("a", (2,), bytes(8))


def read(path: Path, data: bytes) -> Container:
    path.write_bytes(data)
    with FileBytes(path) as file:
        return read_container(file)


def test_values_of_every_type(tmp_path: Path) -> None:
    numbers = {
        "uint8": 200,
        "int8": -3,
        "uint16": 60_000,
        "int16": -300,
        "uint32": 1 << 31,
        "int32": -70_000,
        "float32": 1e-5,
        "bool": True,
        "uint64": 1 << 63,
        "int64": -(1 << 40),
        "float64": 0.1,
        "string": "RWKV \N{GREEK SMALL LETTER PI}",
    }
    container = read(tmp_path / "a", Gguf([(f"key.{k}", value(k, v)) for k, v in numbers.items()]).to_bytes())
    assert container.values == {f"key.{kind}": number for kind, number in numbers.items()}
    assert container.tensors == {}


def test_arrays_are_passed_by(tmp_path: Path) -> None:
    values = [
        ("strings", value("string[]", ["a", "", "long" * 20])),
        ("numbers", value("uint16[]", [1, 2, 3])),
        ("none", value("string[]", [])),
        ("last", value("uint32", 7)),
    ]
    data = Gguf(values).to_bytes()
    container = read(tmp_path / "a", data)
    strings, numbers = container.values["strings"], container.values["numbers"]
    assert strings == Array(8, 3, data.index(string("a")), 3 * 8 + 81)
    assert numbers == Array(2, 3, data.index(struct.pack("<3H", 1, 2, 3)), 6)
    assert isinstance(container.values["none"], Array)
    assert container.values["none"].count == 0
    assert container.values["last"] == 7


def test_a_header_of_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "_FIRST_PIECE", 1)
    values = [("strings", value("string[]", [str(i) * (i % 7) for i in range(200)])), ("last", value("int8", 1))]
    container = read(tmp_path / "a", Gguf(values, [ONE]).to_bytes())
    assert list(container.values) == ["strings", "last"]
    assert list(container.tensors) == ["a"]


def test_a_long_text_stays_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "_MAX_TEXT", 10)
    container = read(
        tmp_path / "a", Gguf([("a", value("string", "x" * 11)), ("b", value("string", "y" * 10))]).to_bytes()
    )
    assert isinstance(container.values["a"], Array)
    assert (container.values["a"].count, container.values["a"].nbytes) == (1, 8 + 11)  # as the array of one text
    assert container.values["b"] == "y" * 10


def test_a_text_that_is_not_utf8_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    assert read(tmp_path / "a", Gguf([("a", value("string", b"x\xff"))]).to_bytes()).values["a"] == "x\ufffd"


@pytest.mark.parametrize("alignment", [1, 32, 64, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_tensors(tmp_path: Path, alignment: int, version: int) -> None:
    first, second = np.arange(6, dtype="<f4").reshape(2, 3), np.arange(5, dtype="<f2")
    values = [("general.alignment", value("uint32", alignment))]
    tensors = [
        Tensor.of("first", first),
        Tensor("q", (2, 32), bytes(68), TENSOR_TYPES["q8_0"]),
        Tensor.of("second", second),
    ]
    data = Gguf(values, tensors, version=struct.pack("<I", version), alignment=alignment).to_bytes()
    found = read(tmp_path / "a", data).tensors
    assert [(name, tensor.info.shape, tensor.info.source_dtype) for name, tensor in found.items()] == [
        ("first", (2, 3), "f32"),
        ("q", (2, 32), "q8_0"),
        ("second", (5,), "f16"),
    ]
    for name, array in (("first", first), ("second", second)):
        assert found[name].offset % alignment == 0
        assert data[found[name].offset : found[name].end] == array.tobytes()


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_sizes_of_every_type(tmp_path: Path, kind: str) -> None:
    sizes = {"f32": 1024, "f16": 512, "bf16": 512, "f64": 2048, "q4_0": 144, "q4_1": 160, "q5_0": 176, "q5_1": 192}
    sizes |= {"q8_0": 272, "iq4_nl": 144, "q2_k": 84, "q3_k": 110, "q4_k": 144, "q5_k": 176, "q6_k": 210, "iq4_xs": 136}
    tensor = Tensor("a", (1, 256), bytes(4096), TENSOR_TYPES[kind])
    info = read(tmp_path / "a", Gguf(tensors=[tensor]).to_bytes()).tensors["a"].info
    assert (info.source_dtype, info.source_nbytes) == (kind, sizes[kind])


def one_value(raw: bytes) -> Gguf:
    return Gguf([("key", raw)])


DAMAGED = {
    "another magic": (Gguf(magic=b"GGUX"), "expected GGUF's magic b'GGUF', got b'GGUX'"),
    "2**50 tensors": (Gguf(tensor_count=1 << 50), "expected at most 100000 tensors, got 1125899906842624"),
    "2**63 values": (Gguf(value_count=1 << 63), "expected at most 10000 values of metadata, got 9223372036854775808"),
    "a value that is missing": (
        Gguf(value_count=1, alignment=1),
        "expected bytes within the 24 of the file, got 8 at 24",
    ),
    "a tensor that is missing": (
        Gguf(tensor_count=1, alignment=1),
        "expected bytes within the 24 of the file, got 8 at 24",
    ),
    "a key twice": (Gguf([("k", value("int8", 1))] * 2), "k: expected one value of that key, got two"),
    "a key without text": (Gguf([("", value("int8", 1))]), "expected the name of a value, got '', which is empty"),
    "a key of 2**40 bytes": (
        Gguf(value_count=1, alignment=1, after=struct.pack("<Q", 1 << 40) + bytes(16)),
        "expected bytes within the",
    ),
    "a long key": (Gguf([("k" * 600, value("int8", 1))]), "which is longer than 512 bytes"),
    "a key with NUL": (Gguf([(b"a\0b", value("int8", 1))]), "which has characters that cannot be printed"),
    "a key that is not UTF-8": (Gguf([(b"\xff", value("int8", 1))]), "in UTF-8"),
    "an unknown type": (one_value(struct.pack("<I", 13)), "key: expected a type of value from 0 to 12, got 13"),
    "a bool of 2": (one_value(struct.pack("<IB", 7, 2)), "key: expected 0 or 1 for a bool, got 2"),
    "a text of 2**63 bytes": (one_value(struct.pack("<IQ", 8, 1 << 63)), "got 9223372036854775808 at"),
    "an array of 2**62 numbers": (one_value(struct.pack("<IIQ", 9, 10, 1 << 62)), "got 36893488147419103232 at"),
    "an array of 2**60 texts": (one_value(struct.pack("<IIQ", 9, 8, 1 << 60)), "got 9223372036854775808 at"),
    "an array of arrays": (
        one_value(struct.pack("<IIQ", 9, 9, 1) + bytes(64)),
        "key: expected an array of numbers or strings, got one of array",
    ),
    "an array of an unknown type": (one_value(struct.pack("<IIQ", 9, 77, 1)), "got one of type 77"),
    "a text in an array that leaves the file": (
        one_value(struct.pack("<IIQ", 9, 8, 2) + string("a") + struct.pack("<Q", 1 << 50)),
        "expected bytes within the",
    ),
    "a text in an array that ends at 2**64": (
        one_value(struct.pack("<IIQ", 9, 8, 2) + struct.pack("<Q", (1 << 64) - 1) + bytes(64)),
        "expected bytes within the",
    ),
    "an alignment of 0": (
        Gguf([("general.alignment", value("uint32", 0))]),
        "expected a power of two up to 65536, got 0",
    ),
    "an alignment of 48": (Gguf([("general.alignment", value("uint32", 48))]), "got 48"),
    "an alignment of 2**31": (Gguf([("general.alignment", value("uint32", 1 << 31))]), "got 2147483648"),
    "an alignment that is a text": (Gguf([("general.alignment", value("string", "32"))]), "got 32"),
    "a name twice": (Gguf(tensors=[ONE, ONE]), "a: expected one tensor of that name, got two"),
    "a name like a path": (Gguf(tensors=[Tensor("../a", (2,), bytes(8))]), "which looks like a path"),
    "no dimensions": (Gguf(tensors=[Tensor("a", (), bytes(8))]), "a: expected 1 to 4 dimensions, got 0"),
    "five dimensions": (Gguf(tensors=[Tensor("a", (1,) * 5, bytes(8))]), "a: expected 1 to 4 dimensions, got 5"),
    "a dimension of 0": (Gguf(tensors=[Tensor("a", (2, 0), bytes(8))]), "a: expected dimensions from 1 to 2"),
    "a product that wraps": (
        Gguf(tensors=[Tensor("a", (1 << 32, 1 << 33), bytes(8))]),
        "a: expected at most 2**48 elements",
    ),
    "part of a block": (
        Gguf(tensors=[Tensor("a", (2, 48), bytes(99), TENSOR_TYPES["q8_0"])]),
        "a: expected rows of whole blocks of 32 for q8_0, got shape (2, 48)",
    ),
    "an offset that is misaligned": (
        Gguf(tensors=[ONE, Tensor("b", (2,), bytes(8), offset=33)]),
        "b: expected an offset that is a multiple of 32, got 33",
    ),
    "offsets that overlap": (
        Gguf(tensors=[Tensor("a", (20,), bytes(80)), Tensor("b", (2,), bytes(8), offset=64)]),
        "b: expected its data after that of a, which ends at byte 176, got byte 160: an overlap",
    ),
    "the same offset": (Gguf(tensors=[ONE, Tensor("b", (2,), bytes(8), offset=0)]), ": an overlap"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage(tmp_path: Path, damage: str) -> None:
    file, message = DAMAGED[damage]
    with pytest.raises(FormatError) as error:
        read(tmp_path / "model.gguf", file.to_bytes())
    assert str(error.value).startswith(f"{tmp_path}/model.gguf: ")
    assert message in str(error.value)


UNSUPPORTED = {
    "version 1": (Gguf(version=struct.pack("<I", 1)), "got version 1, which llama.cpp no longer reads"),
    "version 4": (Gguf(version=struct.pack("<I", 4)), "expected version 2 or 3 of GGUF, got version 4"),
    "big-endian": (Gguf(version=struct.pack(">I", 3)), "expected a little-endian GGUF file, got a big-endian one"),
    "IQ2_XS": (Gguf(tensors=[Tensor("a", (256,), bytes(74), 17)]), "a: expected one of the types F32, F16"),
    "Q4_2": (Gguf(tensors=[Tensor("a", (256,), bytes(74), 4)]), "Q4_2 or Q4_3, which llama.cpp has withdrawn"),
    "a new type": (Gguf(tensors=[Tensor("a", (2,), bytes(8), 99)]), "got type 99"),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_is_not_read_is_named(tmp_path: Path, what: str) -> None:
    file, message = UNSUPPORTED[what]
    with pytest.raises(UnsupportedError) as error:
        read(tmp_path / "model.gguf", file.to_bytes())
    assert message in str(error.value)


def test_a_header_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_HEADER_BYTES", 100)
    with pytest.raises(FormatError, match="expected at most 100 bytes in front of the tensors, got 249"):
        read(tmp_path / "a", Gguf([("a", value("uint8[]", bytes(200)))]).to_bytes())


def test_a_file_cut_at_every_length(tmp_path: Path) -> None:
    values = [("a", value("string[]", ["x", "yy"])), ("b", value("uint32", 4))]
    data = Gguf(values, [ONE, Tensor("q", (1, 32), bytes(34), TENSOR_TYPES["q8_0"])]).to_bytes()
    described = data.rindex(b"q") + 1 + 4 + 16 + 4 + 8
    for length in range(1, described):
        with pytest.raises(RWKVError):
            read(tmp_path / "a", data[:length])
    assert len(read(tmp_path / "a", data).tensors) == 2
