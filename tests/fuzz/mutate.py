"""Damage to valid files: the mutators of the fuzz tests, drawn by hypothesis, and the loop that applies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.target import Target
from rwkv_cy.errors import RWKVError

#: Values on which lengths, counts and offsets break: bounds of the integer types, and their neighbours.
INTERESTING = tuple(
    sorted(
        {0, 1, 2, 0x7F, 0x80, 0xFF}
        | {(1 << bits) + delta for bits in (15, 16, 31, 32, 40, 50, 53, 62, 63, 64) for delta in (-1, 0, 1)}
    )
)

#: Positions count from either end, so that headers and trailing directories are hit as often as the bulk.
_positions = st.integers(-(1 << 32), 1 << 32)


def flip_bit(data: bytes, position: int, bit: int) -> bytes:
    """Flip one bit of the byte at `position` (any integer: it wraps around)."""
    if not data:
        return data
    position %= len(data)
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def set_byte(data: bytes, position: int, value: int) -> bytes:
    """Overwrite one byte."""
    if not data:
        return data
    position %= len(data)
    return data[:position] + bytes([value]) + data[position + 1 :]


def set_integer(data: bytes, position: int, value: int, size: int) -> bytes:
    """Overwrite `size` bytes with the low bytes of `value`, little-endian."""
    position %= len(data) + 1
    raw = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return data[:position] + raw[: len(data) - position] + data[position + size :]


def cut(data: bytes, position: int) -> bytes:
    """Keep what stands before `position`."""
    return data[: position % (len(data) + 1)]


def remove(data: bytes, position: int, size: int) -> bytes:
    """Take `size` bytes out."""
    position %= len(data) + 1
    return data[:position] + data[position + size :]


def splice(data: bytes, source: int, target: int, size: int) -> bytes:
    """Insert a copy of `size` bytes of the data elsewhere in it."""
    source %= len(data) + 1
    target %= len(data) + 1
    return data[:target] + data[source : source + size] + data[target:]


def insert(data: bytes, position: int, extra: bytes) -> bytes:
    """Insert foreign bytes."""
    position %= len(data) + 1
    return data[:position] + extra + data[position:]


_steps: st.SearchStrategy[tuple[Callable[..., bytes], tuple[object, ...]]] = st.one_of(
    st.tuples(st.just(flip_bit), st.tuples(_positions, st.integers(0, 7))),
    st.tuples(st.just(set_byte), st.tuples(_positions, st.integers(0, 255))),
    st.tuples(st.just(set_integer), st.tuples(_positions, st.sampled_from(INTERESTING), st.sampled_from((1, 2, 4, 8)))),
    st.tuples(st.just(cut), st.tuples(_positions)),
    st.tuples(st.just(remove), st.tuples(_positions, st.integers(1, 64))),
    st.tuples(st.just(splice), st.tuples(_positions, _positions, st.integers(1, 256))),
    st.tuples(st.just(insert), st.tuples(_positions, st.binary(min_size=1, max_size=16))),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw one of `seeds` with one to six mutations."""
    data = draw(st.sampled_from(seeds))
    for mutate, arguments in draw(st.lists(_steps, min_size=1, max_size=6)):
        data = mutate(data, *arguments)
    return data


def fuzz(target: Target, examples: int) -> None:
    """Run a target on every seed, which must pass, and on `examples` mutations of them, always the same ones.

    Errors of the package are the right answer to a damaged file, and end here; anything else that the target raises is
    the bug that is looked for. Every other mutation is repaired.
    """
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(seeds), st.booleans())
    def damaged(data: bytes, repaired: bool) -> None:
        try:
            target.run(target.repair(data) if repaired else data)
        except RWKVError:
            return

    damaged()
