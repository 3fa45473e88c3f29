from __future__ import annotations

from rwkv_cy.units import exact_bytes


def test_exact_sizes_have_a_unit_from_a_megabyte_on() -> None:
    assert exact_bytes(0) == "0 bytes"
    assert exact_bytes(999_999) == "999999 bytes"
    assert exact_bytes(2_731_579) == "2731579 bytes (2.73 MB)"
