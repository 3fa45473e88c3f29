"""Models in GGUF files, whole or split, with the names and shapes that llama.cpp gives to their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.ggml.source import GgmlSource
from rwkv_cy.formats.gguf.container import Container, read_container
from rwkv_cy.formats.gguf.header import Value
from rwkv_cy.formats.gguf.vocabulary import MODEL, RWKV, TOKENS
from rwkv_cy.formats.layouts.gguf import GGUF_ARCHITECTURES, GGUF_RELATIVES
from rwkv_cy.formats.metadata import LAYER_NORM_EPSILON, TOKENIZER_PATH
from rwkv_cy.formats.shards import MAX_SHARDS, Shards
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["open_gguf"]

_ARCHITECTURE, _KIND = "general.architecture", "general.type"
_EPSILON = "attention.layer_norm_epsilon"
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
#: How llama-gguf-split calls the first part.
_FIRST = r"(.+)-00001-of-([0-9]{5})\.gguf"
_LAYER = re.compile(r"blk\.([0-9]+)\.")


class GgufFile(GgmlSource):
    """One open GGUF file; quantized tensors read as float32."""

    def __init__(self, file: FileBytes, container: Container) -> None:
        values = container.values
        super().__init__(file, "gguf", container.tensors, {key: _shown(value) for key, value in values.items()})
        own = {}
        epsilon = values.get(f"{values.get(_ARCHITECTURE)}.{_EPSILON}")
        if epsilon is not None:
            own[LAYER_NORM_EPSILON] = str(epsilon)
        if values.get(MODEL) == RWKV and TOKENS in values:
            own[TOKENIZER_PATH] = str(file.path)
        self.metadata = {**self.metadata, **own}
        self.values = values


def _shown(value: Value) -> str:
    """Return a value as text: truth values as in JSON, arrays as their length and type."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def open_gguf(path: Path) -> ParameterSource:
    """Open a model in a GGUF file, or in several of which this is the first.

    Metadata is that of the file, as texts, arrays as their type and length; and ``tokenizer_path`` where it has a
    vocabulary.

    Raises
    ------
    FormatError
        If a file violates the format, or its metadata contradicts its tensors.
    UnsupportedError
        If it is of another version of the format, holds another kind of model, or is not the first of several files.
    StorageError
        If the operating system reports an error.
    """
    first = _open_file(path)
    try:
        parts = _integer(path, first.values, _COUNT, 1)
        number = _integer(path, first.values, _NUMBER, 0)
        if number:
            raise UnsupportedError(
                f"{path}: expected the first of {parts} parts of a model, got part {number} (counted from 0); "
                f"name the file that ends with -00001-of-{parts:05}.gguf"
            )
        _check_architecture(path, first.values)
        source = first if parts <= 1 else _open_parts(path, first, parts)
    except BaseException:
        first.close()
        raise
    try:
        _check_dimensions(source, first.values)
    except BaseException:
        source.close()
        raise
    return source


def _open_file(path: Path) -> GgufFile:
    file = FileBytes(path)
    try:
        return GgufFile(file, read_container(file))
    except BaseException:
        file.close()
        raise


def _integer(path: Path, values: Mapping[str, Value], key: str, default: int | None = None) -> int:
    value = values.get(key, default)
    if type(value) is not int or value < 0:
        shown = "none" if value is None else str(value)[:40]
        raise FormatError(f"{path}: {key}: expected an integer from 0 up, got {shown}; the file is damaged")
    return value


def _check_architecture(path: Path, values: Mapping[str, Value]) -> None:
    """Check that the file holds a model that this package runs."""
    known = ", ".join(GGUF_ARCHITECTURES)
    kind = values.get(_KIND, "model")
    if kind != "model":
        raise UnsupportedError(
            f"{path}: expected a GGUF file of a model, got one of type {str(kind)[:40]!r}; name the model's file"
        )
    name = values.get(_ARCHITECTURE)
    if name in GGUF_RELATIVES:
        raise UnsupportedError(
            f"{path}: expected a model of {known}, got {name}: {GGUF_RELATIVES[str(name)]}; run it with llama.cpp"
        )
    if name not in GGUF_ARCHITECTURES:
        shown = "none" if name is None else repr(str(name)[:40])
        raise UnsupportedError(
            f"{path}: {_ARCHITECTURE}: expected one of {known}, got {shown}, which is not RWKV; run it with llama.cpp"
        )


def _check_dimensions(source: ParameterSource, values: Mapping[str, Value]) -> None:
    """Compare the dimensions that the metadata states with the tensors."""
    path, name = source.path, str(values[_ARCHITECTURE])
    layers = {int(match[1]) for tensor in source.names() if (match := _LAYER.match(tensor))}
    expected = {"block_count": len(layers)}
    for key, (template, axis) in GGUF_ARCHITECTURES[name].dimensions.items():
        last = max(layers, default=0)
        tensor = template.format(last=last)
        # Layer 0 of a model of one layer has other tensors in place of those that it does not need.
        if (last or tensor == template) and tensor in source.names() and axis < len(shape := source.info(tensor).shape):
            expected[key] = shape[axis]
    for key, found in expected.items():
        stated = _integer(path, values, f"{name}.{key}", found)
        if stated != found:
            raise FormatError(
                f"{path}: {name}.{key}: expected {found}, as the tensors have, got {stated}; "
                "the file is incomplete or damaged: download or convert it again"
            )
    # What the tensors do not show, and the layout needs.
    if _integer(path, values, f"{name}.wkv.head_size") < 1:
        raise FormatError(f"{path}: {name}.wkv.head_size: expected 1 or more, got 0; the file is damaged")
    _integer(path, values, f"{name}.rescale_every_n_layers", 0)


def _open_parts(path: Path, first: GgufFile, count: int) -> Shards:
    """Open the other parts of a model, which have the names that llama-gguf-split gives them."""
    match = re.fullmatch(_FIRST, path.name)
    if match is None or int(match[2]) != count or count > MAX_SHARDS:
        raise UnsupportedError(
            f"{path}: expected a whole model, or the first of at most {MAX_SHARDS} parts with a name that ends with "
            f"-00001-of-{count:05}.gguf; give the parts the names of llama-gguf-split, or merge them with "
            "llama-gguf-split --merge"
        )
    homes: dict[str, ParameterSource] = dict.fromkeys(first.names(), first)
    shards = [first]
    with ExitStack() as stack:
        for number in range(1, count):
            part = _open_file(path.with_name(f"{match[1]}-{number + 1:05}-of-{count:05}.gguf"))
            stack.callback(part.close)
            shards.append(part)
            found = (_integer(part.path, part.values, _NUMBER), _integer(part.path, part.values, _COUNT))
            if found != (number, count):
                raise FormatError(
                    f"{part.path}: expected part {number} of {count} (counted from 0), as its name says, got part "
                    f"{found[0]} of {found[1]}; download the parts again"
                )
            for name in part.names():
                if homes.setdefault(name, part) is not part:
                    raise FormatError(
                        f"{part.path}: {name}: expected it in one part, got it in {homes[name].path.name} too; "
                        "download the parts again"
                    )
        total = _integer(path, first.values, _TENSORS, len(homes))
        if total != len(homes):
            raise FormatError(
                f"{path}: {_TENSORS}: expected {total} tensors in {count} parts, got {len(homes)}; "
                "download the parts again"
            )
        stack.pop_all()
    return Shards(path, homes, shards)
