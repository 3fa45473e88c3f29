"""A layout: the names and forms that one project gives to RWKV's parameters, as a table that is read both ways."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from rwkv_cy.errors import FormatError
from rwkv_cy.formats.layouts.recipe import Part, Recipe
from rwkv_cy.formats.layouts.steps import Operation, Shape, Step
from rwkv_cy.records import dataclass

__all__ = ["Layout", "Matcher", "Part", "Recipe", "Rule", "Shapes", "any_name"]

#: Names of tensors and their shapes: all that a layout is recognised by.
Shapes = Mapping[str, Shape]
Matcher = Callable[[Shapes], bool]


_FIELD = re.compile(r"\{(\w+)\}")
_NUMBER, _ANYTHING = "(?:0|[1-9][0-9]*)", ".+"


def _pattern(template: str) -> str:
    """Return the regular expression of a template, with a named group for each field."""
    pieces = _FIELD.split(template)
    for at, piece in enumerate(pieces):
        pieces[at] = f"(?P<{piece}>{_NUMBER if piece == 'i' else _ANYTHING})" if at % 2 else re.escape(piece)
    return "".join(pieces)


def _tail(name: str) -> str:
    """Return the last two words of a name."""
    return ".".join(name.rsplit(".", 2)[-2:])


def _stands_for(field: str, text: str) -> bool:
    """Tell whether a text may stand for a field, as in the pattern."""
    if field == "i":
        return text.isdecimal() and text.isascii() and (text[0] != "0" or text == "0")
    return text != "" and "\n" not in text


class Template:
    """Names of one kind of tensor: ``{i}`` stands for the number of a layer, any other field for any text."""

    def __init__(self, text: str) -> None:
        self._text = text
        pieces = _FIELD.split(text)
        self._begin = pieces[0]
        #: What every such name ends with.
        self.end = pieces[-1]
        self._is_name = len(pieces) == 1  # without fields
        self._field = pieces[1] if len(pieces) == 3 else None  # where it is the only one
        #: What stands between the number of a layer and another field, where these are the two; it begins with a dot.
        self._between = pieces[2] if len(pieces) == 5 and pieces[1] == "i" and pieces[2].startswith(".") else None
        self._last = pieces[-2] if len(pieces) > 1 else ""
        #: The last two words of every such name; None if a field is among them.
        self.tail = _tail(self.end) if len(pieces) == 1 or self.end.count(".") >= 2 else None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What every such name matches, with a named group for each field."""
        return re.compile(_pattern(self._text))

    def fields(self, name: str) -> dict[str, str] | None:
        """Return what stands for the fields in `name`, or None if it is another name."""
        if not (name.endswith(self.end) and name.startswith(self._begin)):  # most names, without the pattern's time
            return None
        if self._is_name:
            return {} if name == self._text else None
        text = name[len(self._begin) : len(name) - len(self.end)]
        # As the pattern, which takes longer to compile than to use.
        if self._field is not None:
            return {self._field: text} if _stands_for(self._field, text) else None
        if self._between is not None:
            number, _, rest = text.partition(self._between)
            return (
                {"i": number, self._last: rest} if _stands_for("i", number) and _stands_for(self._last, rest) else None
            )
        match = self.pattern.fullmatch(name)
        return None if match is None else match.groupdict()

    def name(self, fields: Mapping[str, str]) -> str:
        """Return the name with these fields."""
        return self._text.format_map(fields)


def any_name(*templates: str) -> Matcher:
    """Return a matcher: one of the tensors has a name of one of these templates."""
    # A search for the fixed text takes far less time than the pattern, and few files have it in any name.
    fixed = [max(_FIELD.split(text)[::2], key=len) for text in templates]

    def matches(shapes: Shapes) -> bool:
        names = "\n".join(shapes)
        if not any(text in names for text in fixed):
            return False
        kinds = [Template(text) for text in templates]
        return any(kind.fields(name) is not None for kind in kinds for name in shapes)

    return matches


@dataclass(frozen=True)
class Rule:
    """One line of a layout.

    Attributes
    ----------
    canonical : str or tuple of str
        Template of the name in the original checkpoints; several where the other project concatenates several
        tensors along the first axis.
    foreign : str
        Template of the other project's name, with the same fields.
    steps : tuple of Step
        From the original tensor to the other project's; of several tensors, before they are concatenated.
    steps_of_layer : callable, optional
        The steps, from the number ``{i}`` of the layer; in place of `steps`.
    """

    canonical: str | tuple[str, ...]
    foreign: str
    steps: tuple[Step, ...] = ()
    steps_of_layer: Callable[[int], tuple[Step, ...]] | None = None

    @cached_property
    def canonical_templates(self) -> tuple[Template, ...]:
        """The canonical names, in their order."""
        names = (self.canonical,) if isinstance(self.canonical, str) else self.canonical
        return tuple(Template(name) for name in names)

    @cached_property
    def foreign_template(self) -> Template:
        """The foreign name."""
        return Template(self.foreign)

    def applied(self, fields: Mapping[str, str]) -> tuple[Operation, ...]:
        """Return what is done to an original tensor with these fields in its name."""
        return tuple(step.apply for step in self._steps(fields))

    def undone(self, fields: Mapping[str, str]) -> tuple[Operation, ...]:
        """Return what is done to a foreign tensor, or to one row of a fused one, with these fields in its name."""
        return self._undone if self.steps_of_layer is None else _undo_all(self._steps(fields))

    @cached_property
    def _undone(self) -> tuple[Operation, ...]:
        return _undo_all(self.steps)

    def _steps(self, fields: Mapping[str, str]) -> tuple[Step, ...]:
        return self.steps if self.steps_of_layer is None else self.steps_of_layer(int(fields["i"]))


