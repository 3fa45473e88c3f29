"""Layouts as tables: which rule applies, resulting names and shapes, and invalid combinations."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from rwkv_cy.errors import FormatError
from rwkv_cy.formats.layouts.layout import Layout, Part, Recipe, Rule, Template, any_name
from rwkv_cy.formats.layouts.steps import TRANSPOSED, vector

PATH = Path("model.st")
LAYOUT = Layout(
    "test",
    any_name("b.{i}.fused", "b.{i}.t"),
    (
        Rule(("blocks.{i}.x", "blocks.{i}.y"), "b.{i}.fused", (vector(3, 2),)),
        Rule("blocks.{i}.w", "b.{i}.t", (TRANSPOSED,)),
        Rule("blocks.{i}.{rest}", "b.{i}.{rest}"),
        Rule("head.weight", "out"),
    ),
    prefix="p.",
    head="out",
)
CANONICAL = {
    "blocks.0.x": (1, 1, 4),
    "blocks.0.y": (1, 1, 4),
    "blocks.0.w": (4, 3),
    "blocks.10.other.weight": (4, 4),
    "odd": (2,),
    "head.weight": (6, 4),
}
FOREIGN = {"p.b.0.fused": (2, 4), "p.b.0.t": (3, 4), "p.b.10.other.weight": (4, 4), "p.odd": (2,), "out": (6, 4)}


def test_apply_names_and_shapes() -> None:
    recipes = LAYOUT.apply(CANONICAL)
    assert {name: recipe.shape for name, recipe in recipes.items()} == FOREIGN
    assert [(part.name, part.start) for part in recipes["p.b.0.fused"].parts] == [("blocks.0.x", 0), ("blocks.0.y", 0)]


def test_undo_names_and_shapes() -> None:
    recipes = LAYOUT.undo({name.removeprefix("p."): shape for name, shape in FOREIGN.items()}, PATH)
    assert {name: recipe.shape for name, recipe in recipes.items()} == CANONICAL
    assert [(part.name, part.start) for name in "xy" for part in recipes[f"blocks.0.{name}"].parts] == [
        ("b.0.fused", 0),
        ("b.0.fused", 4),
    ]


@pytest.mark.parametrize("text", ["a.b", "a.{i}.b", "a.{x}", "a.{i}.m.{x}", "a.{i}.m.{x}.b", "a.{i}{x}", "{x}.a.{i}"])
def test_fields_are_those_of_the_pattern(text: str) -> None:
    template = Template(text)
    pieces = ["a.", "b", ".", "0", "12", "01", ".m.", "m", "\n", "\u0661", ""]
    for chosen in itertools.product(pieces, repeat=5):
        name = "".join(chosen)
        match = template.pattern.fullmatch(name)
        assert template.fields(name) == (None if match is None else match.groupdict()), name


def test_only_what_changes_is_changed() -> None:
    recipes = LAYOUT.undo({"odd": (2,), "b.0.other": (2,), "b.0.t": (2, 2), "b.1.fused": (2, 4)}, PATH)
    assert recipes["odd"].keeps("odd")
    assert not recipes["blocks.0.other"].keeps("blocks.0.other")  # it has another name
    assert recipes["blocks.0.other"].keeps("b.0.other")
    assert not recipes["blocks.0.w"].keeps("b.0.t")
    assert not recipes["blocks.1.x"].keeps("b.1.fused")


def test_what_should_be_fused_and_is_not_whole_keeps_its_parts() -> None:
    assert LAYOUT.apply({"blocks.0.x": (1, 1, 4)})["p.b.0.x"].shape == (1, 1, 4)


@pytest.mark.parametrize("number", ["-1", "01", "x", "", "1.2"])
def test_only_numbers_are_layers(number: str) -> None:
    assert not LAYOUT.matches({f"b.{number}.t": (1, 1)})
    assert LAYOUT.matches({"b.12.t": (1, 1)})


def test_names_with_characters_of_patterns() -> None:
    assert not LAYOUT.matches({"bx0.t": (1, 1)})
    recipes = LAYOUT.undo({"b.0.{i}.(x)": (1,)}, PATH)
    assert list(recipes) == ["blocks.0.{i}.(x)"]


def test_a_name_that_ends_with_a_number_and_one_with_a_dot_behind_it() -> None:
    names = ["x.0", "x.1", "x.1.", "x.2.y", "x.3.y"]
    for order in (names, names[::-1], sorted(names, key=len, reverse=True)):
        assert list(LAYOUT.undo(dict.fromkeys(order, (1,)), PATH)) == order


@pytest.mark.parametrize("text", ["b.{i}.t", "b.{i}.fused", "b.{i}.{rest}", "blocks.{i}.w", "blocks.{i}.{rest}"])
def test_a_template_is_not_a_name_of_its_kind(text: str) -> None:
    assert not LAYOUT.matches({text: (1, 1)})
    assert list(LAYOUT.undo({text: (1, 1)}, PATH)) == [text]
    assert list(LAYOUT.apply({text: (1, 1)})) == [f"p.{text}"]


def test_two_tensors_for_one_parameter() -> None:
    with pytest.raises(
        FormatError,
        match=r"^model\.st: blocks\.0\.w: expected one tensor of that name, got b\.0\.t and blocks\.0\.w; the file is",
    ):
        LAYOUT.undo({"b.0.t": (1, 1), "blocks.0.w": (1, 1)}, PATH)
    with pytest.raises(
        FormatError, match=r"blocks\.0\.x: expected one tensor of that name, got b\.0\.fused and b\.0\.x"
    ):
        LAYOUT.undo({"b.0.fused": (2, 4), "b.0.x": (1, 1, 4)}, PATH)


@pytest.mark.parametrize("shape", [(), (3, 4), (1, 4), (4,)])
def test_a_fused_tensor_of_another_number(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        FormatError, match=r"^model\.st: b\.0\.fused: expected 2 rows, one for each of blocks\.0\.x, blocks\.0\.y, got"
    ):
        LAYOUT.undo({"b.0.fused": shape}, PATH)


def test_a_recipe_of_no_tensor_or_of_several_is_not_one_tensor_as_it_is() -> None:
    part = Part("x", 0, (2,))
    assert Recipe((part,), (2,)).keeps("x")
    assert not Recipe((), ()).keeps("x")
    assert not Recipe((part, part), (4,)).keeps("x")


def test_recipes_and_their_parts_compare_by_identity() -> None:
    part, recipe = Part("x", 0, (2,)), Recipe.whole("x", (2,))
    assert part == part != Part("x", 0, (2,))
    assert recipe == recipe != Recipe.whole("x", (2,))
