"""Colours of what the command prints, where a terminal shows them and nobody has turned them off."""

from __future__ import annotations

from typing import Literal, TextIO

from rwkv_cy.runtime import colour_setting

__all__ = ["Style", "styled"]

Style = Literal["error", "warning", "ok", "dim"]
#: Parameters of the control sequence that selects a style (ECMA-48, Select Graphic Rendition).
_PARAMETERS: dict[Style, str] = {"error": "1;31", "warning": "33", "ok": "32", "dim": "2"}


def styled(text: str, style: Style, stream: TextIO) -> str:
    """Return `text` in a style, if `stream` shows colours: a terminal does, unless the environment says otherwise."""
    setting = colour_setting()
    shown = stream.isatty() if setting is None else setting
    return f"\x1b[{_PARAMETERS[style]}m{text}\x1b[0m" if shown and text else text
