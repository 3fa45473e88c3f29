"""Every hostile case with every reader: descriptions of tensors by format, and paths by kind of file."""

from __future__ import annotations

import gzip
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.specimens import SPECIMENS, Specimen, read_bytes
from hostile.entries import FORMATS, Described
from hostile.matrix import ALLOWED, CASES, answer, matrix_table

PAGE = Path(__file__).parents[2] / "docs" / "hostile.md"


@pytest.mark.parametrize("form", FORMATS)
def test_a_valid_description_is_read(form: str, tmp_path: Path) -> None:
    assert answer(form, Described(), tmp_path / "file") == "read"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_description_is_refused(form: str, case: str, tmp_path: Path) -> None:
    found = answer(form, CASES[case], tmp_path / "file")
    assert (found == "read") == ((form, case) in ALLOWED)


def test_the_page_has_the_table() -> None:
    """Print it with ``PYTHONPATH=tests:. python -m hostile.matrix``."""
    assert matrix_table() in PAGE.read_text("utf-8")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PATHS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "a folder": _folder,
    "a FIFO": _fifo,
    "a device": lambda path: _link(path, Path("/dev/zero")),
    "a dangling link": lambda path: _link(path, path.with_name("nowhere")),
    "a looping link": lambda path: _link(path, path),
    "a Git LFS pointer": lambda path: path.write_bytes(POINTER),
    "an HTML page": lambda path: path.write_bytes(b"<!DOCTYPE html>\n<html><body>404</body></html>\n"),
    "gzip": lambda path: path.write_bytes(gzip.compress(path.read_bytes(), mtime=0)),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "the file twice": lambda path: path.write_bytes(path.read_bytes() * 2),
}
#: A model needs no config.json, and bytes after the last tensor of a GGUF file are passed over.
SUFFICIENT = {("config.json of a folder", "missing"), ("GGUF", "the file twice")}


@pytest.fixture
def limited() -> Iterator[None]:
    """End the test with an exception if it hangs."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("the reader hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PATHS)
@pytest.mark.parametrize("make", SPECIMENS, ids=range(len(SPECIMENS)))
def test_what_is_not_the_file(make: Callable[[Path], Specimen], case: str, tmp_path: Path, limited: None) -> None:
    specimen = make(tmp_path)
    PATHS[case](specimen.file)
    assert bool(read_bytes(specimen)) == ((specimen.name, case) in SUFFICIENT)
