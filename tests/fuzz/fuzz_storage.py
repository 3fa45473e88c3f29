"""Fuzz targets: model files and states, with their checksums as they are and with checksums that fit the damage.

The package reads both without HDF5's library, so these targets run in this process. The check of the HDF5 objects,
which "verify" makes, runs in another, as it does in the package: a crash of the library does no harm there.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import numpy as np

from fuzz import repair
from fuzz.reading import read_everything, scratch_folder, written
from fuzz.target import Target
from rwkv_cy.architectures.base import StateField
from rwkv_cy.model.state import State
from rwkv_cy.storage import ModelHeader, open_model
from storage.small import (
    BARE_HEADER,
    HEADER,
    Array,
    few_factor_tensors,
    few_tensors,
    packed_tensors,
    python,
    quantized_tensors,
    transposed_tensors,
    write_small,
)

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


def _model(contents: dict[str, tuple[str, Array]], header: ModelHeader) -> bytes:
    path = scratch_folder() / "seed.h5"
    write_small(path, contents, header)
    data = path.read_bytes()
    path.unlink()
    return data


@cache
def _models() -> tuple[bytes, ...]:
    """Return a file as small as can be, one with a tokenizer, a quantized one, and one of the other layouts."""
    quantized = {**_few(quantized_tensors()), **few_factor_tensors()}
    transposed = _few(transposed_tensors())
    few = few_tensors()
    return (
        _model(few, BARE_HEADER),
        _model(few, HEADER),
        *(_model(contents, BARE_HEADER) for contents in (quantized, {**_few(packed_tensors()), **transposed})),
    )


def _few(contents: dict[str, tuple[str, Array]]) -> dict[str, tuple[str, Array]]:
    return {name: value for name, value in contents.items() if value[1].nbytes < 3000}


@cache
def _states() -> tuple[bytes, ...]:
    """Return a state of one field, and one of three in several layers, float64."""
    found = []
    for fields, dtype in (((2,), "f32"), ((3, 2, 2), "f64")):
        table = [StateField(f"field_{i}", (size,) * i or (size,), 0.5 * i) for i, size in enumerate(fields)]
        path = scratch_folder() / "seed.state"
        State.initial("rwkv7", table, len(fields), dtype, "0123").save(path)
        found.append(path.read_bytes())
        path.unlink()
    return tuple(found)


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


def _read_model(data: bytes) -> None:
    """Open a file of these bytes and read all of it."""
    with written(data) as path, open_model(path) as source:
        read_everything(source, len(data))


def _look(data: bytes) -> None:
    """Open a file of these bytes, and look at its HDF5 objects."""
    with written(data) as path:
        open_model(path).close()
        HDF5.look(path)


def _read_state(data: bytes) -> None:
    """Load a state; all of it is a copy that can be written and named."""
    with written(data) as path:
        state = State.load(path)
    if state.nbytes > len(data) or state.data.shape[0] != len(state.layers) or not state.data.flags.writeable:
        raise AssertionError(f"{state!r} of {len(data)} bytes")
    copy = state.copy()
    if not np.array_equal(copy.data.view(np.uint8), state.data.view(np.uint8)) or copy != state:
        raise AssertionError("a copy differs")


_WORDS = tuple(
    b'"%s"' % word
    for word in (
        *(b"format", b"kind", b"datasets", b"path", b"dtype", b"shape", b"offset", b"crc32"),
        *(b"matrix_shape", b"transposed_shape"),
        *(b"model", b"state", b"attributes"),
        *(b"u8", b"f16", b"bf16", b"f32", b"f64", b"q8", b"q6", b"q4", b"q4n", b"bf12"),
        *(b"architecture", b"fingerprint", b"config", b"tokenizer", b"source", b"created_by"),
    )
)
TARGETS = (
    Target("model-file", _models, _read_model, repair.model_file, _WORDS),
    Target("hdf5-objects", lambda: _models()[:1], _look, repair.model_file, finish=HDF5.close),
    Target("state", _states, _read_state, repair.model_file, _WORDS),
)
