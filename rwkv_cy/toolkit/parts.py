"""Parts: a file cut into several for file systems with limits, and joined again; all under SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from rwkv_cy.errors import ConfigError, FormatError, StorageError
from rwkv_cy.files.part_names import LIST_SUFFIX, is_part_name, list_of
from rwkv_cy.files.reading import FileBytes, is_folder, new_file_path, os_errors, require_folder
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.files.temporary import remove_abandoned
from rwkv_cy.hub import local_path
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.toolkit.schema_names import named
from rwkv_cy.toolkit.target_path import free_space
from rwkv_cy.units import byte_size

__all__ = ["PART_SIZE", "JoinReport", "Part", "PartsReport", "join", "shard"]

#: Below the 4 GiB of FAT32.
PART_SIZE = 4_000_000_000
_MOST_PARTS = 9_999
_FORMAT, _VERSION = "rwkv-cy-parts", 1
_MAX_LIST_BYTES = 4 << 20
_BLOCK = 4 << 20
#: Lists that an error names; it counts the others.
_SHOWN = 5
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Part:
    """One part of a file.

    Attributes
    ----------
    name : str
        Of its file, which is beside the list.
    size : int
        Bytes.
    sha256 : str
        In hexadecimal.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PartsReport:
    """Result of :func:`shard`.

    Attributes
    ----------
    source, list : Path
        The file, and the list of its parts (``NAME.parts.json``).
    size : int
        Bytes of the file.
    sha256 : str
        Of the file, in hexadecimal.
    parts : tuple of Part
        In their order.
    """

    source: Path
    list: Path
    size: int
    sha256: str
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return named("shard", {**asdict(self), "source": str(self.source), "list": str(self.list)})


@dataclass(frozen=True)
class JoinReport:
    """Result of :func:`join`.

    Attributes
    ----------
    target : Path
    size : int
    sha256 : str
        Of the joined file, in hexadecimal, and as in the list.
    parts : int
    """

    target: Path
    size: int
    sha256: str
    parts: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return named("join", {**asdict(self), "target": str(self.target)})


