"""Large models, by sparse files of every format: what each operation takes, and a conversion that writes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.checkpoints import FOLDER
from benchmarks.processes import Run, run
from benchmarks.report import Report
from benchmarks.sparse import FORMATS, LARGE_SHAPES, write_sparse
from rwkv_cy.errors import UnsupportedError
from rwkv_cy.units import byte_size

_TOOL = (sys.executable, "-m", "rwkv_cy")
#: The operations without a dry run write this shape, from this format, as these.
_WRITTEN_SHAPE, _WRITTEN_FROM, _EXPORT = "7-13b", "pth", "model.gguf"
#: Types of the files that are written, and of GGUF's, by their name.
_WRITTEN_TYPES = {"f16": "f16", "q8": "q8_0", "q4": "q4_0"}
#: What writes and reads the files, in this order.
_STEPS = ("convert", "verify", "export")
#: Programs that a user of the Python API writes; the file is the first argument.
_LOAD = "import sys, rwkv_cy; rwkv_cy.load(sys.argv[1])"
_TOKEN = "import sys, rwkv_cy; rwkv_cy.load(sys.argv[1]).forward(1)"


@dataclass(frozen=True)
class Operation:
    """Something that people do with a file.

    Attributes
    ----------
    words : callable
        The command, given the file and another one of the same shape.
    shapes : tuple of str
        The shapes that it is done with where it is not named: reading 140 GB takes minutes.
    """

    words: Callable[[Path, Path], Sequence[str]]
    shapes: tuple[str, ...] = tuple(LARGE_SHAPES)


_READABLE = ("7-13b", "7-1000-layers", "4-wide")
_OPERATIONS = {
    "inspect": Operation(lambda file, _: (*_TOOL, "inspect", str(file))),
    "convert --dry-run": Operation(
        lambda file, _: (*_TOOL, "convert", str(file), f"{file}.converted.h5", "--tokenizer", "none", "--dry-run")
    ),
    "load": Operation(lambda file, _: (sys.executable, "-c", _LOAD, str(file))),
    "a token": Operation(lambda file, _: (sys.executable, "-c", _TOKEN, str(file)), ("7-1000-layers",)),
    "diff of layer 0": Operation(
        lambda file, other: (*_TOOL, "diff", str(other), str(file), "--tensors", "blocks.0.*")
    ),
    "verify": Operation(lambda file, _: (*_TOOL, "verify", str(file)), _READABLE),
}


def _files(folder: Path, shape: str, formats: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Write the sparse files of a shape, and yield the formats that have a form for it."""
    for name in formats:
        suffix, dtype = FORMATS[name]
        path = folder / f"{shape}-{dtype}{suffix}"
        try:
            if not path.exists():
                write_sparse(path, LARGE_SHAPES[shape], dtype)
        except UnsupportedError as error:
            print(f"{shape}, {name}: {error}", file=sys.stderr)
            continue
        yield name, path


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measure(
    folder: Path, shapes: Sequence[str], formats: Sequence[str], operations: Sequence[str] | None
) -> Iterator[tuple[str, str, str, int, Run]]:
    """Yield shape, format, operation, bytes of the file, and what the operation took.

    Operations that are named are done with every shape; without names, all are, each with its own.
    """
    for shape in shapes:
        written = dict(_files(folder, shape, formats))
        try:
            for name, path in written.items():
                other = next(iter(written.values()))
                for title in _OPERATIONS if operations is None else operations:
                    operation = _OPERATIONS[title]
                    fits = operations is not None or shape in operation.shapes
                    if fits and not (other == path and "diff" in title):
                        yield (
                            shape,
                            name,
                            title,
                            _size(path),
                            run(operation.words(path, other), sample=True, check=False),
                        )
        finally:
            for path in written.values():
                _remove(path)


def write(folder: Path, dtype: str, wanted: Sequence[str]) -> Iterator[tuple[str, str, str, int, Run]]:
    """Convert a sparse checkpoint to a model file, verify and remove it, and export to a file that is removed too."""
    suffix, source_dtype = FORMATS[_WRITTEN_FROM]
    source = folder / f"{_WRITTEN_SHAPE}-{source_dtype}{suffix}"
    model, exported = folder / "written.h5", folder / _EXPORT
    write_sparse(source, LARGE_SHAPES[_WRITTEN_SHAPE], source_dtype)
    no_tokenizer = ("--tokenizer", "none")
    types = ("--dtype", dtype), ("--dtype", _WRITTEN_TYPES[dtype])
    steps: Mapping[str, tuple[Path, Sequence[str]]] = {
        "convert": (model, (*_TOOL, "convert", str(source), str(model), *types[0], *no_tokenizer)),
        "verify": (model, (*_TOOL, "verify", str(model))),
        "export": (exported, (*_TOOL, "export", str(source), str(exported), *types[1], *no_tokenizer)),
    }
    try:
        for title in (step for step in _STEPS if step in wanted):
            target, words = steps[title]
            if title == "export":
                _remove(model)
            found = run(words, sample=True, check=False)
            size = _size(target) if target.exists() else 0
            yield _WRITTEN_SHAPE, f"{target.suffix[1:]} {dtype}", f"{title}, on the disk", size, found
    finally:
        for path in (source, model, exported):
            _remove(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_large", description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=LARGE_SHAPES, default=list(LARGE_SHAPES))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument(
        "--operations",
        nargs="*",
        choices=_OPERATIONS,
        help="with every shape; if not given, all, but what reads a whole file leaves out 70B",
    )
    parser.add_argument(
        "--write",
        nargs="+",
        choices=_STEPS,
        default=[],
        help="also convert a 27 GB checkpoint, verify what was written, and export it: 27 GB on the disk in f16",
    )
    parser.add_argument("--write-dtype", choices=_WRITTEN_TYPES, default="f16", help="of what --write writes")
    parser.add_argument("--folder", type=Path, default=FOLDER / "large", help="of the files, which are removed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    report = Report(
        "Large models, by sparse files of zeros",
        ("shape", "format", "operation", "size", "s", "anonymous memory, MB", "exit code"),
        notes=["Anonymous memory: the most that the process was seen with (RssAnon)."],
        values={"runs": []},
    )
    runs = [measure(arguments.folder, arguments.shapes, arguments.formats, arguments.operations)]
    runs += [write(arguments.folder, arguments.write_dtype, arguments.write)] if arguments.write else []
    for part in runs:
        for shape, name, title, size, found in part:
            memory = f"{found.anonymous_bytes / 1e6:.0f}"
            row = (shape, name, title, byte_size(size), f"{found.seconds:.1f}", memory, str(found.code))
            report.rows.append(row)
            report.values["runs"].append({"shape": shape, "format": name, "operation": title, **asdict(found)})
            print(*row, found.errors[:300], sep="\t", file=sys.stderr, flush=True)
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
