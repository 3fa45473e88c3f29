"""Types of the compiled module rwkv_cy.formats.layouts.recipe."""

from typing import Final

from rwkv_cy.formats.layouts.steps import Operation, Shape

class Part:
    name: Final[str]
    start: Final[int]
    shape: Final[Shape]
    operations: Final[tuple[Operation, ...]]
    def __init__(self, name: str, start: int, shape: Shape, operations: tuple[Operation, ...] = ()) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def result_shape(self) -> Shape: ...
    @property
    def reorders(self) -> bool: ...
    @property
    def computes(self) -> bool: ...

class Recipe:
    parts: Final[tuple[Part, ...]]
    shape: Final[Shape]
    def __init__(self, parts: tuple[Part, ...], shape: Shape) -> None: ...
    @staticmethod
    def whole(name: str, shape: Shape, operations: tuple[Operation, ...] = ()) -> Recipe: ...
    def keeps(self, name: str) -> bool: ...
