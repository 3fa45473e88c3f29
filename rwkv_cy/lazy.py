"""Imports that are made when something is first used: names of packages, and whole modules."""

from __future__ import annotations

import sys
from _thread import allocate_lock
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

__all__ = ["import_later", "names_from"]


def names_from(package: str, modules: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names come from its modules.

    Parameters
    ----------
    package : str
        Its name.
    modules : mapping of str to tuple of str
        The names by module, as it is called within the package.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__


_later_lock = allocate_lock()


class _Later(ModuleType):
    """Stands for a module until one of its attributes is used."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "__path__" and self.__dict__["__known__"]:  # "from module import name" looks for it first
            raise AttributeError(f"module {self.__name__!r} has no attribute {attribute!r}")
        with _later_lock:  # of two threads, the second must not remove the module that the first one loads
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        module = import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, attribute)


def import_later(name: str, known: Mapping[str, object] = MappingProxyType({})) -> None:
    """Have a module loaded when it is first used, not when it is imported; one that is loaded already stays so.

    Parameters
    ----------
    name : str
        The package that a module is in is imported at once.
    known : mapping of str to object, optional
        Attributes whose values are known without loading it; of a module, not of a package.
    """
    if name in sys.modules:
        return
    later = _Later(name)
    later.__dict__.update(known, __known__=known)
    package, _, short = name.rpartition(".")
    if package:
        setattr(import_module(package), short, later)
    sys.modules[name] = later
