"""The formats that models are exported to, by name and by suffix."""

from __future__ import annotations

import os
from pathlib import Path

from rwkv_cy.errors import ConfigError
from rwkv_cy.formats.writers.base import ExportFormat
from rwkv_cy.formats.writers.gguf import GgufFormat
from rwkv_cy.formats.writers.huggingface import HuggingFaceFormat
from rwkv_cy.formats.writers.pth import PthFormat
from rwkv_cy.formats.writers.rwkvcpp import RwkvCppFormat
from rwkv_cy.formats.writers.safetensors import SafetensorsFormat, WebRwkvFormat

__all__ = ["EXPORT_FORMATS", "format_of"]

_FOLDER = HuggingFaceFormat()
#: By name.
EXPORT_FORMATS: dict[str, ExportFormat] = {
    entry.name: entry
    for entry in (PthFormat(), SafetensorsFormat(), WebRwkvFormat(), GgufFormat(), RwkvCppFormat(), _FOLDER)
}
_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))
#: Of what conversions write.
_MODEL_FILE_SUFFIXES = (".h5", ".hdf5")


def format_of(target: str | os.PathLike[str], name: str | None = None) -> ExportFormat:
    """Return the export format of that name, or the one that the suffix of `target` means.

    A name without a suffix or with a slash at its end, and an existing folder, mean a folder. What begins with a digit
    is not a suffix but a number in the name, as in ``model-0.4b``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name is not None:
        found = EXPORT_FORMATS.get(name)
        if found is None:
            raise ConfigError(f"format: expected one of {', '.join(EXPORT_FORMATS)}, got {name!r}")
        return found
    if os.fspath(target).endswith(_SEPARATORS):
        return _FOLDER
    target = Path(target)
    suffix = target.suffix.lower()
    for entry in EXPORT_FORMATS.values():
        if suffix in entry.suffixes:
            return entry
    if not suffix or suffix[1:2].isdigit() or target.is_dir():
        return _FOLDER
    known = ", ".join(suffix for entry in EXPORT_FORMATS.values() for suffix in entry.suffixes)
    remedy = f"rename it, or name the format (--format {_FOLDER.name} for a folder)"
    if suffix in _MODEL_FILE_SUFFIXES:
        remedy = "rwkv-cy convert (rwkv_cy.convert) writes model files"
    raise ConfigError(f"{target}: expected a target that ends in one of {known}, or a folder, got {suffix}; {remedy}")
