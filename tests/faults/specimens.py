"""Small valid files of every format, and what people do with each: what the campaign of damage changes and reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkpoints import write_safetensors
from formats.foreign import rwkv4_parameters, rwkv7_parameters, rwkvcpp_bytes, safetensors_bytes
from formats.make_gguf import rwkv7_gguf
from formats.make_pth import Entry, legacy_checkpoint, zip_checkpoint
from rwkv_cy import RWKVError, convert, export, inspect, load, merge, verify
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import HEADER_PATH, TOKENIZER_PATH
from rwkv_cy.text.tokenizers.find import find_tokenizer
from rwkv_cy.toolkit.parts import join, shard
from text.samples import byte_level_json, line, world_tokens
from toolkit.adapters import draw

__all__ = ["SPECIMENS", "Specimen", "read_bytes"]

Array = npt.NDArray[Any]
_WIDTH = 4


@dataclass(frozen=True)
class Specimen:
    """A valid file, and what is done with it.

    Attributes
    ----------
    name : str
    file : Path
        The file that is damaged; others beside it belong to the same model.
    read : callable
        Yields the result of everything that is done with it, each as bytes. Errors of the package are raised or end a
        step without a result.
    checked : bool
        Whether every byte that a result depends on is under a checksum: then a result is the right one.
    numbers : collection of int
        Offsets of the bytes of the tensors: of these, not every bit is flipped, even in the longest run.
    refused : bool
        Whether the file is valid but not supported, so that there are no results.
    """

    name: str
    file: Path
    read: Callable[[], Iterator[bytes]]
    checked: bool = False
    numbers: Collection[int] = ()
    refused: bool = False


def _four() -> dict[str, Array]:
    return rwkv4_parameters(3, 2, 1, 2)


def _seven() -> dict[str, Array]:
    return rwkv7_parameters(6, (1, _WIDTH), 1)


def _stored(arrays: dict[str, Array]) -> dict[str, tuple[str, Array]]:
    return {name: ("f32", array.astype("<f4")) for name, array in arrays.items()}


def _logits(path: Path, **options: Any) -> bytes:
    with load(path, **options) as model:
        return model.forward([1])[0].tobytes()


def _model(root: Path, scratch: Path) -> Callable[[], Iterator[bytes]]:
    """Inspect, verify and convert a model, load it mapped and into memory, and run a token."""

    def read() -> Iterator[bytes]:
        for work in (inspect, verify):
            with suppress(RWKVError):
                str(work(root))
        target = scratch / "converted.h5"
        with suppress(RWKVError):
            convert(root, target, tokenizer="none", overwrite=True)
            yield _logits(target)
        with suppress(RWKVError):
            yield _logits(root, mmap=False)
        _logits(root)

    return read


def _file(name: str, data: bytes, folder: Path, arrays: Mapping[str, Array], **options: Any) -> Specimen:
    path = folder / name.replace(" ", "-")
    path.write_bytes(data)
    return Specimen(name, path, _model(path, folder), numbers=_found(arrays, data), **options)


def _found(arrays: Mapping[str, Array], data: bytes) -> frozenset[int]:
    """Return the offsets of the bytes of arrays in a file that holds them as they are."""
    found: set[int] = set()
    for array in arrays.values():
        start = data.find(array.astype("<f4").tobytes())
        found.update(range(start, start + 4 * array.size) if start >= 0 else ())
    return frozenset(found)


def _h5(folder: Path) -> Specimen:
    path = folder / "model.h5"
    convert(write_safetensors(folder / "source", _four()), path, tokenizer="none")
    return Specimen("model file (HDF5)", path, _model(path, folder), checked=True, numbers=_numbers(path))


def _numbers(path: Path) -> range:
    """Return where the numbers of a model file or state are, and the padding between them."""
    with CheckedFile(path, None) as checked:
        entries = [entry for name, entry in checked.entries.items() if name not in (HEADER_PATH, TOKENIZER_PATH)]
        numbers = range(
            min(entry.offset for entry in entries), max(entry.offset + entry.spec.nbytes for entry in entries)
        )
        if checked.entries[HEADER_PATH].offset in numbers or checked.footer.index_offset in numbers:
            raise AssertionError(f"{path}: the header or the index is among the numbers")
    return numbers


def _torchscript(folder: Path) -> Specimen:
    archive = zip_checkpoint(_stored(_four()))
    archive.entries += [Entry("small/constants.pkl", b"\x80\x02)."), Entry("small/code/__torch__.py", b"class M: pass")]
    return _file("TorchScript program", archive.to_bytes(), folder, _four(), refused=True)


def _web_rwkv(folder: Path) -> Specimen:
    path = folder / "model.st"
    export(write_safetensors(folder / "source", _seven()), path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    numbers = range(header, path.stat().st_size)
    return Specimen("safetensors of web-rwkv (.st)", path, _model(path, folder), numbers=numbers)


def _hub(folder: Path) -> Path:
    root = folder / "hub"
    export(
        write_safetensors(folder / "source", rwkv7_parameters(6, (1, 64), 1)),
        root,
        format="huggingface",
        tokenizer="none",
        shard_size=20_000,
    )
    return root


def _config(folder: Path) -> Specimen:
    root = _hub(folder)
    return Specimen("config.json of a folder", root / "config.json", _model(root, folder))


def _index(folder: Path) -> Specimen:
    root = _hub(folder)
    return Specimen("index of a folder of shards", root / "model.safetensors.index.json", _model(root, folder))


def _state(folder: Path) -> Specimen:
    source, path = write_safetensors(folder / "source", _seven()), folder / "state.h5"
    model = load(source, mmap=False)
    model.forward([1, 2])[1].save(path)

    def read() -> Iterator[bytes]:
        yield model.forward([3], model.load_state(path))[0].tobytes()

    return Specimen("state file", path, read, checked=True, numbers=_numbers(path))


def _tuned_state(folder: Path) -> Specimen:
    source, path = write_safetensors(folder / "source", _seven()), folder / "state.pth"
    model = load(source, mmap=False)
    states = {"blocks.0.att.time_state": draw(1, _WIDTH, _WIDTH)}
    path.write_bytes(zip_checkpoint(_stored(states)).to_bytes())

    def read() -> Iterator[bytes]:
        yield model.forward([3], model.load_state(path))[0].tobytes()

    return Specimen("tuned state (.pth)", path, read, checked=True)


def _adapter(folder: Path) -> Specimen:
    source, path, target = write_safetensors(folder / "source", _seven()), folder / "lora.pth", folder / "merged.h5"
    adapter = {"blocks.0.att.key.lora_A": draw(2, _WIDTH), "blocks.0.att.key.lora_B": draw(_WIDTH, 2)}
    path.write_bytes(zip_checkpoint(_stored(adapter)).to_bytes())

    def read() -> Iterator[bytes]:
        merge(source, path, target, alpha=4, tokenizer="none", overwrite=True)
        yield _logits(target)

    return Specimen("adapter (.pth)", path, read, checked=True)


def _parts(folder: Path) -> tuple[Path, Callable[[], Iterator[bytes]]]:
    source = folder / "whole"
    source.write_bytes(np.arange(300, dtype="<u4").tobytes())
    listed = shard(source, folder, part_size=500).list

    def read() -> Iterator[bytes]:
        target = folder / "joined"
        target.unlink(missing_ok=True)
        join(listed, target)
        yield target.read_bytes()

    return listed, read


def _list(folder: Path) -> Specimen:
    listed, read = _parts(folder)
    return Specimen("list of parts", listed, read, checked=True)


def _part(folder: Path) -> Specimen:
    _, read = _parts(folder)
    return Specimen("part of a file", folder / "whole.00002-of-00003", read, checked=True)


def _vocabulary(folder: Path) -> Specimen:
    text = "".join(f"{line(i, token)}\n" for i, token in enumerate(world_tokens()[:110]) if token)
    return _tokenizer("World vocabulary", folder / "rwkv_vocab.txt", text.encode())


def _tokenizer(name: str, path: Path, data: bytes) -> Specimen:
    path.write_bytes(data)

    def read() -> Iterator[bytes]:
        yield repr(find_tokenizer(path).encode("abc")).encode()

    return Specimen(name, path, read)


#: Each makes a specimen in a folder of its own.
SPECIMENS: tuple[Callable[[Path], Specimen], ...] = (
    _h5,
    lambda folder: _file("PyTorch, zip archive", zip_checkpoint(_stored(_four())).to_bytes(), folder, {}, checked=True),
    lambda folder: _file("PyTorch, legacy", legacy_checkpoint(_stored(_four())), folder, _four()),
    _torchscript,
    lambda folder: _file("safetensors", safetensors_bytes(_four()), folder, _four()),
    _web_rwkv,
    lambda folder: _file("GGUF", rwkv7_gguf(_seven()), folder, _seven()),
    lambda folder: _file("rwkv.cpp", rwkvcpp_bytes(_four()), folder, _four()),
    _config,
    _index,
    _state,
    _tuned_state,
    _adapter,
    _list,
    _part,
    _vocabulary,
    lambda folder: _tokenizer("tokenizer.json", folder / "tokenizer.json", byte_level_json()),
)


def read_bytes(specimen: Specimen) -> list[bytes]:
    """Return the results of reading a file; fewer if the package refused it."""
    results = []
    with suppress(RWKVError):
        for result in specimen.read():  # it may raise in the middle
            results.append(result)
    return results
