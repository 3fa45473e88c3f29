"""A source under canonical names and forms, whatever the file calls its tensors and however it stores them."""

from __future__ import annotations

from collections.abc import Mapping

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import refuse_parts
from rwkv_cy.formats.layouts import layouts_of
from rwkv_cy.formats.layouts.layout import Recipe
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.prefixes import without_prefixes
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["canonical", "canonical_recipes"]

_EMBEDDING, _HEAD = "emb.weight", "head.weight"


def canonical(source: ParameterSource) -> ParameterSource:
    """Return `source` under canonical names and forms: itself, where it has them already.

    See :func:`canonical_recipes`. The source is left open where that raises.
    """
    recipes = canonical_recipes(source)
    kept = all(recipe.keeps(name) for name, recipe in recipes.items())
    return source if kept else TranslatedSource(source, recipes)


def canonical_recipes(source: ParameterSource, tied: bool = False) -> dict[str, Recipe]:
    """Return how the canonical tensors are made from those of `source`.

    Names and shapes alone tell the layout. A prefix that all names share (other than a lone head) is taken off where
    names of a known layout remain. Names that belong to no layout stay as they are.

    Parameters
    ----------
    source : ParameterSource
        An open file.
    tied : bool
        The head shares the embedding's matrix: where there is no head, offer that one.

    Returns
    -------
    dict of str to Recipe
        By canonical name, in the file's order.

    Raises
    ------
    FormatError
        If two tensors stand for the same parameter, or a fused one has the wrong number of rows.
    UnsupportedError
        If the file has tensors, and no model can have any of them.
    """
    empty = sum(what.startswith("empty ") for what in source.left_out.values())
    refuse_parts(source.path, empty, len(source.left_out) + len(source.names()))
    if source.left_out and not source.names():
        name, what = next(iter(source.left_out.items()))
        more = f", and {len(source.left_out) - 1} others like it" if len(source.left_out) > 1 else ""
        raise UnsupportedError(
            f"{source.path}: {name}: expected numbers of type float64, float32, float16 or bfloat16, got {what}{more}; "
            "save the weights as one of those types"
        )
    recipes = _recipes(source)
    if tied and _EMBEDDING in recipes:
        recipes.setdefault(_HEAD, recipes[_EMBEDDING])
    return recipes


def _recipes(source: ParameterSource) -> dict[str, Recipe]:
    layouts = layouts_of(source.format, source.metadata)
    for names in without_prefixes(source.names()):
        shapes = {short: source.info(name).shape for short, name in names.items()}
        layout = next((layout for layout in layouts if layout.matches(shapes)), None)
        if layout is not None:
            _check_one_each(source, names)
            return layout.undo(shapes, source.path, names)
    return {name: Recipe.whole(name, source.info(name).shape) for name in source.names()}


def _check_one_each(source: ParameterSource, names: Mapping[str, str]) -> None:
    """Raise FormatError if two names of the file are the same without a prefix."""
    if len(names) == len(source.names()):
        return
    name = next(iter(set(source.names()) - set(names.values())))
    other = next(full for short, full in names.items() if name.endswith(short) or full.endswith(name))
    raise FormatError(
        f"{source.path}: expected one tensor for each parameter, got {name} and {other}, which are the same without "
        "the prefix of the others; save the weights anew with one of them"
    )
