"""rwkv.cpp through ctypes: an existing build of any version of its interface, its models and their states.

What prints as it goes, or may abort, is done in a process of its own:

    python -m benchmarks.rwkvcpp LIBRARY quantize SOURCE TARGET Q8_0
    python -m benchmarks.rwkvcpp LIBRARY try MODEL 64
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.processes import run

__all__ = ["Library", "Model", "library_argument", "longest_part", "quantize"]

#: Tokens of a prompt per call. The graph has nodes for each token and a size limit that depends on the library's
#: version; a longer part aborts the process.
_PARTS = (64, 32, 16, 8, 4, 2)
_POINTER, _UINT, _SIZE = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t


class Library:
    """The functions of one library, by their older or newer names.

    Parameters
    ----------
    path : Path
        ``librwkv.so``, or what it is called elsewhere.

    Attributes
    ----------
    system : str
        What it says of itself: the instruction sets that it was built for.
    """

    def __init__(self, path: Path) -> None:
        try:
            functions = ctypes.CDLL(str(path.resolve()))
        except OSError as error:
            sys.exit(f"{path}: expected a library of rwkv.cpp: {error}")
        if not hasattr(functions, "rwkv_init_from_file"):
            sys.exit(f"{path}: expected a library of rwkv.cpp, got one without rwkv_init_from_file")
        # Newer versions also take the number of layers on a GPU; in C, an older one ignores the third argument.
        self.init = _declared(functions.rwkv_init_from_file, _POINTER, ctypes.c_char_p, _UINT, _UINT)
        self.free = _declared(functions.rwkv_free, None, _POINTER)
        self.eval = _declared(functions.rwkv_eval, ctypes.c_bool, _POINTER, _UINT, _POINTER, _POINTER, _POINTER)
        self.eval_sequence: Any = None
        if hasattr(functions, "rwkv_eval_sequence"):
            arguments = (_POINTER, _POINTER, _SIZE, _POINTER, _POINTER, _POINTER)
            self.eval_sequence = _declared(functions.rwkv_eval_sequence, ctypes.c_bool, *arguments)
        self.state_len = _length(functions, "rwkv_get_state_len", "rwkv_get_state_buffer_element_count")
        self.logits_len = _length(functions, "rwkv_get_logits_len", "rwkv_get_logits_buffer_element_count")
        text = ctypes.c_char_p
        self.quantize = _declared(functions.rwkv_quantize_model_file, ctypes.c_bool, text, text, text)
        described = _declared(functions.rwkv_get_system_info_string, text)()
        self.system = (described or b"").decode(errors="replace")


def _declared(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function


def _length(functions: ctypes.CDLL, name: str, older: str) -> Any:
    if hasattr(functions, name):
        return _declared(getattr(functions, name), _SIZE, _POINTER)
    return _declared(getattr(functions, older), _UINT, _POINTER)


class Model:
    """A model that the library has opened; a context manager that frees it.

    Parameters
    ----------
    library : Library
    path : Path
        A file of rwkv.cpp.
    threads : int
    part : int
        Tokens of a prompt at a time, as :func:`longest_part` has them; 1 calls the library for each.
    """

    def __init__(self, library: Library, path: Path, threads: int, part: int = 1) -> None:
        self._library = library
        self._part = part
        self._context = library.init(str(path).encode(), threads, 0)
        if not self._context:
            sys.exit(f"{path}: expected a model that this library of rwkv.cpp opens; what it says stands above")
        self._state_len = int(library.state_len(self._context))
        self._logits_len = int(library.logits_len(self._context))

    def forward(
        self, tokens: Sequence[int], state: npt.NDArray[np.float32] | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the logits after the last token, and the state; `state` is updated in place."""
        before = None if state is None else state.ctypes.data
        state = np.empty(self._state_len, np.float32) if state is None else state
        logits: npt.NDArray[np.float32] = np.empty(self._logits_len, np.float32)
        for start in range(0, len(tokens), self._part):
            some = tokens[start : start + self._part]
            # Logits are requested for the last part only, so that the others skip the head.
            out = logits.ctypes.data if start + self._part >= len(tokens) else None
            if len(some) == 1:
                done = self._library.eval(self._context, some[0], before, state.ctypes.data, out)
            else:
                ids = np.asarray(some, np.uint32)
                done = self._library.eval_sequence(
                    self._context, ids.ctypes.data, len(ids), before, state.ctypes.data, out
                )
            if not done:
                sys.exit("rwkv.cpp: a call failed; what it says stands above")
            before = state.ctypes.data
        return logits, state

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._library.free(self._context)


def longest_part(library: Path, model: Path) -> int:
    """Return how many tokens of a prompt the library accepts per call for this model, found by trial."""
    for part in _PARTS:
        command = [sys.executable, "-m", "benchmarks.rwkvcpp", str(library), "try", str(model), str(part)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return part
    return 1


def quantize(library: Path, source: Path, target: Path, dtype: str) -> None:
    """Quantize the matrices of the file `source` to `target`, by the library."""
    run((sys.executable, "-m", "benchmarks.rwkvcpp", str(library), "quantize", str(source), str(target), dtype))


def library_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--rwkvcpp-library`` to a benchmark."""
    parser.add_argument("--rwkvcpp-library", metavar="PATH", type=Path, help="a librwkv.so: adds rwkv.cpp")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rwkvcpp")
    parser.add_argument("library", type=Path)
    jobs = parser.add_subparsers(dest="job", required=True)
    one = jobs.add_parser("quantize")
    one.add_argument("source")
    one.add_argument("target")
    one.add_argument("dtype")
    other = jobs.add_parser("try")
    other.add_argument("model", type=Path)
    other.add_argument("part", type=int)
    arguments = parser.parse_args()
    library = Library(arguments.library)
    if arguments.job == "quantize":
        if not library.quantize(arguments.source.encode(), arguments.target.encode(), arguments.dtype.encode()):
            sys.exit(f"{arguments.source}: rwkv.cpp did not quantize it to {arguments.dtype}")
    elif library.eval_sequence is None:
        sys.exit(f"{arguments.library}: it knows single tokens only")
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with Model(library, arguments.model, 1, arguments.part) as model:
            model.forward([0] * arguments.part, None)


if __name__ == "__main__":
    main()