def shard(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    part_size: int = PART_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> PartsReport:
    """Cut a file of any kind into parts, and write a list of them with their SHA-256.

    The parts are ``NAME.00001-of-00003`` and so on, the list is ``NAME.parts.json``; it is written last. After an error
    none of them is left. A process that is killed leaves parts without a list; the next call compares them with the
    file, and keeps them. To write a model as shards that programs open as they are, export it to a Hugging Face folder.

    Parameters
    ----------
    source : path
        The file.
    folder : path
        Where the parts are written; it must exist.
    part_size : int, default 4,000,000,000
        Most bytes of a part.
    progress : callable, optional
        Called with the bytes done and all bytes.

    Returns
    -------
    PartsReport

    Raises
    ------
    ConfigError
        If the file is no larger than a part, there would be more than 9,999 parts, or its name cannot be printed.
    StorageError
        If a part or the list exists, there is too little space, the file changed while it was read, or the operating
        system refuses.
    """
    source, folder = local_path(source), Path(folder)
    if part_size < 1:
        raise ConfigError(f"part_size: expected a positive number of bytes, got {part_size}")
    require_folder(folder)
    if not source.name.isprintable():
        raise ConfigError(
            f"{source}: expected a name of characters that can be printed, since the list of parts holds it; "
            "rename the file"
        )
    with FileBytes(source) as file:
        count = -(-file.size // part_size)
        if count == 1:
            raise ConfigError(f"{source}: its {byte_size(file.size)} fit into one part of {byte_size(part_size)}")
        if count > _MOST_PARTS:
            raise ConfigError(
                f"part_size: expected at most {_MOST_PARTS} parts, got {count} of {byte_size(part_size)}; "
                "choose larger ones"
            )
        paths = [folder / f"{source.name}.{number:05}-of-{count:05}" for number in range(1, count + 1)]
        listed = folder / f"{source.name}{LIST_SUFFIX}"
        sizes = [min(part_size, file.size - number * part_size) for number in range(count)]
        if listed.exists() or listed.is_symlink():
            raise _exists(listed)
        finished = {path for path, size in zip(paths, sizes, strict=True) if _is_finished(path, size)}
        for path in finished:
            with os_errors(path, "look beside"):
                remove_abandoned(path)  # the temporary name of a part whose writer was killed just after its rename
        needed = sum(size for path, size in zip(paths, sizes, strict=True) if path not in finished)
        free = free_space(folder)
        if free < needed:
            raise StorageError(
                f"{folder}: not enough disk space: need {byte_size(needed)}, {byte_size(free)} free; "
                "choose another folder"
            )
        with _removed_after_an_error() as written:
            whole = hashlib.sha256()
            parts = []
            for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
                start = number * part_size
                own = hashlib.sha256()
                with FileBytes(path) if path in finished else Replacement(path, overwrite=False) as part:
                    if isinstance(part, Replacement):
                        part.reserve(size)
                    for offset in range(0, size, _BLOCK):
                        block = file.read_at(start + offset, min(_BLOCK, size - offset))
                        own.update(block)
                        whole.update(block)
                        if isinstance(part, Replacement):
                            part.write_at(offset, block)
                        elif part.read_at(offset, len(block)) != block:
                            raise _exists(path)
                        if progress is not None:
                            progress(start + offset + len(block), file.size)
                    if isinstance(part, Replacement):
                        part.commit()
                        written.append(path)
                parts.append(Part(path.name, size, own.hexdigest()))
            file.identity.check_unchanged()
            report = PartsReport(source, listed, file.size, whole.hexdigest(), tuple(parts))
            _write_list(report)
    return report


def join(
    parts: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> JoinReport:
    """Join the parts that :func:`shard` wrote, and check every byte against their SHA-256.

    Parameters
    ----------
    parts : path
        The list ``NAME.parts.json``, any of the parts, or the folder if it holds one list; all are in one folder.
    target : path
        The file to write. It appears complete or not at all.
    progress : callable, optional
        Called with the bytes done and all bytes.

    Returns
    -------
    JoinReport

    Raises
    ------
    FormatError
        If the list is damaged, or a part is missing, of another size, or damaged: all missing ones are named.
    StorageError
        If the target exists, there is too little space, or the operating system refuses.
    """
    target, listed = new_file_path(target), _list_of(Path(parts))
    size, digest, expected = _read_list(listed)
    _check_sizes(listed, expected)
    require_folder(target.parent)
    whole = hashlib.sha256()
    done = 0
    if target.is_dir():
        whole_name = listed.name.removesuffix(LIST_SUFFIX)
        raise StorageError(f"{target}: expected the name of a new file, got a folder; name {target / whole_name}")
    if target.is_symlink() or target.exists():
        raise StorageError(f"{target} already exists; choose another name, or remove it")
    with Replacement(target, overwrite=False) as joined:
        joined.reserve(size)
        for part in expected:
            own = hashlib.sha256()
            with FileBytes(listed.with_name(part.name)) as file:
                for offset in range(0, part.size, _BLOCK):
                    block = file.read_at(offset, min(_BLOCK, part.size - offset))
                    own.update(block)
                    whole.update(block)
                    joined.write_at(done, block)
                    done += len(block)
                    if progress is not None:
                        progress(done, size)
            if own.hexdigest() != part.sha256:
                raise FormatError(f"{listed.with_name(part.name)}: wrong SHA-256; copy this part again")
        if whole.hexdigest() != digest:
            raise FormatError(
                f"{listed}: expected parts of a file with the SHA-256 {digest}, got others; shard it again"
            )
        joined.commit()
    return JoinReport(target, size, digest, len(expected))


@contextlib.contextmanager
def _removed_after_an_error() -> Iterator[list[Path]]:
    """Yield a list for the files that are written: they are removed after an error."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def _exists(path: Path) -> StorageError:
    return StorageError(f"{path} already exists; choose another folder, or remove it")


def _is_finished(path: Path, size: int) -> bool:
    """Whether a part is there already, as far as its size tells; StorageError if it is anything else."""
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
        raise _exists(path)
    return True


def _write_list(report: PartsReport) -> None:
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": report.source.name,
        "size": report.size,
        "sha256": report.sha256,
        "parts": [asdict(part) for part in report.parts],
    }
    with Replacement(report.list, overwrite=False) as file:
        data = json.dumps(content, indent=1).encode("ascii")
        file.reserve(len(data))
        file.write_at(0, data)
        file.commit()


def _list_of(path: Path) -> Path:
    """Return the list that a path names, that of the part that it names, or the only one in the folder that it names.

    Raises
    ------
    FormatError
        For other names, and for a folder without a list or with several.
    """
    if is_folder(path):
        return _list_in(path)
    listed = list_of(path)
    if listed is None:
        raise FormatError(
            f"{path}: expected a list NAME{LIST_SUFFIX} or a part NAME.00001-of-00002, got another name; "
            "shard writes such files"
        )
    return listed


def _list_in(folder: Path) -> Path:
    """Return the only list in a folder."""
    with os_errors(folder, "list"):
        names = sorted(path.name for path in folder.iterdir() if path.name.endswith(LIST_SUFFIX))
    if len(names) != 1:
        shown = [name if name.isprintable() else ascii(name) for name in names[:_SHOWN]]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise FormatError(
            f"{folder}: expected one list NAME{LIST_SUFFIX} in this folder, got {', '.join(shown) or 'none'}{more}; "
            f"{'name one of them' if names else 'name the folder that shard wrote to'}"
        )
    return folder / names[0]


def _read_list(path: Path) -> tuple[int, str, tuple[Part, ...]]:
    """Return size and SHA-256 of the file, and its parts; FormatError unless all of it is plausible."""
    with FileBytes(path) as file:
        if file.size > _MAX_LIST_BYTES:
            _refuse(path, f"at most {_MAX_LIST_BYTES} bytes", str(file.size))
        content = parse_object(path, "list of parts", file.read_at(0, file.size))
    found = content.get("format"), content.get("version")
    if found != (_FORMAT, _VERSION):
        _refuse(path, f"the format {_FORMAT}, version {_VERSION}", f"{found[0]!r:.40}, {found[1]!r:.40}")
    items = content.get("parts")
    if not isinstance(items, list) or not 2 <= len(items) <= _MOST_PARTS:
        _refuse(path, f"from 2 to {_MOST_PARTS} parts", "others")
    parts = tuple(_part(path, item) for item in items)
    size, digest = content.get("size"), content.get("sha256")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        _refuse(path, "the SHA-256 of the file", f"{digest!r:.40}")
    if not isinstance(size, int) or size != sum(part.size for part in parts):
        _refuse(path, "the size of all parts together", f"{size!r:.40}")
    return size, digest, parts


def _part(path: Path, item: object) -> Part:
    if not isinstance(item, dict) or item.keys() != {"name", "size", "sha256"}:
        _refuse(path, "parts with name, size and sha256", f"{item!r:.80}")
    name, size, digest = item["name"], item["size"], item["sha256"]
    if not isinstance(name, str) or not name.isprintable() or not is_part_name(name) or "/" in name:
        _refuse(path, "the name of a part beside the list", f"{name!r:.80}")
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < 1 << 63:
        _refuse(path, f"the size of {name}", f"{size!r:.40}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        _refuse(path, f"the SHA-256 of {name}", f"{digest!r:.40}")
    return Part(name, size, digest)


def _refuse(path: Path, expected: str, got: str) -> NoReturn:
    raise FormatError(f"{path}: expected {expected}, got {got}; copy the list of the parts again")


def _check_sizes(listed: Path, parts: tuple[Part, ...]) -> None:
    """Raise FormatError if parts are missing or of other sizes."""
    problems = []
    for part in parts:
        path = listed.with_name(part.name)
        with os_errors(path, "look at"):
            size = path.stat().st_size if path.exists() else None
        if size is None:
            problems.append(f"{part.name} is missing")
        elif size != part.size:
            problems.append(f"{part.name} has {size} bytes instead of {part.size}")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise FormatError(f"{listed}: {'; '.join(problems[:10])}{more}; copy these parts again")
