"""What a model needs in memory, and how fast it can be on this machine, by the type that it is loaded in."""

from __future__ import annotations

from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.config import Config
from rwkv_cy.tensors.policy import choose
from rwkv_cy.toolkit.file_report import Expectation, Machine

__all__ = ["PRECISIONS", "expectations", "state_bytes"]

#: Types that a model is loaded in; None stands for the file's own.
PRECISIONS = (None, "f32", "bf16", "q8", "q6", "q4")
#: Kinds of parameters that decode reads whole for each token.
_READ = ("matrix", "head", "low_rank")


def expectations(checkpoint: Checkpoint, machine: Machine) -> tuple[Expectation, ...]:
    """Return what to expect of a model that can be loaded, for each of PRECISIONS."""
    state = state_bytes(checkpoint.config)
    return tuple(_expectation(checkpoint, dtype, state, machine) for dtype in PRECISIONS)


def _expectation(checkpoint: Checkpoint, dtype: str | None, state: int, machine: Machine) -> Expectation:
    memory = read = 0
    for alike in checkpoint.alike:
        spec = alike.spec
        if spec.kind == "table":  # stays in the file
            continue
        nbytes = alike.count * choose(checkpoint.source, spec, dtype).info.nbytes
        memory += nbytes
        if spec.kind in _READ and not spec.optional:
            read += nbytes
    token = read + 2 * state
    fits = None if machine.available_memory is None else memory <= machine.available_memory
    bandwidth = None if fits is False else machine.read_bandwidth
    return Expectation(dtype, memory, token, fits, None if bandwidth is None else bandwidth / token)


def state_bytes(config: Config) -> int:
    """Return the bytes of the state of one sequence, in the model's type."""
    numbers = sum(field.size for field in architecture_of(config).state_fields(config))
    return config.num_layers * numbers * (8 if config.compute_dtype == "f64" else 4)
