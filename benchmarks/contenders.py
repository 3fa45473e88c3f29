"""Who is measured: each opens a model and gives back one function, tokens and state in, logits and state out.

Imported by other interpreters as well, so that nothing is imported here that not all of them have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

__all__ = ["CONTENDERS", "Contender", "Forward"]

#: ``forward(tokens, state)`` returns the logits after the last token, and the state; None is the first state.
Forward = Callable[[Sequence[int], Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Contender:
    """One of those that are measured.

    Attributes
    ----------
    modules : tuple of str
        What it has to import before it can open a model.
    open : callable
        ``open(path, dtype, threads)`` gives the function.
    """

    modules: tuple[str, ...]
    open: Callable[[str, str, int], Forward]


def _open_rwkv_cy(path: str, dtype: str, threads: int, memory: Literal["map", "resident"] = "map") -> Forward:
    import rwkv_cy

    model = rwkv_cy.load(path, memory=memory)
    return lambda tokens, state: model.forward(tokens, state, num_threads=threads)


def _open_numpy(path: str, dtype: str, threads: int) -> Forward:
    from benchmarks.plain_numpy import PlainNumpy, read_float32
    from rwkv_cy.sources import open_source

    with open_source(path) as source:
        model = PlainNumpy(read_float32(source))

    def forward(tokens: Sequence[int], state: Any) -> tuple[Any, Any]:
        state = model.initial_state() if state is None else state
        return model.forward(tokens, state), state

    return forward


def _open_rwkv(path: str, dtype: str, threads: int) -> Forward:
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(threads)
    strategy = {"f32": "cpu fp32", "bf16": "cpu bf16", "f16": "cpu fp16"}[dtype]
    model = RWKV(model=path.removesuffix(".pth"), strategy=strategy)

    def forward(tokens: Sequence[int], state: Any) -> tuple[Any, Any]:
        logits, state = model.forward(list(tokens), state)
        return logits.float().numpy(), state

    return forward


_RWKV_CY = ("numpy", "rwkv_cy", "rwkv_cy.language_model")
CONTENDERS = {
    "rwkv_cy": Contender(_RWKV_CY, _open_rwkv_cy),
    "rwkv_cy, resident": Contender(_RWKV_CY, partial(_open_rwkv_cy, memory="resident")),
    "numpy": Contender(("numpy", "rwkv_cy", "rwkv_cy.sources", "benchmarks.plain_numpy"), _open_numpy),
    "rwkv": Contender(("torch", "rwkv.model"), _open_rwkv),
}
