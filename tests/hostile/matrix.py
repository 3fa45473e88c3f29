"""What a stranger's file may say of a tensor, by format: the cases, what each format answers, and the table of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from hostile.entries import FORMATS, Described, Impossible
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.storage import is_model_file, open_model

__all__ = ["ALLOWED", "CASES", "answer", "matrix_table"]

CASES: dict[str, Described] = {
    "a name like a path (`../x`)": Described(name=b"../x"),
    "an absolute path as name (`/x`)": Described(name=b"/x"),
    "an empty name": Described(name=b""),
    "a name with NUL": Described(name=b"a\0b"),
    "a name with an escape sequence": Described(name=b"\x1b[2J"),
    "a name that is not UTF-8": Described(name=b"\xff\xfe"),
    "a name of 1 MB": Described(name=b"x" * (1 << 20)),
    "the same name twice": Described(twice=True),
    "2^50 entries": Described(count=1 << 50),
    "2^64 - 1 entries": Described(count=(1 << 64) - 1),
    "a dimension of 0": Described(shape=(0, 2)),
    "a negative dimension": Described(shape=(-1, 2)),
    "a dimension of 2^63": Described(shape=(1 << 63, 2)),
    "dimensions whose product wraps": Described(shape=(1 << 31, 1 << 31, 4)),
    "more bytes than the file has": Described(shape=(1 << 20, 2)),
    "an offset beyond the end": Described(offset=1 << 30),
    "an offset whose sum with the size wraps": Described(offset=(1 << 64) - 8),
    "a negative offset": Described(offset=-8),
    "a misaligned offset": Described(offset=1),
    "two tensors that overlap": Described(overlapping=True),
    "strides of 0": Described(strides=(0, 0)),
    "a negative stride": Described(strides=(-1, 1)),
    "strides beyond the storage": Described(strides=(1 << 40, 1)),
}

#: What is valid in a format although another one refuses it, by (format, case).
ALLOWED: dict[tuple[str, str], str] = {
    (form, case): reason
    for form in ("pth", "legacy pth")
    for case, reason in {
        "two tensors that overlap": "read: tensors may share a storage, as tied weights do; how many is limited",
        "strides of 0": "read: an expanded tensor, all elements of which are one number; its size is limited",
    }.items()
}


def answer(form: str, what: Described, path: Path) -> str:
    """Write the file and open it; return ``"refused"``, ``"read"``, or why the format cannot say it."""
    try:
        FORMATS[form](what, path)
    except Impossible as reason:
        return str(reason)
    try:
        opened = open_model(path) if is_model_file(path) else open_checkpoint(path)
    except (FormatError, UnsupportedError):
        return "refused"
    with opened:
        return "read"


def matrix_table() -> str:
    """Return the table in Markdown; what a format cannot say, or allows, is in the notes below it."""
    notes: list[str] = []
    lines = [f"| | {' | '.join(FORMATS)} |", f"|---|{':-:|' * len(FORMATS)}"]
    lines += [f"| {case} | {' | '.join(_cells(case, notes))} |" for case in CASES]
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]) + "\n"


def _cells(case: str, notes: list[str]) -> Iterator[str]:
    for form in FORMATS:
        with TemporaryDirectory() as folder:
            found = ALLOWED.get((form, case)) or answer(form, CASES[case], Path(folder) / "file")
        if found == "refused":
            yield "refused"
            continue
        if found not in notes:
            notes.append(found)
        yield f"({notes.index(found) + 1})"


if __name__ == "__main__":
    print(matrix_table(), end="")
