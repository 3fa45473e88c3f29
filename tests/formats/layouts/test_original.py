"""The original layout: names are unchanged, and squeezed vectors get their axes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.foreign import rwkv4_parameters, rwkv7_parameters, squeezed
from rwkv_cy.formats.layouts.original import ORIGINAL, ORIGINAL_4, has_vector_state

PATH = Path("model")


def shapes_of(parameters: dict) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in parameters.items()}


def test_rwkv4_is_told_by_its_names() -> None:
    shapes = shapes_of(rwkv4_parameters())
    assert has_vector_state(shapes)
    assert ORIGINAL_4.matches(shapes)
    assert ORIGINAL.matches(shapes)  # which comes after it
    assert not has_vector_state({"emb.weight": (6, 32)})
    assert not has_vector_state({**shapes, "blocks.0.att.ln_x.weight": (32,)})
    assert not ORIGINAL_4.matches(shapes_of(rwkv7_parameters()))


@pytest.mark.parametrize("parameters", [rwkv4_parameters(), rwkv7_parameters()], ids=["4", "7"])
def test_original_names_and_shapes_stay(parameters: dict) -> None:
    shapes = shapes_of(parameters)
    layout = ORIGINAL_4 if has_vector_state(shapes) else ORIGINAL
    recipes = layout.undo(shapes, PATH)
    assert {name: recipe.shape for name, recipe in recipes.items()} == shapes
    assert all(recipe.keeps(name) for name, recipe in recipes.items())


def test_every_squeezed_shape_comes_back() -> None:
    four = rwkv4_parameters()
    recipes = ORIGINAL_4.undo(shapes_of(squeezed(four)), PATH)
    assert {name: recipe.shape for name, recipe in recipes.items()} == shapes_of(four)
    seven = rwkv7_parameters()
    flat = {name: array.squeeze() for name, array in seven.items()}
    assert flat["blocks.0.att.x_r"].ndim == flat["blocks.1.ffn.x_k"].ndim == flat["blocks.1.att.w0"].ndim == 1
    assert {name: recipe.shape for name, recipe in ORIGINAL.undo(shapes_of(flat), PATH).items()} == shapes_of(seven)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blocks.0.att.time_decay", (1, 1, 8), (8,)),
        ("blocks.0.att.time_first", (1, 8), (8,)),
        ("blocks.0.att.time_first", (1,), (1,)),
        ("blocks.0.att.time_decay", (), ()),
        ("blocks.0.att.time_decay", (4, 2), (4, 2)),
        ("blocks.0.att.time_decay", (8, 1), (8, 1)),  # as RWKV-3 has it
        ("blocks.0.ffn.time_mix_k", (1, 8), (1, 1, 8)),
        ("blocks.0.ffn.time_mix_k", (2, 4), (2, 4)),
        ("blocks.0.ffn.s0", (1, 1, 8), (8,)),
        ("blocks.0.ffn.s0", (8,), (8,)),
        ("blocks.0.ln1.weight", (1, 8), (1, 8)),
        ("emb.weight", (1, 8), (1, 8)),
    ],
)
def test_shapes(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert ORIGINAL_4.undo({name: shape}, PATH)[name].shape == expected


def test_a_decay_of_another_version_keeps_its_shape() -> None:
    shapes = {"blocks.0.att.time_decay": (1, 8), "blocks.0.att.time_first": (1, 8), "blocks.0.att.ln_x.weight": (8,)}
    assert not ORIGINAL_4.matches(shapes)
    assert ORIGINAL.matches(shapes)
    assert {name: recipe.shape for name, recipe in ORIGINAL.undo(shapes, PATH).items()} == shapes
