"""Untrusted JSON: one object, with limits on its tokens and nesting, and no duplicate keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from rwkv_cy.errors import FormatError
from rwkv_cy.files.json_text import count_keys, measure

__all__ = ["parse_object"]

#: Quotes, commas and brackets: bounds the time of the parse and the memory of its result. MAX_TENSORS tensors fit.
MAX_TOKENS = 3_000_000
MAX_DEPTH = 32
#: 2**64 has 20 digits; longer ones only cost time.
MAX_DIGITS = 20


def parse_object(
    path: Path, what: str, raw: bytes, max_depth: int = MAX_DEPTH, *, allow_nan: bool = False
) -> dict[str, Any]:
    """Parse `raw` as one JSON object.

    Parameters
    ----------
    path : Path
        The file, for messages.
    what : str
        What `raw` is, for messages (``"header"``).
    raw : bytes
        The text, in UTF-8.
    max_depth : int
        Deepest allowed nesting of objects and arrays.
    allow_nan : bool, default False
        Whether NaN, Infinity and -Infinity are numbers, as Python writes them.

    Raises
    ------
    FormatError
        If it is not valid UTF-8, JSON or an object, is nested too deeply, has too many tokens, a duplicate key, an
        integer of more than 20 digits, or NaN or Infinity where they are not allowed.
    """
    import json  # not needed for every format

    def refuse(problem: str) -> NoReturn:
        raise FormatError(f"{path}: {what}: expected a plain JSON object, got {problem}; the file is damaged")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            refuse(f"the key {twice[:80]!r} twice")
        return result

    def integer(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            refuse(f"an integer of {len(digits)} digits")
        return int(digits)

    def constant(name: str) -> float:
        return float(name) if allow_nan else refuse(name)

    marks, depth, digits, keys = measure(raw)
    if marks > MAX_TOKENS:
        refuse(f"more than {MAX_TOKENS} parts")
    if depth > max_depth:
        refuse(f"more than {max_depth} levels of nesting")
    # A function for each integer would take longer than all the rest.
    options: dict[str, Any] = {"parse_int": integer if digits > MAX_DIGITS else int, "parse_constant": constant}
    try:
        text = raw.decode("utf-8")
        result = json.loads(text, **options)
        if count_keys(result) < keys:  # a function for each object would take as long as all the rest
            json.loads(text, object_pairs_hook=unique, **options)
    except FormatError:
        raise
    except UnicodeDecodeError:
        refuse("bytes that are not valid UTF-8")
    except ValueError as error:
        refuse(f"something else ({error})")
    if not isinstance(result, dict):
        refuse(f"a JSON {type(result).__name__}")
    return result
