"""Names of storage types: other spellings of ours, and the nearest of ours to types of other programs."""

from __future__ import annotations

__all__ = ["canonical_name", "nearest_type"]

#: Other names of our types, in lower case.
_ALIASES = {
    **dict.fromkeys(("fp64", "float64", "double"), "f64"),
    **dict.fromkeys(("fp32", "float32", "float"), "f32"),
    **dict.fromkeys(("fp16", "float16", "half"), "f16"),
    **dict.fromkeys(("bfloat16", "bfp16"), "bf16"),
}
#: Prefixes of the types of other programs, in lower case, and the type here with about as many bits.
_NEAREST = {
    **dict.fromkeys(("q8", "int8", "i8", "uint8", "8bit"), "q8"),
    **dict.fromkeys(("q6", "q5", "int6", "int5"), "q6"),
    **dict.fromkeys(("q4n", "q4_k", "iq4", "nf4", "fp4"), "q4n"),
    **dict.fromkeys(("q4", "q3", "int4", "i4", "4bit"), "q4"),
    **dict.fromkeys(("fp8", "f8", "float8"), "q8"),
}


def canonical_name(name: str) -> str:
    """Return our name of a type that has several (``"f16"`` for ``"float16"``), in lower case."""
    lower = name.lower()
    return _ALIASES.get(lower, lower)


def nearest_type(name: str) -> str | None:
    """Return the type of ours with as many bits as one of another program (``"q8"`` for ``"Q8_0"``), if it is one."""
    lower = name.lower()
    return next((ours for theirs, ours in _NEAREST.items() if lower.startswith(theirs)), None)
