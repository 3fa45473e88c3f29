"""The hub's cache of one repository, as every program that uses huggingface_hub lays it out.

``blobs/HASH`` are the files, ``snapshots/COMMIT/NAME`` symbolic links to them, and ``refs/REVISION`` holds the commit
of a branch or tag when it was last looked up.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from rwkv_cy.files.reading import os_errors
from rwkv_cy.hub.library import cache_folder
from rwkv_cy.hub.listing import Listing, RemoteFile

__all__ = ["Cache"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Cache:
    """The part of the cache that belongs to one repository.

    Parameters
    ----------
    repository : str
        ``"owner/name"``.
    """

    def __init__(self, repository: str) -> None:
        self.folder = cache_folder() / f"models--{repository.replace('/', '--')}"

    def blob(self, file: RemoteFile) -> Path:
        """Return where the bytes of a file are, or will be."""
        return self.folder / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        """Return where the bytes of a file are until they are complete."""
        return self.folder / "blobs" / f"{file.digest}.rwkv_cy.incomplete"

    def has(self, file: RemoteFile) -> bool:
        """Tell whether the cache has the bytes of a file."""
        with suppress(OSError):
            return self.blob(file).stat().st_size == file.size
        return False

    def commit(self, revision: str) -> str | None:
        """Return the commit that a revision had when it was last looked up; None if the cache does not know it."""
        if _COMMIT.fullmatch(revision):
            return revision
        with suppress(OSError, ValueError):
            commit = (self.folder / "refs" / revision).read_text("ascii").strip()
            return commit if _COMMIT.fullmatch(commit) else None
        return None

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit's files, which may not exist."""
        return self.folder / "snapshots" / commit

    def files(self, commit: str) -> tuple[RemoteFile, ...]:
        """Return the files of a commit that are in the cache, with their sizes and without hashes."""
        snapshot, found = self.snapshot(commit), []
        for folder, _, names in os.walk(snapshot):
            for name in sorted(names):
                path = Path(folder) / name
                with suppress(OSError):  # a link whose blob has been removed
                    found.append(RemoteFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, ""))
        return tuple(found)

    def link(self, commit: str, file: RemoteFile) -> Path:
        """Give a blob its name in the snapshot of a commit, and return the path."""
        path = self.snapshot(commit) / file.name
        with os_errors(path, "create"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
                _point(beside, self.blob(file))
                beside.replace(path)
        return path

    def remember(self, revision: str, listing: Listing) -> None:
        """Note the commit of a branch or tag."""
        if revision == listing.commit:
            return
        path = self.folder / "refs" / revision
        with os_errors(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
            beside.write_text(listing.commit, "ascii")
            beside.replace(path)


def _point(path: Path, blob: Path) -> None:
    """Make `path` a symbolic link to a blob, or a copy of it on a file system that has no links."""
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        shutil.copyfile(blob, path)
