"""Strategies of the authors' package ("cuda fp16 *10 -> cpu fp32"), and the storage type that stands for them here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rwkv_cy.dtypes import QUANTIZED_TYPES
from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass

__all__ = ["Strategy"]

_STAGE = re.compile(
    r"(?P<device>cuda(?::\d+)?|cpu|mps|dml) +(?P<type>fp32|fp16|bf16)(?P<bits>i[843])?(?P<layers> +\*\d+\+?)?"
)
#: Types here for those of a strategy, the most precise first; types of one group have as many bits.
_GROUPS = (("f64",), ("f32",), ("f16", "bf16", "bf12"), ("q8",), ("q6",), ("q4", "q4n"))
_PLAIN = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_BITS = {"i8": "q8", "i4": "q4", "i3": "q4"}


def _rank(dtype: str) -> int:
    return next(rank for rank, group in enumerate(_GROUPS) if dtype in group)


@dataclass(frozen=True)
class Strategy:
    """What a strategy means here.

    Attributes
    ----------
    text : str
        The strategy.
    dtype : str
        The type that its most precise part stores matrices in, as :func:`rwkv_cy.load` names it.
    ignored : sequence of str
        What has no meaning on one CPU, in words.
    """

    text: str
    dtype: str
    ignored: Sequence[str]

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """Read a strategy.

        Raises
        ------
        ConfigError
            If it is not one.
        """
        stages = [_STAGE.fullmatch(stage.strip()) for stage in text.split("->")]
        known = [stage for stage in stages if stage is not None]
        if len(known) != len(stages):
            raise ConfigError(
                f'strategy: expected parts such as "cpu fp32" or "cuda fp16i8 *10+" joined by "->", got {text!r}'
            )
        dtypes = [_BITS[stage["bits"]] if stage["bits"] else _PLAIN[stage["type"]] for stage in known]
        ignored = []
        devices = sorted({stage["device"] for stage in known} - {"cpu"})
        if devices:
            ignored.append(f"{', '.join(devices)}: this package runs on the CPU")
        if len(known) > 1 or known[0]["layers"]:
            ignored.append("numbers of layers: all layers are stored alike")
        return cls(text, min(dtypes, key=_rank), ignored)

    def conversion(self, stored: str) -> str | None:
        """Return the type to convert matrices to that a file stores as `stored`; None keeps them.

        Matrices never get more bits, which would add nothing, and those that are quantized are not quantized again.
        """
        keep = _rank(self.dtype) <= _rank(stored) or stored in QUANTIZED_TYPES
        return None if keep else self.dtype

    def warning(self, dtype: str) -> str | None:
        """Return what to tell about a model whose matrices are stored as `dtype`; None if all is as it says."""
        if not self.ignored:
            return None
        return f"strategy {self.text!r}: ignored {'; '.join(self.ignored)}; the matrices are {dtype}"
