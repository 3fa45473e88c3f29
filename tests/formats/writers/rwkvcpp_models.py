"""Small random models that rwkv.cpp runs, for the tests of its files."""

from __future__ import annotations

from dataclasses import replace

from checkpoints import random_checkpoint
from formats.foreign import Array
from rwkv_cy.architectures import ARCHITECTURES, architecture_of
from rwkv_cy.config import Config

#: Ranks that fill whole blocks.
_RANKS = {"rwkv6": {"maa": 32, "decay": 64}, "rwkv7": {"w": 32, "a": 32, "v": 32, "g": 64}}
#: By architecture: two heads of the released size in each layer.
CONFIGS = {
    name: Config(
        d_model=128,
        num_layers=3,
        vocab_size=300,
        d_ffn=256,
        architecture=name,
        head_size=0 if name == "rwkv4" else 64,
        ranks=_RANKS.get(name, {}),
    )
    for name in ("rwkv4", "rwkv5.0", "rwkv5.1", "rwkv5.2", "rwkv6", "rwkv7")
    if name in ARCHITECTURES
}


def parameters_of(config: Config, seed: int = 0) -> dict[str, Array]:
    """Every parameter but an initial state, which rwkv.cpp has no place for."""
    parameters = random_checkpoint(architecture_of(config).complete(config), seed)
    return {name: array for name, array in parameters.items() if not name.endswith(".time_state")}


def with_heads_of_32(config: Config) -> Config:
    return replace(config, head_size=32 if config.head_size else 0)
