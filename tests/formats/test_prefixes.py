"""Prefixes that all names share, with the head possibly outside of them."""

from __future__ import annotations

import pytest

from rwkv_cy.formats.prefixes import without_prefixes


def candidates(*names: str) -> list[list[str]]:
    return [list(shorter) for shorter in without_prefixes(names)]


def test_all_that_is_shared_and_nothing() -> None:
    assert candidates("a.b.c.x", "a.b.c.y.z") == [["x", "y.z"], ["a.b.c.x", "a.b.c.y.z"]]


@pytest.mark.parametrize("layers", ["blocks", "layers"])
def test_names_of_layers_are_no_prefix(layers: str) -> None:
    names = [f"m.n.{layers}.0.x", f"m.n.{layers}.1.x"]
    assert candidates(*names) == [["0.x", "1.x"], [f"{layers}.0.x", f"{layers}.1.x"], names]
    names = [f"{layers}.0.x", f"{layers}.0.y"]
    assert candidates(*names) == [["x", "y"], names]
    names = [f"my{layers}.0.x", f"my{layers}.0.y"]
    assert candidates(*names) == [["x", "y"], names]


def test_many_dots_are_few_prefixes() -> None:
    assert len(candidates(*(".".join(["blocks"] * 60 + [end]) for end in "xy"))) == 2


def test_full_names_are_kept() -> None:
    assert list(without_prefixes(["m.a", "m.b"])) == [{"a": "m.a", "b": "m.b"}, {"m.a": "m.a", "m.b": "m.b"}]


@pytest.mark.parametrize("names", [("a.x", "b.x"), ("ax", "ay"), ("a", "a.b"), ("m.x", "x"), ("x",), ()])
def test_nothing_is_shared(names: tuple[str, ...]) -> None:
    assert candidates(*names) == [list(names)]


@pytest.mark.parametrize("head", ["head.weight", "lm_head.weight"])
def test_a_lone_head_is_apart(head: str) -> None:
    assert candidates("rwkv.a.x", "rwkv.b.x", head)[0] == ["a.x", "b.x", head]
    assert candidates("m.rwkv.a.x", "m.rwkv.b.x", f"m.{head}") == [
        ["a.x", "b.x", head],
        ["m.rwkv.a.x", "m.rwkv.b.x", f"m.{head}"],
    ]
    assert candidates("m.a", "m.b", f"n.{head}")[0] == ["a", "b", f"n.{head}"]


def test_two_heads_become_one_name() -> None:
    names = ["m.a", "m.head.weight", "head.weight"]
    assert list(without_prefixes(names)) == [{"a": "m.a", "head.weight": "head.weight"}, {name: name for name in names}]


def test_no_two_names_become_one() -> None:
    for shorter in without_prefixes(["m.n.a", "m.n.head", "m.n.x.head.weight"]):
        assert len(shorter) == 3
