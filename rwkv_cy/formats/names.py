"""Other people's names and shapes of RWKV's parameters, brought back to those of the original checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

__all__ = ["canonical_shape", "from_huggingface", "is_huggingface", "is_rwkv4"]

_HUGGINGFACE = re.compile(r"(rwkv\.)?(embeddings\.weight$|blocks\.\d+\.(attention|feed_forward|pre_ln)\.)")

_PARTS = {
    "embeddings": "emb",
    "pre_ln": "ln0",
    "attention": "att",
    "feed_forward": "ffn",
    "time_mix_key": "time_mix_k",
    "time_mix_value": "time_mix_v",
    "time_mix_receptance": "time_mix_r",
    "time_mix_gate": "time_mix_g",
}


def is_huggingface(names: Iterable[str]) -> bool:
    """Tell whether these are names of Hugging Face's RWKV (``rwkv.blocks.0.attention.key.weight``)."""
    return any(_HUGGINGFACE.match(name) for name in names)


def from_huggingface(name: str) -> str:
    """Return the original name of a parameter that Hugging Face's RWKV calls `name`.

    Source: transformers, convert_rwkv_checkpoint_to_hf.py.
    """
    return ".".join(_PARTS.get(part, part) for part in name.removeprefix("rwkv.").split("."))


def is_rwkv4(names: Iterable[str]) -> bool:
    """Tell whether these original names are those of RWKV-4: a time_first, and no normalisation after the WKV."""
    names = tuple(names)
    return any(name.endswith(".att.time_first") for name in names) and not any(".att.ln_x." in name for name in names)


def canonical_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that the original RWKV-4 checkpoints give to the parameter `name`.

    web-rwkv and rwkv.cpp squeeze the vectors of the time mix; here they get their [1, 1, C] and [A] back. Any shape
    that is more than a vector is returned as it is.
    """
    size = math.prod(shape)
    if max(shape, default=0) != size:
        return shape
    if name.endswith((".att.time_decay", ".att.time_first")):
        return (size,)
    if ".att.time_mix_" in name or ".ffn.time_mix_" in name:
        return (1, 1, size)
    return shape
