"""Recognition of checkpoints by content: supported formats, formats refused by name, and unknown data."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from formats.foreign import huggingface_name, rwkv4_parameters, rwkvcpp_bytes, safetensors_bytes, write_shards
from formats.make_pth import archive, dictionary, legacy_checkpoint, small_arrays, storage, tensor, zip_checkpoint
from formats.sources import assert_same, read_all
from rwkv_cy.errors import FormatError, StorageError, UnsupportedError
from rwkv_cy.formats import open_checkpoint

PARAMETERS = rwkv4_parameters(2, 2, 1, 2)
EXPECTED = {name: ("f32", array) for name, array in PARAMETERS.items()}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "format_name"),
    [
        (zip_checkpoint(EXPECTED).to_bytes(), "pth"),
        (legacy_checkpoint(EXPECTED), "pth-legacy"),
        (safetensors_bytes(PARAMETERS), "safetensors"),
    ],
)
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model.h5", "model"])
def test_content_decides_not_the_name(tmp_path: Path, data: bytes, format_name: str, name: str) -> None:
    path = write(tmp_path / name, data)
    with open_checkpoint(path) as source:
        assert source.format == format_name
        assert source.path == path
    assert_same(read_all(open_checkpoint(str(path))), EXPECTED)


def test_rwkvcpp(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path / "x", rwkvcpp_bytes(PARAMETERS))) as source:
        assert source.format == "rwkvcpp"
        assert set(source.names()) == set(PARAMETERS)


def test_names_become_canonical(tmp_path: Path) -> None:
    others = {huggingface_name(name): pair for name, pair in EXPECTED.items()}
    for data in (zip_checkpoint(others).to_bytes(), legacy_checkpoint(others)):
        assert_same(read_all(open_checkpoint(write(tmp_path / "x", data))), EXPECTED)


def test_two_names_for_one_parameter(tmp_path: Path) -> None:
    names = ("rwkv.emb.weight", "rwkv.embeddings.weight", "rwkv.blocks.0.attention.key.weight")
    both = dict.fromkeys(names, ("f32", np.ones(2, "<f4")))
    with pytest.raises(FormatError, match=r"emb.weight: expected one tensor of that name, got emb.weight and embedd"):
        open_checkpoint(write(tmp_path / "x", zip_checkpoint(both).to_bytes()))


@pytest.mark.parametrize(
    ("file_name", "make"),
    [
        ("model.safetensors", lambda arrays: safetensors_bytes({name: array for name, (_, array) in arrays.items()})),
        ("pytorch_model.bin", lambda arrays: zip_checkpoint(arrays).to_bytes()),
        ("pytorch_model.bin", legacy_checkpoint),
    ],
)
def test_folders(tmp_path: Path, file_name: str, make: Callable[..., bytes]) -> None:
    write(tmp_path / file_name, make({huggingface_name(name): pair for name, pair in EXPECTED.items()}))
    with open_checkpoint(tmp_path) as source:
        assert source.format == "huggingface"
    assert_same(read_all(open_checkpoint(tmp_path)), EXPECTED)


def test_an_index_of_shards_and_its_folder(tmp_path: Path) -> None:
    write_shards(tmp_path, {huggingface_name(name): array for name, array in PARAMETERS.items()}, 2)
    index = next(tmp_path.glob("*.index.json"))
    for path in (tmp_path, index):
        found = read_all(open_checkpoint(path))
        assert_same({name: found[name] for name in EXPECTED}, EXPECTED)


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    index = write(tmp_path / "model.safetensors.index.json", b'{"weight_map": {"a": "model.safetensors.index.json"}}')
    for path in (tmp_path, index):
        with pytest.raises(UnsupportedError, match="expected a checkpoint, got a JSON text"):
            open_checkpoint(path)


def a_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "got an HDF5 file; open it with rwkv_cy.load"),
        (b"lmgg" + bytes(100), "got an old GGML file of llama.cpp"),
        (b"tjgg" + bytes(100), "got an old GGML file of llama.cpp"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "got a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "got an HTML page, which a website sent instead of a file; download the file it"),
        (b"\xef\xbb\xbf\r\n <HTML><head>", "got an HTML page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "got an HTML page"),
        (a_tar(), "got a tar archive, the checkpoint format of torch 0.1; load it with torch and save it again"),
        (pickle.dumps({"a": 1}, 2), "got a pickle that is not a PyTorch checkpoint, or a truncated one"),
        (pickle.dumps({"a": 1}, 4), "got a pickle that is not a PyTorch checkpoint, or a truncated one"),
        (legacy_checkpoint(small_arrays())[:14], "got a pickle that is not a PyTorch checkpoint, or a truncated"),
        (b"\x93NUMPY\x01\0", "got a NumPy array"),
        (gzip.compress(b"x", mtime=0), "got a file compressed with gzip; unpack it and name the file inside"),
        (lzma.compress(b"x"), "got a file compressed with xz; unpack it"),
        (b"(\xb5/\xfd" + bytes(10), "got a file compressed with zstd; unpack it"),
        (b"BZh91AY&SY", "got a file compressed with bzip2; unpack it"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(10), "got a 7-Zip archive; unpack it"),
        (b"Rar!\x1a\x07\x01\x00", "got a RAR archive; unpack it"),
        (b'{"error": "Repository not found"}', "got a JSON text; name the folder or the file that holds the weights"),
        (b"[1, 2]", "got a JSON text"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what):
        open_checkpoint(write(tmp_path / "model.pth", data))


@pytest.mark.parametrize("data", [b"x", b"PK", bytes(8), bytes(1000), b"\x80", b"\x80\x01", b"Access denied.\n"])
def test_what_nobody_knows(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(
        FormatError, match=r"expected a model file, or a checkpoint of PyTorch, safetensors, rwkv.cpp or llama.cpp, got"
    ):
        open_checkpoint(write(tmp_path / "model.pth", data))


def test_empty(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is empty; download"):
        open_checkpoint(write(tmp_path / "x", b""))
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match=r"no model in this folder; looked for .*, found nothing"):
        open_checkpoint(tmp_path / "folder")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "dangling", "loop", "x" * 300):
        with pytest.raises(StorageError, match="cannot open it"):
            open_checkpoint(tmp_path / name)
    with pytest.raises(StorageError, match="got an invalid file name"):
        open_checkpoint("a\0b")


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StorageError, match="is a FIFO"):
        open_checkpoint(tmp_path / "fifo")


def test_links_to_checkpoints_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "x", zip_checkpoint(EXPECTED).to_bytes())
    (tmp_path / "link").symlink_to("x")
    assert_same(read_all(open_checkpoint(tmp_path / "link")), EXPECTED)


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(StorageError, match="cannot open it: Permission denied; make it readable"):
        open_checkpoint(tmp_path)


def test_shapes_of_other_files_do_not_matter_here(tmp_path: Path) -> None:
    # Whether a checkpoint is a whole model is for those who know architectures.
    body = dictionary({"lora_A": tensor(storage("FloatStorage", "0", 2), (2,))})
    with open_checkpoint(archive(body, [bytes(8)]).write(tmp_path / "x")) as source:
        assert source.names() == ("lora_A",)
