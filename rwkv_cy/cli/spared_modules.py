"""Modules that others import and the command hardly uses: loaded when they are first used."""

from __future__ import annotations

from rwkv_cy.lazy import import_later

__all__ = ["CODE_FLAGS", "spare_modules"]

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


def _same(message: str) -> str:
    """Return a message that is not translated."""
    return message


def _same_number(singular: str, plural: str, number: int) -> str:
    """Return the message for so many things, not translated."""
    return singular if number == 1 else plural


def spare_modules() -> None:
    """Have modules loaded later.

    ``inspect``, which compiled modules import, is a sixth of a command's start with the parser of Python that it
    loads. ``ipaddress``, for addresses of the web in brackets, comes with every path. ``gettext`` looks for
    translations of the words of argparse, of which Python has none, and loads ``locale`` for that.
    """
    import_later("inspect", CODE_FLAGS)
    import_later("ipaddress")
    import_later("gettext", {"gettext": _same, "ngettext": _same_number})
