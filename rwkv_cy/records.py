"""Dataclasses that take little time to define: ``__init__`` is compiled for classes with several objects.

The decorator of the standard library compiles six functions for each class, used or not, after importing ``inspect``:
for the classes of this package, most of the time in which a command has to answer. Classes of this module have the same
methods, and the functions of :mod:`dataclasses` accept them: what these look at is made when they do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["asdict", "dataclass", "field", "fields", "replace"]

_NONE: Any = object()
#: Objects of a class that are made without compiling its ``__init__``: most classes have no more.
_FEW = 6
#: Attribute of a class that holds its fields, those of its bases first.
_FIELDS = "__record_fields__"


class _Field:
    """One field of a class: its name, annotation and default, and what it takes part in."""

    __slots__ = ("annotation", "default", "factory", "hashed", "kw_only", "name", "shown")

    def __init__(self, default: Any = _NONE, factory: Any = _NONE, hashed: bool = True, shown: bool = True) -> None:
        self.name = self.annotation = ""
        self.kw_only = False
        self.default, self.factory, self.hashed, self.shown = default, factory, hashed, shown


class _Deferred:
    """An attribute of a class that is made when it is first looked up."""

    def __init__(self, cls: type, name: str, make: Callable[[], Any]) -> None:
        self._cls, self._name, self._make = cls, name, make

    def __get__(self, instance: object, owner: type) -> Any:
        made = self._make()
        setattr(self._cls, self._name, made)
        return made.__get__(instance, owner) if hasattr(made, "__get__") else made


class _Init(_Deferred):
    """``__init__`` of a class: for its first objects it fills in the fields one by one."""

    def __init__(self, cls: type, stated: tuple[_Field, ...], frozen: bool) -> None:
        super().__init__(cls, "__init__", partial(_compile_init, cls, stated, frozen))
        # In the order in which the compiled function sets them, so that equal objects pickle alike.
        self._stated, self._frozen, self._made = sorted(stated, key=attrgetter("kw_only")), frozen, 0

    def __get__(self, instance: object, owner: type) -> Any:
        self._made += 1
        if instance is None or self._made > _FEW:
            return super().__get__(instance, owner)
        return partial(self._fill, instance)

    def _fill(self, instance: Any, /, *given: Any, **named: Any) -> None:
        values = dict(zip((one.name for one in self._stated if not one.kw_only), given, strict=False))
        wrong = len(values) < len(given) or not values.keys().isdisjoint(named)
        values |= named
        known = {}
        for one in self._stated:
            value = values.pop(one.name, one.default)
            known[one.name] = one.factory() if value is _NONE and one.factory is not _NONE else value
        if wrong or values or any(value is _NONE for value in known.values()):
            super().__get__(instance, type(instance))(*given, **named)  # which says what is wrong
            return
        if self._frozen:
            instance.__dict__.update(known)
        else:
            for name, value in known.items():
                setattr(instance, name, value)
        if hasattr(instance, "__post_init__"):
            instance.__post_init__()


def _dataclass(cls: Any = None, /, *, frozen: bool = False, eq: bool = True, kw_only: bool = False) -> Any:
    if cls is None:
        return lambda cls: _dataclass(cls, frozen=frozen, eq=eq, kw_only=kw_only)
    known = {one.name: one for base in reversed(cls.__mro__[1:]) for one in getattr(base, _FIELDS, ())}
    known |= {one.name: one for one in _own_fields(cls, kw_only)}
    stated = tuple(known.values())
    positional = [one for one in stated if not one.kw_only]
    _check_order(cls, positional)
    names = tuple(one.name for one in positional)
    attributes: dict[str, Any] = {"__repr__": _repr, "__match_args__": names, _FIELDS: stated}
    if frozen:
        attributes |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
    if eq:
        values, hashed = _getter(stated), _getter([one for one in stated if one.hashed])
        attributes |= {"__eq__": _equality(values), "__hash__": _hash(hashed) if frozen else None}
    for name, value in attributes.items():
        if name not in cls.__dict__:
            setattr(cls, name, value)
    cls.__init__ = _Init(cls, stated, frozen)
    for name in ("__dataclass_fields__", "__dataclass_params__"):
        setattr(cls, name, _Deferred(cls, name, partial(_like, cls, frozen, eq, name)))
    return cls


def _field(
    *,
    default: Any = _NONE,
    default_factory: Any = _NONE,
    hash: bool = True,  # noqa: A002 (as in dataclasses)
    repr: bool = True,  # noqa: A002
) -> Any:
    return _Field(default, default_factory, hash, repr)


def _fields(of: Any) -> tuple[_Field, ...]:
    found: tuple[_Field, ...] = getattr(of, _FIELDS)
    return found


def _replace(of: Any, /, **changes: Any) -> Any:
    return type(of)(**{one.name: getattr(of, one.name) for one in _fields(of)} | changes)


def _asdict(of: Any) -> dict[str, Any]:
    return {one.name: _plain(getattr(of, one.name)) for one in _fields(of)}


def _plain(value: Any) -> Any:
    """Return a value with the objects of data classes in it as dicts, in containers of its own."""
    if hasattr(type(value), _FIELDS):
        return _asdict(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _own_fields(cls: type, kw_only: bool) -> Iterator[_Field]:
    for name, annotation in cls.__annotations__.items():
        if annotation.startswith("ClassVar"):
            continue
        default = cls.__dict__.get(name, _NONE)
        one = default if isinstance(default, _Field) else _Field(default)
        if one is default:
            delattr(cls, name)
            if one.default is not _NONE:
                setattr(cls, name, one.default)
        one.name, one.annotation, one.kw_only = name, annotation, kw_only
        yield one


def _check_order(cls: type, positional: list[_Field]) -> None:
    required = [one.default is _NONE and one.factory is _NONE for one in positional]
    for one, before, needed in zip(positional[1:], required, required[1:], strict=False):
        if needed and not before:
            raise TypeError(
                f"{cls.__qualname__}: expected fields without a default first, got {one.name} after one with a default"
            )


def _compile_init(cls: type, stated: Collection[_Field], frozen: bool) -> Any:
    """Return ``__init__``, which has a parameter for each field."""
    names: dict[str, Any] = {"not_given": _NONE}
    # Of an object that refuses changes, filling the dictionary takes half the time of object.__setattr__.
    parameters, lines = ["self"], ["values_by_name = self.__dict__"] if frozen else []
    for one in sorted(stated, key=attrgetter("kw_only")):
        if one.kw_only and "*" not in parameters:
            parameters.append("*")
        value = one.name
        names[f"default_{value}"] = one.default if one.factory is _NONE else one.factory
        if one.factory is not _NONE:
            parameters.append(f"{value}=not_given")
            value = f"default_{value}() if {value} is not_given else {value}"
        else:
            parameters.append(value if one.default is _NONE else f"{value}=default_{value}")
        lines.append(f"values_by_name[{one.name!r}] = {value}" if frozen else f"self.{one.name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    body = "\n ".join(lines) or "pass"
    exec(f"def __init__({', '.join(parameters)}):\n {body}", names)
    function = names["__init__"]
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    function.__module__ = cls.__module__
    function.__annotations__ = {**{one.name: one.annotation for one in stated}, "return": None}
    return function


def _getter(stated: Collection[_Field]) -> Callable[[Any], Any]:
    """Return a function that gives the values of fields; of one field its value, of none an empty tuple."""
    return attrgetter(*(one.name for one in stated)) if stated else lambda of: ()


def _equality(values: Callable[[Any], Any]) -> Callable[[Any, Any], bool]:
    def __eq__(self: Any, other: Any) -> bool:  # noqa: N807
        return values(self) == values(other) if type(self) is type(other) else NotImplemented

    return __eq__


def _hash(values: Callable[[Any], Any]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return __hash__


def _repr(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in _fields(self) if one.shown)
    return f"{type(self).__qualname__}({shown})"


def _refuse_to_set(self: Any, name: str, value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _like(cls: type, frozen: bool, eq: bool, name: str) -> Any:
    """Return the attribute `name` of a class of the standard library's decorator with the same fields."""
    import dataclasses

    stated = []
    for one in _fields(cls):
        options = {"default": one.default, "default_factory": one.factory, "hash": None if one.hashed else False}
        options |= {"repr": one.shown, "kw_only": one.kw_only}
        given = {name: option for name, option in options.items() if option is not _NONE}
        stated.append((one.name, one.annotation, dataclasses.field(**given)))
    return getattr(dataclasses.make_dataclass(cls.__name__, stated, frozen=frozen, eq=eq), name)


if TYPE_CHECKING:  # a checker applies its own rules to those of the standard library
    from dataclasses import asdict, dataclass, field, fields, replace
else:
    asdict, dataclass, field, fields, replace = _asdict, _dataclass, _field, _fields, _replace
