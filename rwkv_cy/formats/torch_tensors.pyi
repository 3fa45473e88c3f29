"""Types of the compiled module rwkv_cy.formats.torch_tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from rwkv_cy.errors import FormatError
from rwkv_cy.formats.raw import RawTensor
from rwkv_cy.formats.zip_entries import Place

class _Element(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def itemsize(self) -> int: ...
    @property
    def dtype(self) -> str | None: ...

class Storage:
    key: Final[str]
    element: Final[_Element]
    count: Final[int]
    nbytes: Final[int]
    def __init__(self, key: str, element: _Element, count: int) -> None: ...

class Tensor:
    storage: Final[Storage]
    offset: Final[int]
    shape: Final[tuple[Any, ...]]
    strides: Final[tuple[Any, ...]]
    element: Final[_Element]
    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[object, ...],
        strides: tuple[object, ...],
        element: _Element,
    ) -> None: ...
    @property
    def is_empty(self) -> bool: ...
    @property
    def left_out(self) -> str | None: ...

class Unusable:
    left_out: Final[str]
    def __init__(self, left_out: str) -> None: ...
    def __eq__(self, other: object) -> bool: ...

class TensorMaker:
    path: Final[Path]
    storages: Final[dict[str, Storage]]
    def __init__(self, path: Path, types: Mapping[str, _Element], views: bool) -> None: ...
    def storage(self, identity: object) -> Storage: ...
    def tensor(self, arguments: tuple[Any, ...]) -> Tensor | Unusable: ...
    def flagged(self, tensor: Tensor, flags: tuple[Any, ...]) -> Tensor | Unusable: ...
    def damaged(self, expected: str, got: str) -> FormatError: ...

def checksums(tensors: Mapping[str, Tensor], places: Mapping[str, Place]) -> dict[str, Place]: ...
def place_tensors(path: Path, tensors: Mapping[str, Tensor], places: Mapping[str, Place]) -> dict[str, RawTensor]: ...
