"""Fuzz target: the HDF5 model file, with its checksums as they are and with checksums made to fit the damage.

The package reads a model file without HDF5's library, so that target runs in this process. The check of the HDF5
objects, which "verify" makes, runs in another, as it does in the package: a crash of the library does no harm there.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.reading import read_everything, written
from rwkv_cy.errors import RWKVError
from rwkv_cy.storage import ModelHeader, open_model
from storage.small import (
    BARE_HEADER,
    HEADER,
    Array,
    few_tensors,
    packed_tensors,
    python,
    quantized_tensors,
    tensors,
    transposed_tensors,
    write_small,
)

_PAGE = 4096
_FOOTER = struct.Struct("<8sIIIIQQQQI")
_ENTRY = re.compile(
    rb'"dtype":"(\w+)","shape":\[([0-9,]{1,40})\](?:,"matrix_shape":\[[0-9,]+\])?'
    rb',"offset":([0-9]{1,18}),"crc32":([0-9]+)'
)
_SIZES = {b"u8": 1, b"q8": 1, b"q6": 1, b"q4": 1, b"bf12": 1, b"f16": 2, b"bf16": 2, b"f32": 4, b"f64": 8}

_HDF5 = """
import json
from pathlib import Path
from rwkv_cy.errors import RWKVError
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.structure import structure_problems
for line in sys.stdin:
    try:
        with CheckedFile(Path(json.loads(line)), "model") as checked:
            structure_problems(checked)
    except RWKVError:
        pass
    except Exception as error:
        print(json.dumps(repr(error)), flush=True)
        continue
    print("null", flush=True)
"""


def _seed(contents: dict[str, tuple[str, Array]], header: ModelHeader) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        write_small(path, contents, header)
        return path.read_bytes()


@cache
def seeds() -> tuple[bytes, ...]:
    """Return a file of plain numbers in every layout, one as small as can be, a quantized one, and one of the rest."""
    contents = few_tensors(), _few_quantized(), {**packed_tensors(), **_few_transposed()}
    return _seed(tensors(), HEADER), *(_seed(tensors_of, BARE_HEADER) for tensors_of in contents)


def _few_quantized() -> dict[str, tuple[str, Array]]:
    large = "blocks.1.ffn.key.weight"
    return {name: value for name, value in quantized_tensors().items() if name != large}


def _few_transposed() -> dict[str, tuple[str, Array]]:
    large = "blocks.4.ffn.value.weight"
    return {name: value for name, value in transposed_tensors().items() if name != large}


def with_checksums(data: bytes) -> bytes:
    """Return the file with checksums that fit what it holds by now, as far as the footer and the index can be read."""
    raw = bytearray(data)
    if len(raw) < 2 * _PAGE:
        return data
    start = len(raw) - _PAGE
    magic, major, minor, complete, _, size, metadata, offset, length, _ = _FOOTER.unpack_from(raw, start)
    if offset + length <= len(raw):
        index = bytes(raw[offset : offset + length])
        for entry in reversed(list(_ENTRY.finditer(index))):
            new = b"%d" % zlib.crc32(raw[int(entry[3]) : int(entry[3]) + _nbytes(entry)])
            index = index[: entry.start(4)] + new + index[entry.end(4) :]
        index = index.rstrip().ljust(length)
        if len(index) == length:
            raw[offset : offset + length] = index
    sums = zlib.crc32(raw[:metadata]), zlib.crc32(raw[offset : offset + length])
    _FOOTER.pack_into(raw, start, magic, major, minor, complete, sums[0], size, metadata, offset, length, sums[1])
    struct.pack_into("<I", raw, len(raw) - 4, zlib.crc32(raw[start:-4]))
    return bytes(raw)


def _nbytes(entry: re.Match[bytes]) -> int:
    count = _SIZES.get(entry[1], 0)
    for size in entry[2].split(b","):
        count *= int(size or 0)
    return min(count, 1 << 32)


class Hdf5:
    """A process that looks at the HDF5 objects of one file after the other; begun again if the library crashes."""

    def __init__(self) -> None:
        self.crashes = 0
        self._process: subprocess.Popen[str] | None = None

    def look(self, path: Path) -> None:
        """Raise AssertionError if the check of the objects ends in anything but an error of the package."""
        if self._process is None:
            self._process = subprocess.Popen(
                python(_HDF5), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("the process has no pipes")
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self.crashes += 1
            self.close()
        elif json.loads(answer) is not None:
            raise AssertionError(f"the check of the HDF5 objects raised {json.loads(answer)}")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


HDF5 = Hdf5()


def fuzz_one(data: bytes) -> None:
    """Open a file of these bytes, and one with checksums that fit, read all of it, and look at its HDF5 objects."""
    failure: RWKVError | None = None
    for content in (data, with_checksums(data)):
        with written(content) as path:
            try:
                with open_model(path) as source:
                    read_everything(source, len(content))
            except RWKVError as error:
                failure = error
                continue
            HDF5.look(path)
    if failure is not None:
        raise failure
