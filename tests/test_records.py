"""Classes of rwkv_cy.records are data classes: as those of the standard library, to users and to its functions."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import pytest

from rwkv_cy import records


class Base(ABC):
    """Has an attribute of the class, and something to implement."""

    kind: ClassVar[str] = "base"

    @abstractmethod
    def area(self) -> int:
        """Return the product."""


def define(dataclass: Any, field: Any) -> tuple[type, ...]:
    """Return the same three classes by either decorator."""

    @dataclass(frozen=True)
    class Point(Base):
        x: int
        y: int = 2
        kind: ClassVar[str] = "point"
        notes: dict[str, int] = field(default_factory=dict, hash=False)

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("x is negative")

        def area(self) -> int:
            return self.x * self.y

    @dataclass(frozen=True)
    class Deep(Point):
        z: int = 3

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Named:
        first: int
        second: int = 2
        secret: str = field(default="key", repr=False)

    @dataclass
    class Total:
        count: int = 0
        names: list[str] = field(default_factory=list)

    return Point, Deep, Total, Named


OURS = define(records.dataclass, records.field)
THEIRS = define(dataclasses.dataclass, dataclasses.field)
Point, Deep, Total, Named = OURS


@dataclasses.dataclass(frozen=True)
class Derived(Point):
    """One of the standard library that derives from one of this module."""

    w: int = 4


@records.dataclass(frozen=True, eq=False)
class Identity:
    """Equal to itself alone."""

    name: str


@pytest.mark.parametrize(("ours", "theirs"), list(zip(OURS, THEIRS, strict=True)))
def test_signature_fields_and_text_are_those_of_the_standard_library(ours: type, theirs: type) -> None:
    arguments: dict[str, int] = {Total: {}, Named: {"first": 5}}.get(ours, {"x": 5})
    assert repr(ours(**arguments)) == repr(theirs(**arguments))
    parameters = [str(inspect.signature(cls)).replace("<factory>", "...") for cls in (ours, theirs)]
    assert [text.split(" = ")[0] for text in parameters] == [parameters[1].split(" = ")[0]] * 2
    described = [
        [(one.name, one.type, one.default, one.default_factory, one.hash) for one in dataclasses.fields(cls)]
        for cls in (ours, theirs)
    ]
    assert described[0] == described[1]
    assert [one.name for one in records.fields(ours)] == [one[0] for one in described[0]]
    assert ours.__match_args__ == theirs.__match_args__
    assert ours.__dataclass_params__.frozen == theirs.__dataclass_params__.frozen


def test_the_functions_of_the_standard_library_accept_an_object() -> None:
    point = Point(5, notes={"a": 1})
    assert dataclasses.asdict(point) == {"x": 5, "y": 2, "notes": {"a": 1}}
    assert dataclasses.replace(point, x=6) == Point(6, 2, {"a": 1})
    assert Derived(1, 2, {}, 9).w == 9
    with pytest.raises(dataclasses.FrozenInstanceError):
        Derived(1).w = 5


def test_equality_and_hash() -> None:
    assert Point(1, 2) == Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Deep(1, 2)
    assert Point(1, 2) != (1, 2, {})
    assert hash(Point(1, 2, {"a": 1})) == hash(Point(1, 2))
    assert Total(3) == Total(3)
    assert Total.__hash__ is None
    one = Identity("a")
    assert one == one
    assert one != Identity("a")
    assert len({one, Identity("a")}) == 2


def test_frozen_objects_refuse_changes_and_others_do_not_share_defaults() -> None:
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'y'"):
        del point.y
    first, second = Total(), Total()
    first.names.append("a")
    first.count += 1
    assert second == Total(0, [])


def test_wrong_arguments_are_refused_as_by_any_function() -> None:
    with pytest.raises(TypeError, match=r"__init__\(\) missing 1 required positional argument: 'x'"):
        Point()
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        Point(1, nothing=2)
    with pytest.raises(ValueError, match="x is negative"):
        Point(-1)


def test_the_first_objects_are_made_as_the_later_ones() -> None:
    @records.dataclass(frozen=True)
    class Pair:
        first: Any
        second: Any = 2
        more: list[int] = records.field(default_factory=list)

    array = np.arange(3)  # compares by element
    made = [Pair(array, second=str(at)) for at in range(20)]
    assert [list(vars(one)) for one in made] == [["first", "second", "more"]] * 20
    assert [one.second for one in made] == [str(at) for at in range(20)]
    assert all(one.first is array for one in made)
    assert len({id(one.more) for one in made}) == 20
    for _ in range(20):
        with pytest.raises(TypeError, match="multiple values for argument 'first'"):
            Pair(1, first=2)
        with pytest.raises(TypeError, match="takes from 2 to 4 positional arguments but 5 were given"):
            Pair(1, 2, [], 3)


def test_a_field_without_a_default_after_one_with_a_default_is_refused_with_the_class() -> None:
    class Wrong:
        a: int = 1
        b: int

    class Made:
        a: list[int] = records.field(default_factory=list)
        b: int

    for cls in (Wrong, Made):
        expected = rf"{cls.__name__}: expected fields without a default first, got b after one with a default$"
        with pytest.raises(TypeError, match=expected):
            records.dataclass(cls)

    @records.dataclass
    class First:
        c: int = 1

    class Late(First):
        d: int

    with pytest.raises(TypeError, match=r"Late: expected fields without a default first, got d after"):
        records.dataclass(Late)
    assert records.dataclass(kw_only=True)(Late)(d=2).d == 2


@records.dataclass(kw_only=True)
class Optional:
    """Its fields come behind those of a class that derives from it."""

    size: int = 1


@records.dataclass
class Sized(Optional):
    """Has a field of either kind."""

    name: str


@records.dataclass(frozen=True, kw_only=True)
class FrozenOptional:
    """As `Optional`, frozen."""

    size: int = 1


@records.dataclass(frozen=True)
class FrozenSized(FrozenOptional):
    """As `Sized`, frozen."""

    name: str


@pytest.mark.parametrize("cls", [Sized, FrozenSized])
def test_equal_objects_pickle_alike_whenever_they_were_made(cls: Any) -> None:
    made = [cls("a", size=2) for _ in range(20)]
    assert [list(vars(one)) for one in made] == [["name", "size"]] * 20
    assert len({pickle.dumps(one) for one in made}) == 1
    assert pickle.loads(pickle.dumps(made[0])) == made[-1]


def test_base_classes() -> None:
    assert Deep(2, 3).area() == 6
    assert Deep.kind == "point"

    @records.dataclass(frozen=True)
    class Abstract(Base):
        x: int

    with pytest.raises(TypeError, match="abstract"):
        Abstract(1)


def test_copies() -> None:
    one = Identity("a")
    for copied in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copied.name == "a"
        assert type(copied) is Identity


def test_replace_and_asdict_of_nested_objects() -> None:
    deep = Deep(1, 2, {"a": 1}, (Point(3), [Identity("b")]))
    point = {"x": 3, "y": 2, "notes": {}}
    plain = {"x": 1, "y": 2, "notes": {"a": 1}, "z": (point, [{"name": "b"}])}
    assert records.asdict(deep) == dataclasses.asdict(deep) == plain
    assert records.asdict(deep)["notes"] is not deep.notes
    assert records.replace(deep, x=7) == Deep(7, 2, {"a": 1}, deep.z)


def test_the_standard_librarys_module_is_not_imported_for_a_class_or_an_object() -> None:
    program = (
        "import sys\nfrom rwkv_cy.config import Config\n"
        "from rwkv_cy.records import replace\n"
        "assert repr(replace(Config(8, 1), d_model=4)) == repr(Config(4, 1, d_att=8, d_ffn=32))\n"
        "assert 'dataclasses' not in sys.modules and 'inspect' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
