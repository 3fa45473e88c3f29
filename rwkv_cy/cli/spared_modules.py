"""The module ``inspect``, which compiled modules import and the command does not use: loaded when it is first used."""

from __future__ import annotations

from rwkv_cy.lazy import import_later

__all__ = ["CODE_FLAGS", "spare_inspect"]

#: The flags of code objects: all that compiled modules of the stable ABI use of it. They are the same in all versions
#: of Python.
CODE_FLAGS = {
    "CO_OPTIMIZED": 0x1,
    "CO_NEWLOCALS": 0x2,
    "CO_VARARGS": 0x4,
    "CO_VARKEYWORDS": 0x8,
    "CO_GENERATOR": 0x20,
    "CO_COROUTINE": 0x80,
    "CO_ASYNC_GENERATOR": 0x200,
}


def spare_inspect() -> None:
    """Have the module loaded later: with the parser of Python that it loads, it is a sixth of a command's start."""
    import_later("inspect", CODE_FLAGS)
