from __future__ import annotations

import argparse

import pytest

from rwkv_cy.cli.arguments import ACTIVATIONS, DTYPES, PACKED_DTYPE, QUANTIZED_DTYPES, integer, real
from rwkv_cy.dtypes import ACTIVATION_TYPES, PACKED, QUANTIZED_TYPES, STORAGE_TYPES


def test_whole_numbers() -> None:
    assert integer(0)("0") == 0
    assert integer(1, 8)("8") == 8


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "", "9"])
def test_bad_whole_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a whole number from 0 to 8, got {text!r}"):
        integer(0, 8)(text)


def test_whole_numbers_without_an_end() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1, got '0'"):
        integer(1)("0")


def test_numbers() -> None:
    assert real(0)("0.5") == 0.5
    assert real(0, 1)("1") == 1.0


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "", "x"])
def test_bad_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a number from 0 to 1, got {text!r}"):
        real(0, 1)(text)


def test_numbers_without_an_end() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number from 0, got 'inf'"):
        real(0)("inf")


def test_the_types_are_those_of_the_package() -> None:
    assert tuple(STORAGE_TYPES) == DTYPES
    assert tuple(QUANTIZED_TYPES) == QUANTIZED_DTYPES
    assert PACKED == PACKED_DTYPE
    assert ACTIVATION_TYPES == ACTIVATIONS
