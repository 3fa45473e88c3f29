"""Modules that others import and that most commands never use: loaded when they are first used."""

from __future__ import annotations

import sys

from rwkv_cy.lazy import import_later

__all__ = ["CODE_FLAGS", "spare_modules"]

#: The flags of code objects, which compiled modules of the stable ABI look up in the module inspect, and use nothing
#: else of it. They are the same in all versions of Python.
CODE_FLAGS = {
    "CO_OPTIMIZED": 0x1,
    "CO_NEWLOCALS": 0x2,
    "CO_VARARGS": 0x4,
    "CO_VARKEYWORDS": 0x8,
    "CO_GENERATOR": 0x20,
    "CO_COROUTINE": 0x80,
    "CO_ASYNC_GENERATOR": 0x200,
}


def spare_modules() -> None:
    """Have those of the standard library loaded later. Must be called before pathlib and argparse are imported."""
    # pathlib names the first and takes a function from the second, for paths of Windows and for URLs of files.
    import_later("ntpath")
    import_later("urllib.parse", {"quote_from_bytes": _quote_from_bytes})
    # argparse has its messages translated, which are in English wherever no catalog for Python is installed; the
    # messages of this package are in English only.
    import_later("gettext", {"gettext": _gettext, "ngettext": _ngettext})
    import_later("inspect", CODE_FLAGS)


def _quote_from_bytes(data: bytes, safe: str = "/") -> str:
    from urllib.parse import quote  # loads the module, which then stands in the place of the other

    del quote
    text: str = sys.modules["urllib.parse"].quote_from_bytes(data, safe)
    return text


def _gettext(message: str) -> str:
    return message


def _ngettext(singular: str, plural: str, number: int) -> str:
    return singular if number == 1 else plural
