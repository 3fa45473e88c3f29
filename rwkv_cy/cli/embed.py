"""``rwkv-cy embed``: vectors of texts."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy.cli.arguments import common_options, new_file
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.json_stream import JsonObject
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.output import printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.standard_input import add_text_argument, given_text
from rwkv_cy.errors import NumericalError, StorageError, TokenError, TokenizerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.model.language_model import LanguageModel

__all__ = ["add_parser"]

#: The choices of rwkv_cy.model.hidden.POOLINGS, which needs NumPy.
POOLINGS = ("mean", "last")
#: The first bytes of a NumPy array.
_MAGIC = b"\x93NUMPY"
#: How errors begin that concern one of several texts.
_SEQUENCE = re.compile(r"sequence ([0-9]{1,9}): ")
#: Texts whose vectors are in memory at a time.
_GROUP = 64


def add_parser(commands: Subparsers) -> None:
    """Add ``embed`` to the command's parser."""
    parser = commands.add_parser(
        "embed",
        parents=[common_options()],
        description="Print a vector that stands for a text: the hidden states of its tokens after the last "
        "LayerNorm, which the head maps to logits, pooled to one vector of d_model numbers. With "
        "--lines, each line is a text of its own.",
        examples=[
            "rwkv-cy embed model.h5 'In the beginning'",
            "rwkv-cy embed model.h5 --file text.txt --lines --normalize --output vectors.npy",
            "cat text.txt | rwkv-cy embed model.h5 - --lines --json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file or checkpoint")
    add_text_argument(parser, "the text")
    parser.add_argument("--lines", action="store_true", help="each line is a text; empty lines are errors")
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        default="mean",
        help="mean of all tokens, or the hidden state after the last (default: mean)",
    )
    parser.add_argument("--normalize", action="store_true", help="scale each vector to length 1")
    parser.add_argument(
        "-o", "--output", type=new_file, metavar="FILE", help="write a NumPy array (.npy) of shape (texts, d_model)"
    )
    parser.add_argument("--force", action="store_true", help="let --output replace a file")
    add_text_options(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    _check_output(arguments)
    name, data = given_text(arguments)
    texts = _lines(name, data) if arguments.lines else [data]
    if not arguments.lines and not data:
        raise TokenError(f"{name}: expected at least one token, got an empty text")
    model = load_text_model(arguments.model, arguments)
    # Lines on a terminal show the progress themselves.
    bar = not arguments.no_progress and (arguments.output is not None or not sys.stdout.isatty())
    with progress_bar(printable(name), bar, unit=" texts") as progress:
        vectors = _vectors(model, name, texts, arguments, progress)
        if arguments.output is not None:
            _write(vectors, (len(texts), model.config.d_model), arguments)
        elif arguments.json:
            _print_json(vectors, texts, model.config.d_model, arguments)
        else:
            for vector in vectors:
                print(*vector)
    return ExitCode.OK


def _check_output(arguments: argparse.Namespace) -> None:
    """Raise an error, before the model is loaded, if the vectors cannot be written."""
    path: Path | None = arguments.output
    if path is None:
        if arguments.force:
            arguments.parser.error("--force is for --output; leave it out")
        return
    if arguments.json:
        arguments.parser.error("--json is printed, and --output writes an array; leave one out")
    if path.suffix != ".npy":
        arguments.parser.error(f"--output: expected a file name that ends in .npy, got {path.name!r}")
    if path.is_dir():
        raise StorageError(f"{path} is a folder; name a file in it for --output")
    if path.exists() and not arguments.force:
        raise StorageError(f"{path} already exists; choose another name or pass --force")
    if path.exists() and not _is_array(path):
        raise StorageError(f"{path} is not a NumPy array, which --force would replace; choose another name")
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent}: not a folder; create it before vectors are written there")


def _is_array(path: Path) -> bool:
    """Tell whether a file is empty or a NumPy array."""
    from rwkv_cy.files.reading import os_errors

    with os_errors(path, "open"):
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) in (b"", _MAGIC)


def _lines(name: str, data: bytes) -> list[bytes]:
    """Split a text into lines; TokenError if one is empty, since the vectors would no longer be those of the lines."""
    lines = [line.removesuffix(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]
    for number, line in enumerate(lines, 1):
        if not line:
            raise TokenError(f"{name}: line {number}: expected a text, got an empty line; remove it")
    return lines


def _vectors(
    model: LanguageModel,
    name: str,
    texts: Sequence[bytes],
    arguments: argparse.Namespace,
    progress: Callable[[int, int], None] | None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the vector of each text, in bounded memory."""
    for start in range(0, len(texts), _GROUP):
        group = texts[start : start + _GROUP]
        try:
            yield from model.embed(group, pooling=arguments.pooling, normalize=arguments.normalize)
        except (NumericalError, TokenizerError) as error:
            raise type(error)(_located(str(error), name, start, arguments.lines)) from None
        if progress is not None:
            progress(start + len(group), len(texts))


def _located(message: str, name: str, start: int, lines: bool) -> str:
    """Return an error of :meth:`LanguageModel.embed`, which counts the texts of a group, with the number of a line."""
    match = _SEQUENCE.match(message)
    if match is None:
        return f"{name}: {message}"
    line = f"line {start + int(match[1]) + 1}: " if lines else ""
    return f"{name}: {line}{message[match.end() :]}"


def _write(vectors: Iterator[npt.NDArray[Any]], shape: tuple[int, int], arguments: argparse.Namespace) -> None:
    """Write a NumPy array row by row; the file is complete at the end, or does not appear."""
    import io

    import numpy as np

    from rwkv_cy.files.replacement import Replacement

    with Replacement(arguments.output, overwrite=arguments.force) as file:
        first = next(vectors)
        header = io.BytesIO()
        described = {"descr": first.dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        offset = header.tell()
        file.reserve(offset + shape[0] * first.nbytes)
        file.write_at(0, header.getvalue())
        for vector in chain([first], vectors):
            row = vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
            file.write_at(offset, row)
            offset += len(row)
        file.commit()


def _print_json(
    vectors: Iterator[npt.NDArray[Any]], texts: Sequence[bytes], d_model: int, arguments: argparse.Namespace
) -> None:
    with JsonObject("embed") as result:
        result.member("model", str(arguments.model))
        result.member("pooling", arguments.pooling)
        result.member("normalized", arguments.normalize)
        result.member("d_model", d_model)
        result.member("count", len(texts))
        result.array(
            "vectors",
            (
                {"text": text.decode("utf-8", "replace"), "vector": [float(str(x)) for x in vector]}
                for text, vector in zip(texts, vectors, strict=True)
            ),
        )
