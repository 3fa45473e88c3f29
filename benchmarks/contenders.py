"""The contenders: each opens a model and returns a function from tokens and state to logits and state.

Imported by other interpreters as well, so that nothing is imported here that not all of them have.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["CONTENDERS", "Contender", "Forward", "Task"]

#: ``forward(tokens, state)`` returns the logits after the last token, and the state; None is the initial state.
Forward = Callable[[Sequence[int], Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Task:
    """The model that a contender opens.

    Attributes
    ----------
    path : str
        The model.
    dtype : str
        For those who convert what they open.
    threads : int
    library : str, optional
        The shared library of a contender that is one.
    """

    path: str
    dtype: str
    threads: int
    library: str | None = None


@dataclass(frozen=True)
class Contender:
    """One program that is measured.

    Attributes
    ----------
    modules : tuple of str
        What it has to import before it can open a model.
    open : callable
        Gives the function for a task.
    """

    modules: tuple[str, ...]
    open: Callable[[Task], Forward]


def _open_rwkv_cy(task: Task, mmap: bool = True) -> Forward:
    import rwkv_cy

    # "bf16+" is a bf16 model with activations rounded to bf16.
    rounded = "bf16" if task.dtype.endswith("+") else "f32"
    model = rwkv_cy.load(task.path, mmap=mmap, activations=rounded)
    return lambda tokens, state: model.forward(tokens, state, in_place=True, num_threads=task.threads)


def _open_numpy(task: Task) -> Forward:
    from benchmarks.plain_numpy import PlainNumpy, read_float32
    from rwkv_cy.checkpoint.checkpoint import open_source

    with open_source(task.path) as source:
        model = PlainNumpy(read_float32(source))

    def forward(tokens: Sequence[int], state: Any) -> tuple[Any, Any]:
        state = model.initial_state() if state is None else state
        return model.forward(tokens, state), state

    return forward


def _rwkv_package(*, version_7: bool) -> ModuleType:
    """Return a copy of rwkv.model of its own.

    The module reads the environment as it is imported, for its switches and for the versions that it runs, and again as
    it opens a model.
    """
    os.environ.update(RWKV_V7_ON=str(int(version_7)), RWKV_JIT_ON="1", RWKV_CUDA_ON="0")
    spec = importlib.util.find_spec("rwkv.model")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("the rwkv package is not installed: pip install rwkv", name="rwkv")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _open_rwkv(task: Task) -> Forward:
    import torch

    package = _rwkv_package(version_7=False)
    torch.set_num_threads(task.threads)
    strategy = {"f32": "cpu fp32", "bf16": "cpu bf16", "f16": "cpu fp16"}[task.dtype]
    model = package.RWKV(model=task.path.removesuffix(".pth"), strategy=strategy)

    def forward(tokens: Sequence[int], state: Any) -> tuple[Any, Any]:
        logits, state = model.forward(list(tokens), state)
        return logits.float().numpy(), state

    return forward


def _open_rwkv7(task: Task) -> Forward:
    import torch

    package = _rwkv_package(version_7=True)
    torch.set_num_threads(task.threads)
    strategy = {"f32": "cpu fp32", "bf16": "cpu bf16"}[task.dtype]
    model = package.RWKV(model=task.path.removesuffix(".pth"), strategy=strategy)

    def forward(tokens: Sequence[int], state: Any) -> tuple[Any, Any]:
        state = model.generate_zero_state() if state is None else state
        logits, state = model.forward(list(tokens), state)
        return logits.float().numpy(), state

    return forward


def _open_transformers(task: Task) -> Forward:
    import torch
    from transformers import RwkvForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(task.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[task.dtype]
    model = RwkvForCausalLM.from_pretrained(task.path, dtype=dtype).eval()

    def forward(tokens: Sequence[int], state: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            ids = torch.tensor([list(tokens)])
            encoded = model.rwkv(ids, state=state, use_cache=True)
            # The complete model would compute logits for every token of a prompt.
            logits = model.head(encoded.last_hidden_state[0, -1])
        return logits.float().numpy(), encoded.state

    return forward


def _open_rwkvcpp(task: Task) -> Forward:
    from benchmarks.rwkvcpp import Library, Model, longest_part

    path, library = Path(task.path), Path(task.library or "")
    return Model(Library(library), path, task.threads, longest_part(library, path)).forward


def _open_llamacpp(task: Task) -> Forward:
    from benchmarks.llamacpp import Model

    return Model(task.path, task.threads).forward


_RWKV_CY = ("numpy", "rwkv_cy", "rwkv_cy.model.language_model")
CONTENDERS = {
    "rwkv_cy": Contender(_RWKV_CY, _open_rwkv_cy),
    "rwkv_cy, resident": Contender(_RWKV_CY, partial(_open_rwkv_cy, mmap=False)),
    "numpy": Contender(("numpy", "rwkv_cy", "rwkv_cy.checkpoint.checkpoint", "benchmarks.plain_numpy"), _open_numpy),
    "rwkv": Contender(("torch", "rwkv.model"), _open_rwkv),
    "rwkv, version 7": Contender(("torch",), _open_rwkv7),
    "transformers": Contender(("torch", "transformers"), _open_transformers),
    "rwkv.cpp": Contender(("numpy", "benchmarks.rwkvcpp"), _open_rwkvcpp),
    "llama.cpp": Contender(("numpy", "llama_cpp"), _open_llamacpp),
}