def _undo_all(steps: tuple[Step, ...]) -> tuple[Operation, ...]:
    return tuple(step.undo for step in reversed(steps))


class _RuleFinder:
    """Finds the rule of a foreign name; for names that differ in the number of a layer alone, once.

    Parameters
    ----------
    rules : tuple of Rule
        The first that matches a name applies.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        tails = [rule.foreign_template.tail for rule in rules]
        #: The rules that a name may match, in their order, by its last two words: one look-up for most.
        self._possible = {
            tail: tuple(rule for rule, own in zip(rules, tails, strict=True) if own in (tail, None))
            for tail in {*tails, None}
        }
        #: Numbers that a rule spells out: a layer with one of them may be unlike the others.
        self._spelled_out = {word for rule in rules for word in rule.foreign.split(".") if word.isdecimal()}
        self._known: dict[tuple[str, str], tuple[Rule, dict[str, str]] | None] = {}
        #: Of those that stand for one tensor with the same operations in all layers: its name, in front of the number
        #: and behind it, and the operations.
        self._single: dict[tuple[str, str], tuple[str, str, tuple[Operation, ...]]] = {}
        #: Numbers of layers that are like others.
        self._numbers: set[str] = set()

    def single(self, name: str) -> tuple[str, tuple[Operation, ...]] | None:
        """Return the canonical name and what is done to the tensor, where a name like this one was found before.

        None where it was not, or where the name stands for several tensors, or not for the same in all layers.
        """
        words = name.split(".", 2)
        if len(words) < 3:
            return None
        begin, number, end = words
        known = self._single.get((begin, end))
        if known is None:
            return None
        if number not in self._numbers:
            if number in self._spelled_out or not _stands_for("i", number):
                return None
            self._numbers.add(number)
        return f"{known[0]}{number}{known[1]}", known[2]

    def find(self, name: str) -> tuple[Rule, dict[str, str]] | None:
        """Return the rule that applies, and what stands for the fields of its foreign name; None if there is none."""
        begin, _, rest = name.partition(".")
        number, dot, end = rest.partition(".")
        if not dot or not _stands_for("i", number) or number in self._spelled_out:
            return self._search(name)
        key = begin, end
        if key not in self._known:
            found = self._search(name)
            if found is not None and not found[0].foreign.startswith(f"{begin}.{{i}}."):
                return found  # the number may belong to another field
            self._known[key] = found
            self._single.update(_single(key, found))
        known = self._known[key]
        return None if known is None else (known[0], {**known[1], "i": number})

    def _search(self, name: str) -> tuple[Rule, dict[str, str]] | None:
        for rule in self._possible.get(_tail(name), self._possible[None]):
            fields = rule.foreign_template.fields(name)
            if fields is not None:
                return rule, fields
        return None


def _single(
    key: tuple[str, str], found: tuple[Rule, dict[str, str]] | None
) -> dict[tuple[str, str], tuple[str, str, tuple[Operation, ...]]]:
    """Return what names of a kind stand for, by the kind, if it is one tensor, with the same operations in all layers.

    `found` is what :meth:`_RuleFinder.find` returned for one of them, which begins and ends as `key` says.
    """
    begin, end = key
    if found is None:
        return {key: (f"{begin}.", f".{end}", ())}
    rule, fields = found
    if len(rule.canonical_templates) > 1 or rule.steps_of_layer is not None:
        return {}
    front, number, back = rule.canonical_templates[0].name({**fields, "i": "\0"}).partition("\0")
    return {key: (front, back, rule.undone(fields))} if number and "\0" not in back else {}


@dataclass(frozen=True)
class Layout:
    """How one project names and stores the parameters.

    A tensor without a rule keeps its name and form.

    Attributes
    ----------
    name : str
        Of the project and, after a comma, of its versions, for people.
    matches : callable
        Whether tensors of these names and shapes, without the prefix, are in this layout.
    rules : tuple of Rule
        The first that matches a tensor applies, in either direction.
    prefix : str
        Prefix of all foreign names other than that of the head; the rules omit it.
    head : str
        Foreign name of the head, which has no prefix.
    holds : callable
        Whether a model of these canonical names and shapes can be written in this layout; any can by default.
    omitted : tuple of str
        Canonical names of tensors that the project leaves out, since they have no use.
    repeated : tuple of Rule
        Tensors that the project stores beside those of the rules and that say nothing new: they are ignored in reading.
    rules_of : callable, optional
        Gives rules that depend on the model's dimensions, for its names and shapes; they apply before the others.
    """

    name: str
    matches: Matcher
    rules: tuple[Rule, ...]
    prefix: str = ""
    head: str = "head.weight"
    holds: Matcher = bool
    omitted: tuple[str, ...] = ()
    repeated: tuple[Rule, ...] = ()
    rules_of: Callable[[Shapes], tuple[Rule, ...]] = lambda shapes: ()

    @property
    def project(self) -> str:
        """Name of the project."""
        return self.name.partition(", ")[0]

    @property
    def versions(self) -> str:
        """The versions of RWKV; empty for all."""
        return self.name.partition(", ")[2]

    def undo(self, shapes: Shapes, path: Path, names: Mapping[str, str] | None = None) -> dict[str, Recipe]:
        """Return how the canonical tensors are made from foreign ones.

        Parameters
        ----------
        shapes : mapping of str to tuple of int
            Foreign names without the prefix, and shapes.
        path : Path
            The file, for messages.
        names : mapping of str to str, optional
            What the recipes call the tensors, by their foreign names: those with the prefix.

        Returns
        -------
        dict of str to Recipe
            By canonical name, in the order of `shapes`.

        Raises
        ------
        FormatError
            If two tensors stand for the same parameter, or a fused one has the wrong number of rows.
        """
        recipes: dict[str, Recipe] = {}
        rules = _RuleFinder((*self.rules_of(shapes), *self.rules))
        repeated = _RuleFinder(self.repeated)
        ends = tuple(rule.foreign_template.end for rule in self.repeated)  # which few names have
        for foreign, shape in shapes.items():
            if foreign.endswith(ends) and repeated.find(foreign) is not None:
                continue
            own = foreign if names is None else names[foreign]
            undone: tuple[tuple[str, Recipe], ...]
            if (single := rules.single(foreign)) is not None:
                undone = ((single[0], Recipe.whole(own, shape, single[1])),)
            elif (found := rules.find(foreign)) is None:
                undone = ((foreign, Recipe.whole(own, shape)),)
            else:
                undone = _undo(*found, foreign, shape, path, own)
            for name, recipe in undone:
                other = recipes.setdefault(name, recipe)
                if other is not recipe:
                    first = other.parts[0].name
                    first = next((short for short, full in (names or {}).items() if full == first), first)
                    raise FormatError(
                        f"{path}: {name}: expected one tensor of that name, got {first} and {foreign}; "
                        "the file is damaged"
                    )
        return recipes

    def apply(self, shapes: Shapes) -> dict[str, Recipe]:
        """Return how the foreign tensors are made from canonical ones.

        Parameters
        ----------
        shapes : mapping of str to tuple of int
            Canonical names and shapes.

        Returns
        -------
        dict of str to Recipe
            By foreign name, in the order of `shapes`, without what the project omits, then what it repeats.
        """
        recipes = {}
        rules = (*self.rules_of(shapes), *self.rules)
        for name in shapes:
            if name in self.omitted:
                continue
            foreign, recipe = self._apply_one(name, shapes, rules) or (name, Recipe.whole(name, shapes[name]))
            recipes[foreign if foreign == self.head else self.prefix + foreign] = recipe
        for name in shapes if self.repeated else ():
            again = self._apply_one(name, shapes, self.repeated)
            if again is not None:
                recipes[self.prefix + again[0]] = again[1]
        return recipes

    @staticmethod
    def _apply_one(name: str, shapes: Shapes, rules: tuple[Rule, ...]) -> tuple[str, Recipe] | None:
        for rule in rules:
            fields = next((f for t in rule.canonical_templates if (f := t.fields(name)) is not None), None)
            if fields is None:
                continue
            names = [template.name(fields) for template in rule.canonical_templates]
            if not all(other in shapes for other in names):
                continue
            parts = tuple(Part(other, 0, shapes[other], rule.applied(fields)) for other in names)
            first, *rest = parts[0].result_shape
            shape = (first, *rest) if len(parts) == 1 else (len(parts) * first, *rest)
            return rule.foreign_template.name(fields), Recipe(parts, shape)
        return None


def _undo(
    rule: Rule, fields: Mapping[str, str], foreign: str, shape: Shape, path: Path, own: str
) -> tuple[tuple[str, Recipe], ...]:
    """Return the canonical tensors that a foreign one holds by a rule; arguments as for :meth:`Layout.undo`.

    `own` is what the recipes call it.
    """
    names = [template.name(fields) for template in rule.canonical_templates]
    operations = rule.undone(fields)
    if len(names) == 1:
        return ((names[0], Recipe.whole(own, shape, operations)),)
    if not shape or shape[0] != len(names):
        raise FormatError(
            f"{path}: {foreign}: expected {len(names)} rows, one for each of {', '.join(names)}, "
            f"got shape {shape}; the file is damaged"
        )
    size = math.prod(shape[1:])
    parts = [Part(own, at * size, (1, *shape[1:]), operations) for at in range(len(names))]
    return tuple((name, Recipe((part,), part.result_shape)) for name, part in zip(names, parts, strict=True))
