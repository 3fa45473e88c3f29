"""PyTorch's zip archives: read without torch, and errors for every kind of damage."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bits import flips, sampled
from formats.make_pth import (
    NONE,
    ORDERED_DICT,
    Entry,
    Zip,
    archive,
    call,
    deflated,
    dictionary,
    name,
    parameter,
    pickled,
    small_arrays,
    storage,
    tensor,
    tensors,
    text,
    zip_checkpoint,
)
from formats.sources import assert_same, read_all
from rwkv_cy.errors import FormatError, RWKVError, StorageError, UnsupportedError
from rwkv_cy.formats import pth, raw
from rwkv_cy.formats.pth import open_pth
from rwkv_cy.tensors.tensor import ParameterSource

GIB = 1 << 30
FLOATS = np.arange(12, dtype="<f4")


@pytest.mark.parametrize("wide", [False, True])
def test_reads_every_type(tmp_path: Path, wide: bool) -> None:
    path = zip_checkpoint(small_arrays(), wide=wide).write(tmp_path / "x")
    assert_same(read_all(open_pth(path)), small_arrays())
    with open_pth(path) as source:
        assert isinstance(source, ParameterSource)
        assert source.format == "pth"
        assert source.info("emb.weight").source_nbytes == 24


def test_the_demo_checkpoint(kjv_checkpoint: Path) -> None:
    with open_pth(kjv_checkpoint) as source:
        names = source.names()
        assert names[0] == "emb.weight"
        assert sum(source.info(title).size for title in names) == 1_352_448
        assert {source.info(title).dtype for title in names} == {"bf16"}
        assert source.info("blocks.5.ffn.key.weight").shape == (512, 128)
        assert source.info("blocks.0.att.time_mix_k").shape == (1, 1, 128)
        for title in names:
            view = source.view(title)
            assert view is not None
            buffer = np.empty(view.size, np.uint16)
            source.read_into(title, buffer)
            np.testing.assert_array_equal(view.reshape(-1), buffer)


def test_views_outlive_the_source(tmp_path: Path) -> None:
    path = zip_checkpoint({"w": ("f32", FLOATS)}, align=64).write(tmp_path / "x")
    with open_pth(path) as source:
        view = source.view("w")
    assert view is not None
    np.testing.assert_array_equal(view, FLOATS)
    assert not view.flags.writeable


def test_ordered_dictionaries_parameters_and_shared_storages(tmp_path: Path) -> None:
    shared = storage("FloatStorage", "0", 12)
    items = {
        "first": parameter(tensor(shared, (2, 3))),
        "second": tensor(shared, (2, 3), offset=6),
        "all": tensor(shared, (12,)),
    }
    pairs = b"".join(text(key) + value for key, value in items.items())
    metadata = dictionary({"_metadata": ORDERED_DICT + b"(" + text("") + dictionary({"version": b"K\x01"}) + b"u"})
    path = archive(ORDERED_DICT + b"(" + pairs + b"u" + metadata + b"b", [FLOATS.tobytes()]).write(tmp_path / "x")
    expected = {"first": FLOATS[:6].reshape(2, 3), "second": FLOATS[6:].reshape(2, 3), "all": FLOATS}
    assert_same(read_all(open_pth(path)), {title: ("f32", array) for title, array in expected.items()})


def test_weights_one_level_down(tmp_path: Path) -> None:
    arrays = small_arrays()
    body = dictionary({"step": b"K\x07", "state_dict": dictionary(tensors(arrays))})
    path = archive(body, [array.tobytes() for _, array in arrays.values()]).write(tmp_path / "x")
    assert_same(read_all(open_pth(path)), arrays)


def test_older_archives_say_nothing_of_byte_order(tmp_path: Path) -> None:
    whole = zip_checkpoint(small_arrays())
    entries = [entry for entry in whole.entries if entry.name != "small/byteorder"]
    assert_same(read_all(open_pth(Zip(entries).write(tmp_path / "x"))), small_arrays())


def test_archives_without_checksums(tmp_path: Path) -> None:
    entries = [replace(entry, crc=0) for entry in zip_checkpoint(small_arrays()).entries]
    assert_same(read_all(open_pth(Zip(entries).write(tmp_path / "x"))), small_arrays())


def test_archives_without_a_folder(tmp_path: Path) -> None:
    entries = [
        replace(entry, name=str(entry.name).removeprefix("small/")) for entry in zip_checkpoint(small_arrays()).entries
    ]
    assert_same(read_all(open_pth(Zip(entries).write(tmp_path / "x"))), small_arrays())


def test_more_than_4_gib_in_little_memory(tmp_path: Path) -> None:
    count = 5 * GIB // 4
    body = dictionary(
        {
            "large": tensor(storage("FloatStorage", "0", count), (count // 1024, 1024)),
            "behind": tensor(storage("FloatStorage", "1", 12), (12,)),
        }
    )
    whole = archive(body, [b"", FLOATS.tobytes()], wide=True)
    whole.entries[2] = replace(whole.entries[2], hole=5 * GIB, crc=0)
    path = whole.write(tmp_path / "x")
    tracemalloc.start()
    try:
        with open_pth(path) as source:
            view = source.view("large")
            buffer = np.empty(12, "<f4")
            source.read_into("behind", buffer)
            source.read_into("large", np.empty(8, "<f4"), count - 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(buffer, FLOATS)
    assert view is None or view.shape == (count // 1024, 1024)
    assert peak < 1 << 20


def packed(whole: Zip) -> Zip:
    """The same archive with every entry deflated."""
    whole.entries = [deflated(str(entry.name), entry.data) for entry in whole.entries]
    return whole


def test_deflated_archives(tmp_path: Path) -> None:
    path = packed(zip_checkpoint(small_arrays())).write(tmp_path / "x")
    assert_same(read_all(open_pth(path)), small_arrays())
    with open_pth(path) as source:
        assert source.view("emb.weight") is None
        assert all(source.check_bytes(title) for title in source.names())


def test_deflated_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(4000, dtype="<f4").reshape(40, 100)
    body = dictionary({"w": tensor(storage("FloatStorage", "0", 4000), (40, 100), (1, 40))})
    path = packed(archive(body, [array.tobytes()])).write(tmp_path / "x")
    assert_same(read_all(open_pth(path)), {"w": ("f32", np.ascontiguousarray(array.reshape(100, 40).T))})
    monkeypatch.setattr(raw, "_MOST_REORDERED", 4000 * 4 - 1)
    with pytest.raises(
        FormatError, match="w: expected a deflated tensor in C order, or of at most 15999 bytes, got 16"
    ):
        open_pth(path)


def test_many_tensors_in_one_deflated_entry(tmp_path: Path) -> None:
    """Each that begins before the one that was read last has the entry inflated from its beginning."""

    def write(count: int) -> Path:
        whole = storage("FloatStorage", "0", 12)
        parts = {str(i): tensor(whole, (1,), offset=11 - i) for i in range(count)}
        return packed(archive(dictionary(parts), [FLOATS.tobytes()])).write(tmp_path / "x")

    assert_same(read_all(open_pth(write(4))), {str(i): ("f32", FLOATS[11 - i : 12 - i]) for i in range(4)})
    with pytest.raises(FormatError, match="expected at most 4 tensors in one deflated entry of the archive, got 5"):
        open_pth(write(5))


def test_one_changed_number_of_a_deflated_archive(tmp_path: Path) -> None:
    whole = packed(zip_checkpoint({"w": ("f32", FLOATS)}))
    other = deflated("small/data/0", (FLOATS + 1).tobytes())
    whole.entries[2] = replace(other, crc=whole.entries[2].crc)
    with (
        open_pth(whole.write(tmp_path / "x")) as source,
        pytest.raises(FormatError, match="w: expected bytes with"),
    ):
        source.check_bytes("w")


def test_a_zero_that_is_a_checksum(tmp_path: Path) -> None:
    whole = zip_checkpoint({"w": ("f32", FLOATS)})
    whole.entries[2] = replace(whole.entries[2], crc=0)
    with (
        open_pth(whole.write(tmp_path / "x")) as source,
        pytest.raises(FormatError, match="the checksum 00000000"),
    ):
        source.check_bytes("w")


# What is refused


def changed(position: int, **changes: object) -> Zip:
    """The small checkpoint with one entry changed: 0 pickle, 1 byteorder, 2 to 5 storages, 6 version."""
    whole = zip_checkpoint(small_arrays())
    whole.entries[position] = replace(whole.entries[position], **changes)  # type: ignore[arg-type]
    return whole


def with_more(*names: str) -> Zip:
    whole = zip_checkpoint(small_arrays())
    return Zip([*whole.entries, *(Entry(title, b"x") for title in names)])


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (Zip([]), r"got a zip archive without data.pkl \(it holds nothing\)"),
        (Zip([Entry("arr_0.npy", b"x")]), r"got a zip archive without data.pkl \(it holds 'arr_0.npy'\)"),
        (with_more("small/constants.pkl"), "got a TorchScript program; save its weights"),
        (with_more("small/code/__torch__.py"), "got a TorchScript program; save its weights"),
        (changed(1, data=b"big"), "expected numbers in little-endian byte order, got b'big'"),
        (changed(1, data=b""), "expected numbers in little-endian byte order, got b''"),
        (changed(0, method=14, stored_size=100), "expected zip entry 'small/data.pkl' stored or deflated, got it com"),
        (
            changed(2, method=9, stored_size=3),
            "expected zip entry 'small/data/0' stored or deflated, got it compr",
        ),
        (
            archive(dictionary({"w": call(name("os", "system"), text("id"))}), []),
            "got the name 'os.system', which is never run",
        ),
    ],
)
def test_other_kinds(tmp_path: Path, whole: Zip, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        open_pth(whole.write(tmp_path / "x"))


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (with_more("other/data.pkl"), "expected one data.pkl in the archive, got 2"),
        (with_more("small/data.pkl"), "expected each name once in the zip directory, got 'small/data.pkl' twice"),
        (changed(1, data=b"little" * 20), "expected zip entry 'small/byteorder' of at most 64 bytes, got 120"),
        (changed(0, data=pickled(NONE) + b"x"), "expected the pickle to end at byte 4, got 5 bytes"),
        (changed(0, data=b""), "expected 2 more bytes, got 0"),
        (changed(0, data=b"\x80\x02"), "expected 1 more bytes, got 0"),
        (changed(0, local_name="small/data.pk1"), "expected zip entry 'small/data.pkl' under one name"),
        (changed(3, local_name="small/data/0"), "expected zip entry 'small/data/1' under one name"),
        (changed(2, name="small/data/9"), "expected 24 bytes of float32 in entry data/0, got none"),
        (changed(2, data=bytes(23)), "expected 24 bytes of float32 in entry data/0, got 23"),
        (changed(2, data=bytes(25)), "expected 24 bytes of float32 in entry data/0, got 25"),
        (changed(2, size=20, stored_size=20, header_offset=0), "expected 24 bytes of float32 in entry data/0"),
        (archive(dictionary({"w": tensor(storage("FloatStorage", "0", 1 << 62), (1,))}), [b"1234"]), "got 4; the file"),
        (archive(dictionary({"w": tensor(storage("FloatStorage", "../0", 1), (1,))}), [b"1234"]), "got none"),
        (archive(NONE, []), "expected a dictionary of tensors, or one within 3 levels of dictionaries, got None"),
    ],
)
def test_damage(tmp_path: Path, whole: Zip, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_pth(whole.write(tmp_path / "x"))


def test_two_tensors_over_one_range_of_the_file(tmp_path: Path) -> None:
    whole = zip_checkpoint({"a": ("f32", FLOATS), "b": ("f32", FLOATS)})
    whole.entries[3] = replace(whole.entries[3], header_offset=0)
    with pytest.raises(FormatError, match="expected zip entry 'small/data/1' under one name"):
        open_pth(whole.write(tmp_path / "x"))


def test_a_pickle_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pth, "MAX_PICKLE_BYTES", 10)
    with pytest.raises(FormatError, match=r"expected zip entry 'small/data.pkl' of at most 10 bytes"):
        open_pth(zip_checkpoint(small_arrays()).write(tmp_path / "x"))


def test_the_file_is_closed_when_it_is_refused(tmp_path: Path) -> None:
    path = archive(NONE, []).write(tmp_path / "x")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (the entries are not paths)
    with pytest.raises(FormatError) as caught:
        open_pth(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert caught.value.__traceback__ is not None


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        open_pth(tmp_path / "missing")
    with pytest.raises(StorageError, match="is a directory, not a regular file"):
        open_pth(tmp_path)


def test_cut_at_every_length(tmp_path: Path) -> None:
    data = zip_checkpoint(small_arrays()).to_bytes()
    path = tmp_path / "x"
    path.write_bytes(data)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        with pytest.raises(FormatError):
            open_pth(path)


@pytest.mark.parametrize("extra", [1, 22, 100_000])
def test_trailing_bytes(tmp_path: Path, extra: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(zip_checkpoint(small_arrays()).to_bytes() + bytes(extra))
    with pytest.raises(FormatError, match="expected the end of a zip directory at the end of the file"):
        open_pth(path)


@sampled
@pytest.mark.parametrize("checked", [True, False])
def test_every_bit_flipped(tmp_path: Path, checked: bool, step: int) -> None:
    """A flip outside of the weights is noticed, or changes nothing; in a pickle without checksum it may mislead."""
    expected = {"a": ("f32", FLOATS[:2]), "b": ("bf16", np.asarray([3, 4, 5], "<u2"))}
    whole = zip_checkpoint(expected, wide=True, align=4)
    if not checked:
        whole.entries = [replace(entry, crc=0) for entry in whole.entries]
    data = whole.to_bytes()
    pickle_start = data.index(b"\x80\x02")
    pickle_end = pickle_start + len(whole.entries[0].data)
    weights = {data.index(array) + i for array in (FLOATS[:2].tobytes(), b"\3\0\4\0\5\0") for i in range(len(array))}
    path = tmp_path / "x"
    path.write_bytes(data)
    start, end = (0, len(data)) if checked else (pickle_start, pickle_end)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for offset, mask in flips(end - start, step):
            position = start + offset
            os.pwrite(descriptor, bytes([data[position] ^ mask]), position)
            try:
                found = read_all(open_pth(path))
                if position not in weights and checked:
                    assert_same(found, expected)
            except RWKVError:
                pass
            os.pwrite(descriptor, data[position : position + 1], position)
    finally:
        os.close(descriptor)


def test_random_bits_of_the_weights_are_read_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    arrays = {"w": ("f32", rng.integers(0, 256, 4096, np.uint8).view("<f4"))}
    assert_same(read_all(open_pth(zip_checkpoint(arrays).write(tmp_path / "x"))), arrays)
