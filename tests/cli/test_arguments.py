from __future__ import annotations

import argparse

import pytest

from rwkv_cy.cli.arguments import (
    ACTIVATIONS,
    DTYPES,
    EXPORT_FORMATS,
    EXPORT_LAYOUTS,
    PACKED_DTYPE,
    QUANTIZED_DTYPES,
    dtype_name,
    integer,
    real,
)
from rwkv_cy.dtypes import ACTIVATION_TYPES, PACKED, QUANTIZED_TYPES, STORAGE_TYPES
from rwkv_cy.formats.writers import EXPORT_FORMATS as FORMATS


def test_whole_numbers() -> None:
    assert integer(0)("0") == 0
    assert integer(1, 8)("8") == 8


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "", "9"])
def test_bad_whole_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected an integer from 0 to 8, got {text!r}"):
        integer(0, 8)(text)


def test_whole_numbers_without_an_end() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected an integer of at least 2, got '1'"):
        integer(2)("1")
    with pytest.raises(argparse.ArgumentTypeError, match="expected a positive integer, got '0'"):
        integer(1)("0")


def test_numbers() -> None:
    assert real(0)("0.5") == 0.5
    assert real(0, 1)("1") == 1.0


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "", "x"])
def test_bad_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a number from 0 to 1, got {text!r}"):
        real(0, 1)(text)


def test_numbers_without_an_end() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number of at least 2, got '1'"):
        real(2)("1")
    with pytest.raises(argparse.ArgumentTypeError, match="expected a non-negative number, got 'inf'"):
        real(0)("inf")


def test_the_types_are_those_of_the_package() -> None:
    assert tuple(STORAGE_TYPES) == DTYPES
    assert tuple(QUANTIZED_TYPES) == QUANTIZED_DTYPES
    assert PACKED == PACKED_DTYPE
    assert ACTIVATION_TYPES == ACTIVATIONS


@pytest.mark.parametrize("name", [*DTYPES, PACKED_DTYPE, *QUANTIZED_DTYPES])
def test_names_of_types(name: str) -> None:
    assert dtype_name(name) == dtype_name(name.upper()) == name


@pytest.mark.parametrize(
    ("name", "ours"),
    [("fp16", "f16"), ("float16", "f16"), ("half", "f16"), ("FP32", "f32"), ("float64", "f64"), ("bfloat16", "bf16")],
)
def test_other_names_of_the_same_types(name: str, ours: str) -> None:
    assert dtype_name(name) == ours


@pytest.mark.parametrize(
    ("name", "ours"),
    [("Q8_0", "q8"), ("int8", "q8"), ("Q5_1", "q6"), ("Q6_K", "q6"), ("Q4_K_M", "q4n"), ("nf4", "q4n"), ("fp8", "q8")],
)
def test_types_of_other_programs_get_a_hint(name: str, ours: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=rf"unknown type '{name}'; did you mean {ours}\?$"):
        dtype_name(name)


def test_unknown_types_are_left_to_the_choices() -> None:
    assert dtype_name("paint") == "paint"


def test_the_formats_are_those_of_the_writers() -> None:
    assert tuple(FORMATS) == EXPORT_FORMATS
    layouts = dict.fromkeys(layout for entry in FORMATS.values() for layout in entry.layouts)
    assert set(layouts) == set(EXPORT_LAYOUTS)
