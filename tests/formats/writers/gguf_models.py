"""Small random models that llama.cpp runs, in the forms that the tests of GGUF exports start from."""

from __future__ import annotations

from pathlib import Path

from checkpoints import random_checkpoint, write_safetensors
from formats.foreign import Array
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.formats.layouts.gguf import GGUF_ARCHITECTURES

#: By name: heads of the released size, and of a smaller one; more layers than one.
CONFIGS = {
    f"{name}, heads of {head_size}": Config(
        d_model=128, num_layers=layers, vocab_size=300, d_ffn=256, architecture=name, head_size=head_size
    )
    for name in GGUF_ARCHITECTURES
    for head_size, layers in ((64, 3), (32, 2))
}


def complete(config: Config) -> Config:
    return architecture_of(config).complete(config)


def parameters_of(config: Config) -> dict[str, Array]:
    """Every parameter but an initial state, which llama.cpp has no place for."""
    parameters = random_checkpoint(complete(config))
    return {name: array for name, array in parameters.items() if not name.endswith(".time_state")}


def write_source(path: Path, config: Config) -> Path:
    return write_safetensors(path, parameters_of(config))
