"""llama.cpp through the package llama-cpp-python, in an interpreter that has it: a model and its one state."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Model", "system"]

#: Tokens of a prompt per call.
_PART = 512


def system() -> str:
    """Return what llama.cpp says of its build: the instruction sets."""
    import llama_cpp

    said: bytes = llama_cpp.llama_print_system_info()
    return f"{llama_cpp.__version__}: {said.decode(errors='replace')}"


class Model:
    """A model that llama.cpp has opened.

    Parameters
    ----------
    path : str
        A GGUF file.
    threads : int
    """

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._library: Any = llama_cpp
        # It writes a hundred lines for each model.
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            sys.exit(f"{path}: expected a model that llama.cpp opens")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = _PART
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            sys.exit(f"{path}: llama.cpp did not open a context for it")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def forward(self, tokens: Sequence[int], state: Any) -> tuple[npt.NDArray[np.float32], Any]:
        """Return the logits after the last token; `state` is None for a new sequence, or what the last call gave."""
        if state is None:
            self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        for start in range(0, len(tokens), _PART):
            some = tokens[start : start + _PART]
            ids = (self._library.llama_token * len(some))(*some)
            if self._library.llama_decode(self._context, self._library.llama_batch_get_one(ids, len(some))):
                sys.exit("llama.cpp: a call failed")
        logits = self._library.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(logits, (self._vocab_size,)).copy(), self


def main() -> None:
    print(system())


if __name__ == "__main__":
    main()
