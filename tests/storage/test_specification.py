"""A reader written from docs/file-format.md alone, without the package, reads what the writer wrote."""

from __future__ import annotations

import itertools
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rwkv_cy.kernels.matrix import unpack
from rwkv_cy.kernels.packed import pack_matrix
from rwkv_cy.storage import write_arrays, write_model
from rwkv_cy.tensors.tensor import TensorInfo
from storage.small import (
    BARE_HEADER,
    FACTORS,
    HEADER,
    MATRIX_SHAPES,
    TRANSPOSED,
    factor_tensors,
    quantized_tensors,
    tensors,
    transposed_tensors,
    write_small,
)

#: Types that only a matrix has.
LEVELS = (0, 6, 12, 16, 20, 24, 27, 30, 33, 36, 39, 43, 47, 51, 57, 63)
QUANTIZED = ("q8", "q6", "q4", "q4n")
OF_MATRICES = (*QUANTIZED, "bf12")
NUMPY = {"f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2", "u8": "<u1", **dict.fromkeys(OF_MATRICES, "<u1")}


def read_without_hdf5(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    """The section "Reading", second way: returns the index and every dataset of it."""
    raw = path.read_bytes()
    assert raw[:8] == bytes.fromhex("894844460D0A1A0A")
    assert tuple(raw[8:12]) == (3, 8, 8, 0)
    assert struct.unpack_from("<Q", raw, 12)[0] == 0
    assert struct.unpack_from("<Q", raw, 28)[0] == len(raw)
    page = raw[-4096:]
    magic, major, _, complete, structure_crc = struct.unpack_from("<8sIIII", page)
    file_size, metadata_size, index_offset, index_size, index_crc = struct.unpack_from("<QQQQI", page, 24)
    assert magic == b"RWKVSEAL"
    assert struct.unpack_from("<I", page, 4092)[0] == zlib.crc32(page[:4092])
    assert (complete, file_size) == (1, len(raw))
    assert not any(page[60:4092])
    assert zlib.crc32(raw[:metadata_size]) == structure_crc
    text = raw[index_offset : index_offset + index_size]
    assert zlib.crc32(text) == index_crc
    index = json.loads(text)
    assert index["format"] == "rwkv-cy"
    found = {}
    used = [(0, metadata_size), (index_offset, index_offset + index_size), (file_size - 4096, file_size)]
    for entry in index["datasets"]:
        dtype = np.dtype(NUMPY[entry["dtype"]])
        count = math.prod(entry["shape"])
        start, end = entry["offset"], entry["offset"] + count * dtype.itemsize
        assert zlib.crc32(raw[start:end]) == entry["crc32"]
        assert metadata_size <= start < end <= index_offset
        assert end - start < 4096 or start % 4096 == 0
        array = np.frombuffer(raw, dtype, count, start).reshape(entry["shape"])
        assert not {"matrix_shape", "transposed_shape"} <= entry.keys()
        if "transposed_shape" in entry:
            assert major == 2
            assert entry["dtype"] in QUANTIZED
        elif entry["dtype"] in OF_MATRICES:
            assert "matrix_shape" in entry
        elif "matrix_shape" in entry:
            assert major == 2
            array = untransposed(array, entry["matrix_shape"])
        found[entry["path"]] = (entry["dtype"], array)
        used.append((start, end))
    used.sort()
    for (_, end), (start, _) in itertools.pairwise(used):
        assert not any(raw[end:start])
    return index, found


def read_with_hdf5(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, np.ndarray]]]:
    """The section "The HDF5 objects": returns the root attributes and every dataset."""
    found = {}
    with h5py.File(path, "r") as file:

        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                assert item.chunks == chunks(item.shape, item.dtype.itemsize)
                kind, array = item.attrs["dtype"].decode(), item[...]
                assert item.dtype == np.dtype(NUMPY[kind])
                if kind not in OF_MATRICES and "matrix_shape" in item.attrs:
                    array = untransposed(array, item.attrs["matrix_shape"])
                found[name] = (kind, array)

        file.visititems(visit)
        return dict(file.attrs), found


def untransposed(array: np.ndarray, matrix_shape: Any) -> np.ndarray:
    """The section "Transposed matrices": returns the matrix."""
    rows, columns = matrix_shape
    assert array.shape == (columns, rows)
    matrix = np.empty((rows, columns), array.dtype)
    for c in range(columns):
        matrix[:, c] = array[c]
    return matrix


def chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...] | None:
    size = math.prod(shape) * itemsize
    if size < 64 * 1024:
        return None
    axis = [n > 1 for n in shape].index(True)
    count = min(math.ceil(size / (4 * 1024 * 1024)), shape[axis])
    return (*shape[:axis], math.ceil(shape[axis] / count), *shape[axis + 1 :])


def decode(blocks: np.ndarray, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """The section "Quantized matrices": returns the weights, one after the other."""
    width, size = {"q8": (32, 544), "q6": (64, 832), "q4": (64, 576), "q4n": (32, 288)}[dtype]
    assert blocks.shape == (math.ceil(shape[0] / 16), math.ceil(shape[1] / width), size)
    weights = np.empty(shape, np.float32)
    for r, c in itertools.product(*map(range, shape)):
        block = blocks[r // 16, c // width].tobytes()
        row, i = r % 16, c % width
        step = np.float32(struct.unpack_from("<e", block, 2 * row)[0])
        if dtype == "q4n":
            word = struct.unpack_from("<H", block, 2 * row)[0]
            scale = np.frombuffer(struct.pack("<H", word >> 6 << 5), "<f2")[0]
            pair = block[32 + 64 * (i // 8) + 4 * row + i % 4]
            q = pair & 15 if i % 8 < 4 else pair >> 4
            weights[r, c] = np.float32(LEVELS[q] - word % 64) * np.float32(scale) / 256
        elif dtype == "q8":
            q = struct.unpack_from("<b", block, 32 + 64 * (i // 4) + 4 * row + i % 4)[0]
            assert -127 <= q <= 127
            weights[r, c] = np.float32(q) * step
        else:
            least = np.float32(struct.unpack_from("<e", block, 32 + 2 * row)[0])
            pair = block[64 + 64 * (i // 8) + 4 * row + i % 4]
            q = pair & 15 if i % 8 < 4 else pair >> 4
            if dtype == "q6":
                upper = block[576 + 64 * (i // 16) + 4 * row + i % 4]
                q += 16 * (upper >> 2 * (i // 4 % 4) & 3)
            weights[r, c] = np.float32(q) * step + least
    return weights


def missing_bytes(blocks: np.ndarray, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """Return what stands in a dataset for rows and columns that the matrix has not."""
    header, run, runs = {"q8": (32, 4, 8), "q4n": (32, 8, 4)}.get(dtype, (64, 8, 8))
    missing_row = np.arange(blocks.shape[0] * 16).reshape(-1, 16) >= shape[0]
    steps = blocks[:, :, :header].reshape(*blocks.shape[:2], -1, 16, 2)
    found = [steps.transpose(0, 3, 1, 2, 4)[missing_row].reshape(-1)]
    for g, b, j, row, k in itertools.product(*map(range, (*blocks.shape[:2], runs, 16, 4))):
        byte = blocks[g, b, header + 64 * j + 4 * row + k]
        first = b * run * runs + run * j + k
        for i, q in enumerate([byte] if dtype == "q8" else [byte & 15, byte >> 4]):
            if g * 16 + row >= shape[0] or first + 4 * i >= shape[1]:
                found.append(np.array([q], np.uint8))
    for g, b, j, row, k in itertools.product(*map(range, (*blocks.shape[:2], 4 if dtype == "q6" else 0, 16, 4))):
        byte = int(blocks[g, b, 576 + 64 * j + 4 * row + k])
        for i in range(4):
            if g * 16 + row >= shape[0] or b * 64 + 16 * j + 4 * i + k >= shape[1]:
                found.append(np.array([byte >> 2 * i & 3], np.uint8))
    return np.concatenate(found)


def parameter_name(path: str) -> str:
    return path.removeprefix("parameters/").replace("/", ".")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("specification") / "model.h5"
    large = np.arange(1_300_000, dtype="<f4").reshape(1, 1300, 1000)
    write_small(path, {**tensors(), "blocks.12.large": ("f32", large)})
    return path


@pytest.mark.parametrize("read", [read_without_hdf5, read_with_hdf5])
def test_model(model: Path, read: Any) -> None:
    about, found = read(model)
    assert about["kind"] in ("model", b"model")
    header = json.loads(found.pop("metadata/header")[1].tobytes())
    assert header == {
        "architecture": HEADER.architecture,
        "config": HEADER.config,
        "fingerprint": HEADER.fingerprint,
        "tokenizer": {"kind": "world"},
        "source": HEADER.source,
        "created_by": HEADER.created_by,
    }
    assert found.pop("metadata/tokenizer")[1].tobytes() == b"vocabulary"
    parameters = {parameter_name(path): value for path, value in found.items() if not path.startswith("metadata/")}
    assert parameters.pop("blocks.12.large")[1].tobytes() == np.arange(1_300_000, dtype="<f4").tobytes()
    assert set(parameters) == set(tensors())
    for name, (dtype, array) in tensors().items():
        assert parameters[name][0] == dtype
        assert parameters[name][1].shape == array.shape
        assert parameters[name][1].tobytes() == array.tobytes()


def test_both_ways_agree(model: Path) -> None:
    attributes, with_hdf5 = read_with_hdf5(model)
    index, without = read_without_hdf5(model)
    assert attributes == {"format": b"rwkv-cy", "kind": b"model", "major": 1, "minor": 0, "complete": 1}
    assert set(with_hdf5) == {*without, "metadata/index", "metadata/seal"}
    assert json.loads(with_hdf5["metadata/index"][1].tobytes()) == index
    assert with_hdf5["metadata/seal"][1].tobytes() == model.read_bytes()[-4096:]
    for path, (dtype, array) in without.items():
        assert with_hdf5[path][0] == dtype
        assert with_hdf5[path][1].tobytes() == array.tobytes()


@pytest.mark.parametrize(("dtypes", "minor"), [(("q8", "q4"), 1), (("q6",), 3), (("q4n",), 4)])
@pytest.mark.parametrize("read", [read_without_hdf5, read_with_hdf5])
def test_quantized_matrices(tmp_path: Path, read: Any, dtypes: tuple[str, ...], minor: int) -> None:
    large = "blocks.1.ffn.key.weight"
    contents = {
        name: value for name, value in quantized_tensors().items() if name != large and value[0] in (*dtypes, "f32")
    }
    write_small(tmp_path / "model.h5", contents)
    about, found = read(tmp_path / "model.h5")
    assert about.get("minor", minor) == minor
    assert struct.unpack_from("<II", (tmp_path / "model.h5").read_bytes()[-4096:], 8) == (1, minor)
    matrices = {parameter_name(path): value for path, value in found.items() if value[0] in dtypes}
    assert set(matrices) == set(contents) - {"ln_out.bias"}
    for name, (dtype, blocks) in matrices.items():
        assert blocks.tobytes() == contents[name][1].tobytes()
        shape = MATRIX_SHAPES[name]
        np.testing.assert_allclose(decode(blocks, dtype, shape), unpack(blocks, dtype, shape), rtol=1e-6, atol=1e-6)
        if dtype in ("q8", "q4n"):  # one rounding: the same number to the last bit
            np.testing.assert_array_equal(decode(blocks, dtype, shape), unpack(blocks, dtype, shape))
        assert not missing_bytes(blocks, dtype, shape).any()


def unpack_bf12(data: bytes, rows: int, columns: int) -> np.ndarray:
    """The section "Packed matrices": returns the bits of the weights."""
    table, escapes = data[:16], struct.unpack_from("<I", data, 16)[0]
    assert list(table) == sorted(set(table))
    assert not any(data[20:64])
    wide = math.ceil(columns / 128)
    lists = 64 + math.ceil(rows / 4) * wide * 4 * 192
    end = lists + 4 * (rows + 1) + 4 * escapes
    assert len(data) == math.ceil(end / 64) * 64
    assert not any(data[end:])
    words = np.empty((rows, columns), np.uint16)
    for r, c in itertools.product(range(rows), range(columns)):
        chunk = 64 + (r // 4 * wide * 4 + c // 128 * 4 + r % 4) * 192
        i, q = c % 128, c % 128 // 32
        p = 2 * (i % 16) + i // 16 % 2
        own, codes = (struct.unpack_from("<H", data, chunk + third * 64 + 2 * p)[0] for third in (q // 2, 2))
        if q % 2:
            own = own >> 8 | (own & 0xFF) << 8
        words[r, c] = own & 0x807F | table[codes >> 4 * q & 15] << 7
    starts = struct.unpack_from(f"<{rows + 1}I", data, lists)
    assert (starts[0], starts[-1]) == (0, escapes)
    for r, (start, stop) in enumerate(itertools.pairwise(starts)):
        for e in range(start, stop):
            column, bits = struct.unpack_from("<HH", data, lists + 4 * (rows + 1) + 4 * e)
            words[r, column] = bits
    return words


@pytest.mark.parametrize("read", [read_without_hdf5, read_with_hdf5])
def test_packed_matrices(tmp_path: Path, read: Any) -> None:
    words = (np.random.default_rng(7).standard_normal((6, 300)).astype("<f4").view("<u4") >> 16).astype(np.uint16)
    words[1, 5] = words[1, 290] = words[4, 131] = 0
    packed = pack_matrix(words)
    info = TensorInfo("head.weight", words.shape, "bf12", "", "bf12", packed.size, encoded_nbytes=packed.size)
    write_model(tmp_path / "m.h5", BARE_HEADER, [info], lambda _, start, count: packed[start : start + count])
    about, found = read(tmp_path / "m.h5")
    assert about.get("minor", 2) == 2
    assert struct.unpack_from("<II", (tmp_path / "m.h5").read_bytes()[-4096:], 8) == (1, 2)
    dtype, stored = found["parameters/head.weight"]
    assert dtype == "bf12"
    assert stored.shape == (packed.size,)
    np.testing.assert_array_equal(unpack_bf12(stored.tobytes(), 6, 300), words)


def test_shapes_of_quantized_matrices(tmp_path: Path) -> None:
    write_small(tmp_path / "model.h5", quantized_tensors())
    index, _ = read_without_hdf5(tmp_path / "model.h5")
    told = {entry["path"]: tuple(entry["matrix_shape"]) for entry in index["datasets"] if "matrix_shape" in entry}
    assert {parameter_name(path): shape for path, shape in told.items()} == MATRIX_SHAPES
    with h5py.File(tmp_path / "model.h5") as file:
        for path, shape in told.items():
            assert set(file[path].attrs) == {"dtype", "matrix_shape"}
            assert file[path].attrs["matrix_shape"].dtype == np.dtype("<u8")
            assert tuple(file[path].attrs["matrix_shape"]) == shape


@pytest.mark.parametrize("read", [read_without_hdf5, read_with_hdf5])
def test_quantized_transposes(tmp_path: Path, read: Any) -> None:
    contents = write_small(tmp_path / "model.h5", factor_tensors())
    _, found = read(tmp_path / "model.h5")
    assert struct.unpack_from("<II", (tmp_path / "model.h5").read_bytes()[-4096:], 8) == (2, 4)
    index, _ = read_without_hdf5(tmp_path / "model.h5")
    told = {
        entry["path"]: tuple(entry["transposed_shape"]) for entry in index["datasets"] if "transposed_shape" in entry
    }
    assert {parameter_name(path): shape for path, shape in told.items()} == FACTORS
    with h5py.File(tmp_path / "model.h5") as file:
        for path, (rows, columns) in told.items():
            attributes = file[path].attrs
            assert set(attributes) == {"dtype", "transposed_shape"}
            assert attributes["transposed_shape"].dtype == np.dtype("<u8")
            assert tuple(attributes["transposed_shape"]) == (rows, columns)
            dtype, blocks = found[path]
            assert blocks.tobytes() == contents[parameter_name(path)][1].tobytes()
            expected = unpack(contents[parameter_name(path)][1], dtype, (columns, rows)).T
            matrix = decode(blocks, dtype, (columns, rows)).T
            assert matrix.shape == FACTORS[parameter_name(path)]
            np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("read", [read_without_hdf5, read_with_hdf5])
def test_transposed_matrices(tmp_path: Path, read: Any) -> None:
    write_small(tmp_path / "model.h5", transposed_tensors())
    _, found = read(tmp_path / "model.h5")
    assert struct.unpack_from("<II", (tmp_path / "model.h5").read_bytes()[-4096:], 8) == (2, 0)
    parameters = {parameter_name(path): value for path, value in found.items() if path.startswith("parameters/")}
    assert set(parameters) == set(transposed_tensors())
    for name, (dtype, array) in transposed_tensors().items():
        expected = array.T if name in TRANSPOSED else array
        assert parameters[name][0] == dtype
        assert parameters[name][1].shape == TRANSPOSED.get(name, array.shape)
        assert parameters[name][1].tobytes() == expected.tobytes()
    with h5py.File(tmp_path / "model.h5") as file:
        assert (file.attrs["major"], file.attrs["minor"]) == (2, 0)


def test_arrays(tmp_path: Path) -> None:
    write_arrays(tmp_path / "state.h5", "state", {"tokens": 3}, {"aa": np.ones((2, 3))})
    index, found = read_without_hdf5(tmp_path / "state.h5")
    assert index["kind"] == "state"
    assert json.loads(found["metadata/header"][1].tobytes()) == {"attributes": {"tokens": 3}}
    np.testing.assert_array_equal(found["arrays/aa"][1], np.ones((2, 3)))
