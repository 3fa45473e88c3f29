"""Vocabularies of bytes as data: the World vocabulary's text formats, and the packed form stored in model files."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import TokenizerError
from rwkv_cy.files.vocabulary_files import WORLD_SIZE, WORLD_USED

__all__ = [
    "MAX_VOCABULARY_BYTES",
    "WORLD_SIZE",
    "WORLD_USED",
    "as_table",
    "evaluate",
    "is_packed",
    "pack",
    "pack_parts",
    "parse_text",
    "unpack",
    "unpack_parts",
]

#: Largest vocabulary file that is read; the published one has 1.2 MB.
MAX_VOCABULARY_BYTES = 16 << 20
MAX_LINE = 8_192

MAGIC = b"RWKVTOK1"
_HEADER = struct.Struct("<8sI")
_LENGTH = np.dtype("<u2")

# What repr() writes and nothing else, so that evaluating a literal can neither warn nor recurse.
_STR_BODY = r"(?:[^{q}\\\x00-\x1f\x7f]|\\(?:[\\'\"nrt]|x[0-9a-fA-F]{{2}}|u[0-9a-fA-F]{{4}}|U[0-9a-fA-F]{{8}}))*"
_BYTES_BODY = r"(?:(?![{q}\\])[\x20-\x7e]|\\(?:[\\'\"nrt]|x[0-9a-fA-F]{{2}}))*"
_LITERAL = "|".join(
    f"{prefix}{quote}{body.format(q=quote)}{quote}"
    for prefix, body in (("", _STR_BODY), ("b", _BYTES_BODY))
    for quote in "'\""
)
_LINE = re.compile(rf"(0|[1-9][0-9]{{0,8}}) ({_LITERAL}) (0|[1-9][0-9]{{0,8}})")
_LITERAL_ALONE = re.compile(_LITERAL)
#: What stands for the end of a text, as a name and not as bytes that a text could have.
_NAMES_OF_END = frozenset({b"<s>", b"<|endoftext|>", b"<|rwkv_tokenizer_end_of_text|>"})


def as_table(tokens: Mapping[int, bytes], name: str) -> list[bytes]:
    """Return the bytes of each id from 0 to the largest, or to the last of the World vocabulary if it reaches its end.

    The name of an end-of-text token as id 0 stands for no bytes.

    Parameters
    ----------
    tokens : mapping of int to bytes
        The bytes of each id, from 0 to ``WORLD_SIZE - 1``.
    name : str
        Where they come from, for messages.

    Raises
    ------
    TokenizerError
        If there are none.
    """
    if not tokens:
        raise TokenizerError(f"{name}: expected a vocabulary, got one without tokens; download it again")
    size = max(tokens) + 1
    table = [b""] * (WORLD_SIZE if size > WORLD_USED else size)
    for number, token in tokens.items():
        table[number] = token
    if table[0] in _NAMES_OF_END:
        table[0] = b""
    return table


def parse_text(data: bytes, name: str = "vocabulary") -> list[bytes]:
    r"""Read a text format: one token a line, ``id literal length``, or the literal alone.

    The literal is a Python str (which stands for its UTF-8) or bytes, as ``repr`` writes it; the length is in
    bytes. Lines end in ``\n`` or ``\r\n``. Where the first line is a literal alone (Hugging Face's ``vocab.txt``), all
    are, and the id is the number of the line, from 0.

    Parameters
    ----------
    data : bytes
        The file's contents.
    name : str
        The file's name, for messages.

    Returns
    -------
    list of bytes
        As :func:`as_table` returns them; empty where an id has no token.

    Raises
    ------
    TokenizerError
        If a line is malformed, repeats an id or a token, or has a wrong length; the message names the line.
    """
    if len(data) > MAX_VOCABULARY_BYTES:
        raise TokenizerError(f"{name}: expected at most {MAX_VOCABULARY_BYTES} bytes, got {len(data)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data.count(b"\n", 0, error.start) + 1
        raise TokenizerError(f"{name}: line {bad}: expected UTF-8, got the byte {data[error.start]:#04x}") from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    numbered = not (lines and _LITERAL_ALONE.fullmatch(lines[0].removesuffix("\r")[:MAX_LINE]))
    tokens: dict[int, bytes] = {}
    line_of: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        content = line.removesuffix("\r")
        try:
            token_id, token = _parse_line(content) if numbered else (number - 1, _parse_literal(content))
            if token_id in tokens:
                raise ValueError(f"duplicate id {token_id}")
            if token_id >= WORLD_SIZE:
                raise ValueError(f"expected at most {WORLD_SIZE} tokens, got more")
            if line_of.setdefault(token, number) != number and not (line_of[token] == 1 and token in _NAMES_OF_END):
                raise ValueError(f"duplicate of the token in line {line_of[token]}")
        except ValueError as problem:
            raise TokenizerError(f"{name}: line {number}: {problem}") from None
        tokens[token_id] = token
    return as_table(tokens, name)


def _parse_line(line: str) -> tuple[int, bytes]:
    match = _LINE.fullmatch(line) if len(line) <= MAX_LINE else None
    if match is None:
        raise ValueError(f"expected an id, a quoted str or bytes, and a length, got {_shown(line)}")
    token_id, literal, length = match.groups()
    if int(token_id) >= WORLD_SIZE:
        raise ValueError(f"expected an id from 0 to {WORLD_SIZE - 1}, got {token_id}")
    token = evaluate(literal)
    if len(token) != int(length):
        raise ValueError(f"expected {length} bytes, as the line says, got {len(token)}")
    return int(token_id), token


def _parse_literal(line: str) -> bytes:
    if len(line) > MAX_LINE or not _LITERAL_ALONE.fullmatch(line):
        raise ValueError(f"expected a quoted str or bytes, got {_shown(line)}")
    return evaluate(line)


def _shown(line: str) -> str:
    return ascii(line if len(line) <= 60 else line[:60] + "...")


def evaluate(literal: str) -> bytes:
    """Return the bytes of a Python literal as `repr` writes it, which must have been matched as one.

    Raises
    ------
    ValueError
        If it is not valid Unicode, or empty.
    """
    try:
        if "\\" not in literal and literal[0] != "b":
            value = literal[1:-1]
        else:
            from ast import literal_eval  # a packed vocabulary is read without it

            value = literal_eval(literal)
        token = value if isinstance(value, bytes) else value.encode("utf-8")
    except (SyntaxError, ValueError):
        raise ValueError(f"invalid Unicode in {literal!a}") from None
    if not token:
        raise ValueError("empty token")
    return token


def is_packed(data: bytes) -> bool:
    """Return whether `data` begins as the packed form does."""
    return data.startswith(MAGIC)


def pack(tokens: Sequence[bytes]) -> bytes:
    """Return the packed form, as docs/tokenizers.md specifies it."""
    lengths = np.fromiter(map(len, tokens), dtype=_LENGTH, count=len(tokens))
    return pack_parts(lengths, b"".join(tokens))


def pack_parts(lengths: npt.NDArray[np.uint16], joined: bytes) -> bytes:
    """Return the packed form of what :func:`unpack_parts` returns."""
    return _HEADER.pack(MAGIC, len(lengths)) + lengths.astype(_LENGTH).tobytes() + joined


def unpack(data: bytes, name: str = "vocabulary") -> list[bytes]:
    """Read the packed form; raise TokenizerError if it is damaged."""
    lengths, joined = unpack_parts(data, name)
    ends = list(itertools.accumulate(lengths.tolist(), initial=0))
    return [joined[a:b] for a, b in itertools.pairwise(ends)]


def unpack_parts(data: bytes, name: str = "vocabulary") -> tuple[npt.NDArray[np.uint16], bytes]:
    """Read the packed form: the length of each token, and the bytes of all of them.

    Raises
    ------
    TokenizerError
        If it is damaged.
    """
    if len(data) < _HEADER.size or not is_packed(data):
        raise TokenizerError(f"{name}: expected a packed vocabulary, got {data[:8]!r}; convert the model again")
    count = _HEADER.unpack_from(data)[1]
    if not 1 <= count <= WORLD_SIZE:
        raise TokenizerError(f"{name}: expected 1 to {WORLD_SIZE} ids, got {count}; convert the model again")
    begin = _HEADER.size + count * _LENGTH.itemsize
    if len(data) < begin:
        raise TokenizerError(f"{name}: expected at least {begin} bytes, got {len(data)}; convert the model again")
    lengths = np.frombuffer(data, dtype=_LENGTH, count=count, offset=_HEADER.size)
    size = begin + int(lengths.sum(dtype=np.int64))
    if len(data) != size:
        raise TokenizerError(f"{name}: expected {size} bytes, got {len(data)}; convert the model again")
    return lengths, data[begin:]
