"""Bounds on how much a ``tokenizer.json`` can lengthen a text; a few lines of it could exhaust the memory."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_EXPANSION", "expansion"]

#: Published tokenizers stay below 20.
MAX_EXPANSION = 1000

_PARTS = ("normalizers", "pretokenizers", "decoders")
#: Most characters that one character can become.
_FIXED = {"ByteLevel": 4.0, "Metaspace": 2.0, "BertNormalizer": 3.0}


def expansion(step: Mapping[str, Any]) -> float:
    """Return an upper bound of the factor by which a step of a tokenizer lengthens a text.

    Parameters
    ----------
    step : mapping
        A normalizer, pre-tokenizer or decoder as the ``tokenizers`` library writes it; the steps of a ``Sequence``
        multiply.
    """
    kind = step.get("type")
    if kind == "Sequence":
        return math.prod(expansion(part) for name in _PARTS for part in step.get(name, ()))
    if kind == "Replace":
        literal = step["pattern"].get("String")
        # A regular expression may match between any two characters.
        return max(1.0, len(step["content"]) / max(len(literal), 1) if literal else len(step["content"]) + 1.0)
    if kind == "Prepend":
        return len(step["prepend"]) + 1.0
    if kind == "Precompiled":
        return _longest_replacement(base64.b64decode(step["precompiled_charsmap"]))
    return _FIXED.get(str(kind), 1.0)


def _longest_replacement(charsmap: bytes) -> float:
    """Return the length of the longest of the zero-terminated texts after sentencepiece's trie."""
    size = int.from_bytes(charsmap[:4], "little")
    return float(max(1, *map(len, charsmap[4 + size :].split(b"\0"))))
