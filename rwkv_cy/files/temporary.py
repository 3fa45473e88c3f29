"""Temporary names beside a target: what they look like, and removal of those whose writer died."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

__all__ = ["name_beside", "remove_abandoned"]

#: A temporary file or folder that has not been modified for so long belongs to a writer that died.
_ABANDONED_SECONDS = 24 * 3600


def name_beside(target: Path, suffix: str = "tmp") -> Path:
    """Return a new name in the target's folder: ``.NAME.XXXXXXXX.tmp``."""
    return target.with_name(f".{_stem(target)}.{secrets.token_hex(4)}.{suffix}")


def remove_abandoned(target: Path) -> None:
    """Remove temporary files and folders of `target` that a dead writer left behind.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    pattern = re.compile(rf"\.{re.escape(_stem(target))}\.[0-9a-f]{{8}}\.tmp")
    oldest = time.time() - _ABANDONED_SECONDS
    with os.scandir(target.parent) as entries:
        for entry in entries:
            # Best effort: what is gone or not ours is skipped.
            with contextlib.suppress(OSError):
                if pattern.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        Path(entry.path).unlink()


def _stem(target: Path) -> str:
    """Return the target's name, shortened so that a temporary name fits into 255 bytes."""
    return os.fsdecode(os.fsencode(target.name)[:200].decode("utf-8", "ignore").encode())
