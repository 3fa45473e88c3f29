"""Fuzz targets of what reads a user's bytes: JSON, the encoder and the streams of text, the choice of tokens."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from fuzz.target import Target
from rwkv_cy.errors import TokenizerError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.text.sampling.options import ORDERS, SamplingOptions
from rwkv_cy.text.sampling.sampler import Sampler
from rwkv_cy.text.tokenizers.world import WorldTokenizer
from text.samples import MORE, world_tokens

_PATH = Path("text.json")


def _read_json(data: bytes) -> None:
    """Parse JSON: what is accepted is what Python's parser reads."""
    found = parse_object(_PATH, "text", data, allow_nan=True)
    if repr(found) != repr(json.loads(data.decode())):
        raise AssertionError(f"{found!r}")


@cache
def _tokenizers() -> tuple[tuple[WorldTokenizer, dict[bytes, int]], ...]:
    """Return two tokenizers with the ids of their tokens: one of the World's size, and one that lacks most bytes."""
    few = [b"", *(token.encode() if isinstance(token, str) else token for token in MORE), b"a", b"b", b" ", b"t"]
    return tuple(
        (WorldTokenizer(tokens), {token: number for number, token in enumerate(tokens) if token})
        for tokens in (world_tokens(), few)
    )


def _read_text(data: bytes) -> None:
    """Encode bytes, the longest token first; decode them at once and token by token; and decode them as ids."""
    tokenizer, table = _tokenizers()[data[0] & 1 if data else 0]
    text = data[1:40]
    expected: list[int] = []
    place = 0
    while place < len(text):
        token = next((text[place:end] for end in range(place + 20, place, -1) if text[place:end] in table), None)
        if token is None:
            break
        expected.append(table[token])
        place += len(token)
    try:
        ids = tokenizer.encode_bytes(text)
    except TokenizerError:
        if place == len(text):
            raise AssertionError(f"{text!r} has the tokens {expected}") from None
        ids = expected
    if ids != expected or tokenizer.decode_bytes(ids) != text[:place]:
        raise AssertionError(f"{text!r}: expected {expected}, got {ids}")
    for some in (ids, [byte % tokenizer.vocab_size for byte in data[:20]]):
        stream = tokenizer.stream()
        pieces = "".join([*map(stream.push, some), stream.finish()])
        if pieces != tokenizer.decode(some) or pieces != tokenizer.decode_bytes(some).decode(errors="replace"):
            raise AssertionError(f"{some}: {pieces!r}")


def _sample(data: bytes) -> None:
    """Choose among tokens: the candidates are the likeliest, and as few as reach top-p.

    The first eight bytes are options, the others logits.
    """
    head, rest = data[:8].ljust(8, b"\0"), data[8:]
    logits = np.frombuffer(rest[: len(rest) // 4 * 4], "<f4")
    if not logits.size:
        return
    options = SamplingOptions(
        temperature=head[0] / 64,
        top_p=head[1] / 255,
        top_k=head[2] % 16,
        repetition_penalty=1 + head[3] / 256,
        presence_penalty=head[4] / 64,
        banned_tokens=[head[5]] if head[5] < logits.size else [],
        order=ORDERS[head[6] & 1],
    )
    sampler = Sampler(options, logits.size, head[7])
    chosen = sampler.candidates(logits)
    if not (np.diff(chosen.tokens) > 0).all() or abs(chosen.probabilities.sum() - 1) > 1e-9:
        raise AssertionError(f"{chosen}")
    allowed = np.array(logits, np.float64)
    allowed[list(options.banned_tokens)] = -np.inf
    allowed[np.abs(allowed) < np.finfo(np.float32).tiny] = 0.0  # as for the kernels
    others = np.delete(allowed, chosen.tokens)
    if others.size and others.max() > allowed[chosen.tokens].min() + 1e-6 * abs(others.max()):
        raise AssertionError(f"{chosen} and not {others.max()}")
    if options.order == ORDERS[0] and options.top_k and chosen.tokens.size > options.top_k:
        raise AssertionError(f"{chosen.tokens.size} of at most {options.top_k} candidates")
    token = sampler.sample(logits)
    if not 0 <= token < logits.size or token in options.banned_tokens:
        raise AssertionError(f"token {token}")


def _floats(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


TARGETS = (
    Target(
        "json",
        lambda: (b'{"a": [1, 2.5e3, null, true, "\\u00e9\\n"], "b": {"c": -0, "d": {}}, "NaN": NaN}',),
        _read_json,
        words=(b"Infinity", b"-Infinity", b"NaN", b'"\\ud800"', b"\\u0000", b"1e999", b"18446744073709551616", b"[[[["),
    ),
    Target("text", lambda: (b"\0In the beginning\n\n", "\1 the人é🙂".encode(), bytes(range(0, 256, 7))), _read_text),
    Target(
        "sampler",
        lambda: (
            bytes([64, 217, 0, 0, 0, 255, 0, 1]) + _floats(*np.linspace(-3, 3, 40)),
            bytes([80, 128, 5, 30, 20, 1, 1, 2]) + _floats(1, 1, 1, 0.5, -1e30, 3e38),
        ),
        _sample,
        words=(_floats(np.inf), _floats(np.nan), _floats(3.4e38), _floats(-3.4e38), _floats(1e-45)),
    ),
)
