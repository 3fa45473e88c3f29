"""Groups of parameters for the optimiser: which learn faster, and which decay."""

from __future__ import annotations

from collections.abc import Mapping

from rwkv_cy.records import dataclass

__all__ = ["Group", "group_of"]


@dataclass(frozen=True)
class Group:
    """How the optimiser treats a parameter.

    Attributes
    ----------
    rate : float
        Multiplies the learning rate.
    decay : bool
        Whether weight decay applies.
    """

    rate: float = 1.0
    decay: bool = False


#: By the last part of the canonical name: decays of the state learn twice as fast, the bonus of the first token three
#: times (RWKV-LM, configure_optimizers of RWKV-v4neo, v5 and v7). A rule for one of them beats that for matrices.
_FASTER: Mapping[str, float] = {"time_decay": 2.0, "w0": 2.0, "time_first": 3.0}


def group_of(name: str, shape: tuple[int, ...]) -> Group:
    """Return the group of a parameter.

    Parameters
    ----------
    name : str
        Canonical name.
    shape : tuple of int
        Matrices are what has two dimensions larger than 1 and a name that ends in ``.weight``; they decay.
    """
    last = name.rpartition(".")[2]
    if last in _FASTER:
        return Group(rate=_FASTER[last])
    return Group(decay=last == "weight" and sum(size > 1 for size in shape) >= 2)
