"""What users store on the server: bounded in size, and each user's apart from the others'."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from rwkv_cy.server.errors import ApiError, not_found

__all__ = ["OwnedStore"]

_T = TypeVar("_T")


class OwnedStore(Generic[_T]):
    """Values by owner and name. What was not used for the longest time makes place for what is added.

    Parameters
    ----------
    what : str
        What the values are, for messages.
    most : int
        Weight of all values of an owner.
    """

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._values: dict[str, OrderedDict[str, tuple[_T, int]]] = {}

    def add(self, owner: str, name: str, value: _T, weight: int) -> None:
        """Store a value, in place of one with the same name.

        Raises
        ------
        ApiError
            If it alone is too large.
        """
        if weight > self._most:
            raise ApiError(
                413, f"{self._what}: expected at most {self._most} bytes, got {weight}", code=f"{self._what}_too_large"
            )
        own = self._values.setdefault(owner, OrderedDict())
        own.pop(name, None)
        own[name] = (value, weight)
        while sum(each for _, each in own.values()) > self._most:
            own.popitem(last=False)

    def get(self, owner: str, name: str, param: str | None = None) -> _T:
        """Return a value; ApiError, about the field `param` of the body, if the owner has none of that name."""
        own = self._values.get(owner, OrderedDict())
        if name not in own:
            raise not_found(self._what, name, f"{self._what}_not_found", param)
        own.move_to_end(name)
        return own[name][0]

    def has(self, owner: str, name: str) -> bool:
        """Tell whether an owner has a value of that name."""
        return name in self._values.get(owner, ())

    def items(self, owner: str) -> Iterator[tuple[str, _T]]:
        """Yield the names and values of an owner, the newest last."""
        for name, (value, _) in list(self._values.get(owner, OrderedDict()).items()):
            yield name, value

    def delete(self, owner: str, name: str) -> None:
        """Remove a value; ApiError if the owner has none of that name."""
        self.get(owner, name)
        del self._values[owner][name]
