"""The legacy format of torch.save: read without torch, and errors for every kind of damage."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bits import flips, sampled
from formats.make_pth import (
    NONE,
    TRUE,
    call,
    dictionary,
    integer,
    legacy,
    legacy_checkpoint,
    name,
    sequence,
    small_arrays,
    storage,
    tensor,
    tensors,
    text,
)
from formats.sources import assert_same, read_all
from rwkv_cy.errors import FormatError, RWKVError, StorageError, UnsupportedError
from rwkv_cy.formats import pth_legacy
from rwkv_cy.formats.pth_legacy import open_pth_legacy
from rwkv_cy.formats.signatures import LEGACY_MAGIC
from rwkv_cy.tensors.tensor import ParameterSource

FLOATS = np.arange(12, dtype="<f4")
ONE = {"0": (12, FLOATS.tobytes())}
BODY = dictionary({"w": tensor(storage("FloatStorage", "0", 12, NONE), (12,))})


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_reads_every_type(tmp_path: Path) -> None:
    path = write(tmp_path / "x", legacy_checkpoint(small_arrays()))
    assert path.read_bytes().startswith(LEGACY_MAGIC)
    assert_same(read_all(open_pth_legacy(path)), small_arrays())
    with open_pth_legacy(path) as source:
        assert isinstance(source, ParameterSource)
        assert source.format == "pth-legacy"


def test_weights_one_level_down_among_other_storages(tmp_path: Path) -> None:
    arrays = small_arrays()
    longs = np.arange(3, dtype="<i8")
    steps = tensor(storage("LongStorage", "9", 3, NONE), (3,))
    body = dictionary({"optimizer": dictionary({"steps": steps}), "model": dictionary(tensors(arrays, NONE))})
    storages = {str(key): (array.size, array.tobytes()) for key, (_, array) in enumerate(arrays.values())}
    path = write(tmp_path / "x", legacy(body, {"9": (3, longs.tobytes()), **storages}))
    assert_same(read_all(open_pth_legacy(path)), arrays)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (legacy(BODY, ONE, protocol=integer(7)), "expected protocol 1001 of PyTorch's stream, got 7"),
        (legacy(BODY, ONE, protocol=NONE), "expected protocol 1001 of PyTorch's stream, got NoneType"),
        (legacy(BODY, ONE, system=dictionary({"little_endian": b"\x89"})), "expected numbers in little-endian byte"),
        (legacy(BODY, ONE, system=dictionary({"little_endian": integer(1)})), "expected numbers in little-endian byte"),
        (legacy(BODY, ONE, system=NONE), "expected numbers in little-endian byte order"),
        (legacy(call(name("os", "system"), text("id")), ONE), "got the name 'os.system', which is never run"),
        (legacy(BODY, ONE, system=name("torch", "FloatStorage")), "got the name 'torch.FloatStorage'"),
        (
            legacy(dictionary({"w": storage("FloatStorage", "0", 12, sequence(text("1"), TRUE))}), ONE),
            "expected whole storages, got a view of one",
        ),
    ],
)
def test_other_kinds(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        open_pth_legacy(write(tmp_path / "x", data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            legacy(BODY, ONE, magic=integer(0x1950A86A20F9469CFC6D)),
            "expected a legacy PyTorch stream, got bytes 80028a",
        ),
        (LEGACY_MAGIC[:8], "expected a legacy PyTorch stream, got bytes 80028a"),
        (LEGACY_MAGIC, "expected 2 more bytes, got 0"),
        (legacy(BODY, ONE, keys=NONE), "expected a list of storage keys, got NoneType"),
        (legacy(BODY, ONE, keys=b"](Ne"), "expected a list of storage keys, got list"),
        (legacy(BODY, {}), "expected the keys of 1 storages, got 0 others"),
        (legacy(BODY, {"1": ONE["0"]}), "expected the keys of 1 storages, got 1 others"),
        (legacy(BODY, ONE, keys=b"](" + text("0") * 2 + b"e"), "expected the keys of 1 storages, got 2 others"),
        (legacy(BODY, {"0": (11, FLOATS.tobytes())}), "expected 12 elements of storage '0', got 11"),
        (legacy(BODY, {"0": (-1, FLOATS.tobytes())}), "expected 12 elements of storage '0', got -1"),
        (legacy(BODY, {"0": (-(1 << 63), b"")}), "expected 12 elements of storage '0', got -9223372036854775808"),
        (legacy(BODY, {"0": (12, FLOATS[:11].tobytes())}), "expected .* bytes.* in the file, got"),
        (legacy(BODY, ONE) + b"x", "expected .* bytes.* in the file, got"),
        (legacy(BODY, ONE)[:-56], "expected bytes within the"),
        (
            legacy(dictionary({"w": tensor(storage("FloatStorage", "0", 1 << 60, NONE), (1,))}), {"0": (1 << 60, b"")}),
            "expected .* bytes.* in the file, got",
        ),
        (legacy(NONE, {}), "expected a dictionary of tensors, or one within 3 levels"),
    ],
)
def test_damage(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_pth_legacy(write(tmp_path / "x", data))


def test_pickles_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pth_legacy, "MAX_PICKLE_BYTES", 150)
    with pytest.raises(FormatError, match="more bytes, got"):
        open_pth_legacy(write(tmp_path / "x", legacy(BODY, ONE)))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        open_pth_legacy(tmp_path / "missing")


def test_cut_at_every_length(tmp_path: Path) -> None:
    data = legacy_checkpoint(small_arrays())
    path = write(tmp_path / "x", data)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        with pytest.raises(FormatError):
            open_pth_legacy(path)


@sampled
def test_every_bit_flipped(tmp_path: Path, step: int) -> None:
    """Nothing in this format tells a flipped bit of a pickle from a right one, so that any answer of ours will do."""
    data = legacy_checkpoint(small_arrays())
    path = write(tmp_path / "x", data)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for position, mask in flips(len(data), step):
            os.pwrite(descriptor, bytes([data[position] ^ mask]), position)
            try:
                source = open_pth_legacy(path)
                found = read_all(source)
                assert len(found) + len(source.left_out) == 4
            except RWKVError:
                pass
            os.pwrite(descriptor, data[position : position + 1], position)
    finally:
        os.close(descriptor)
