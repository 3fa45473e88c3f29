"""Names on the hub (``hf:owner/name/file``) among the arguments: downloaded, with a bar, before the command runs."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from rwkv_cy.cli.output import printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.errors import HubError
from rwkv_cy.hub_names import is_hub_name

__all__ = ["replace_hub_names"]

#: Arguments that name what a command writes.
_WRITTEN = ("target", "folder", "output", "save_state", "html", "into", "to")
#: Arguments that are texts, and may be paths.
_TEXTS = ("tokenizer",)
#: What short names of published models look like.
_SHORT_NAME = r"(?i:rwkv\w+-[\w.-]+\w)"


def replace_hub_names(arguments: argparse.Namespace) -> None:
    """Replace each path ``hf:...`` by that of the file or folder on this machine, after downloading what is missing.

    Raises
    ------
    HubError
        If it cannot be had, a target has such a name, or a path is the short name of a published model.
    """
    for key, value in list(vars(arguments).items()):
        if not isinstance(value, Path) and key not in (*_WRITTEN, *_TEXTS):
            continue
        if not isinstance(value, (str, Path)) or os.path.lexists(value):
            continue
        if not is_hub_name(value):
            if isinstance(value, Path) and key not in _WRITTEN:
                _check_short_name(str(value))
        elif key in _WRITTEN:
            raise HubError(f"{value}: expected a path on this machine to write to, got a name on the hub")
        else:
            setattr(arguments, key, _fetched(key, value, arguments))


def _check_short_name(path: str) -> None:
    """Raise HubError if a path that does not exist is the short name of a published model."""
    if not re.fullmatch(_SHORT_NAME, path):
        return
    from rwkv_cy.toolkit.known_models import known_models

    for model in known_models():
        if model.name == path.lower():
            raise HubError(
                f"{path}: no such file or folder; did you mean {model.hub_name} (rwkv-cy pull {path} downloads it)?"
            )


def _fetched(key: str, value: str | Path, arguments: argparse.Namespace) -> Any:
    from rwkv_cy.hub import local_path, local_tokenizer

    with progress_bar(printable(str(value)), not getattr(arguments, "no_progress", False)) as progress:
        path = local_tokenizer(value, progress) if key == "tokenizer" else local_path(value, progress)
    return type(value)(path)
