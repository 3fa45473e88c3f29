"""Numbers with units."""

from __future__ import annotations

import pytest

from rwkv_cy.units import byte_size, exact_bytes, short_count


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (26_557_000_000, "26.6 GB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert byte_size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1K"),
        (1_352_448, "1.35M"),
        (169_342_464, "169M"),
        (999_499_999, "999M"),
        (999_500_000, "1.0B"),
        (1_527_404_544, "1.5B"),
        (13_278_650_368, "13.3B"),
        (175_000_000_000, "175.0B"),
    ],
)
def test_parameters(count: int, text: str) -> None:
    assert short_count(count) == text


def test_exact_sizes_have_a_unit_from_a_megabyte_on() -> None:
    assert exact_bytes(0) == "0 bytes"
    assert exact_bytes(999_999) == "999999 bytes"
    assert exact_bytes(2_731_579) == "2731579 bytes (2.73 MB)"
