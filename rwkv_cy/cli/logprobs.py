"""``rwkv-cy logprobs``: how likely a model takes each token of a text to be."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rwkv_cy.cli.arguments import common_options, integer
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.json_stream import JsonObject
from rwkv_cy.cli.model_options import add_text_options, load_text_model, tokenizer_of
from rwkv_cy.cli.output import print_fields, printable
from rwkv_cy.cli.pieces import piece_of, quoted, token_fields
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.standard_input import add_text_argument, given_text
from rwkv_cy.errors import TokenError
from rwkv_cy.records import dataclass

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.model.language_model import LanguageModel

__all__ = ["add_parser"]

_MOST_SHOWN = 100
_HEADER = ("position", "id", "log p", "p", "rank", "piece")
_WIDTHS = (8, 6, 8, 8, 6)


def add_parser(commands: Subparsers) -> None:
    """Add ``logprobs`` to the command's parser."""
    parser = commands.add_parser(
        "logprobs",
        parents=[common_options()],
        description="Print the log-probability (natural logarithm) of each token of a text, given the tokens before "
        "it, its rank among all tokens, and the likeliest tokens in its place. Nothing predicts the "
        "first token, unless --context is before it.",
        examples=[
            "rwkv-cy logprobs model.h5 'In the beginning'",
            "rwkv-cy logprobs model.h5 --context 'Q: 2+2? A:' ' 4' --no-tokens",
            "rwkv-cy logprobs model.h5 --file text.txt --json > text.json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file or checkpoint")
    add_text_argument(parser, "the text")
    parser.add_argument("--context", metavar="TEXT", help="text before the first token; its own tokens are not listed")
    parser.add_argument(
        "--top", type=integer(0, _MOST_SHOWN), default=3, metavar="N", help="show the N likeliest tokens (default: 3)"
    )
    parser.add_argument("--no-tokens", action="store_true", help="print the totals only")
    add_text_options(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, parser=parser)


class _Row(NamedTuple):
    """One token: its log-probability and rank are None where nothing predicts it."""

    position: int
    token: int
    piece: bytes
    logprob: float | None
    rank: int | None
    top: list[tuple[int, bytes, float]]


@dataclass
class _Totals:
    """What is summed while the tokens are printed."""

    tokens: int = 0
    predicted: int = 0
    logprob: float = 0.0
    text_bytes: int = 0

    def add(self, row: _Row) -> None:
        self.tokens += 1
        if row.logprob is not None:
            self.predicted += 1
            self.logprob += row.logprob
            self.text_bytes += len(row.piece)

    def members(self) -> dict[str, Any]:
        """Return the sums, and what follows from them; None where nothing is predicted."""
        from rwkv_cy.toolkit.perplexity import PerplexityReport

        derived: dict[str, Any] = {"perplexity": None, "bits_per_byte": None}
        if self.predicted:
            report = PerplexityReport(self.predicted, -self.logprob, self.text_bytes).to_dict()
            derived = {name: report[name] for name in derived}
        return {"count": self.tokens, "predicted": self.predicted, "logprob": self.logprob, **derived}


def _run(arguments: argparse.Namespace) -> int:
    name, text = given_text(arguments)
    if not text:
        raise TokenError(f"{name}: expected at least one token, got an empty text")
    model = load_text_model(arguments.model, arguments)
    totals = _Totals()
    # Lines on a terminal show the progress themselves.
    bar = not arguments.no_progress and (arguments.no_tokens or not sys.stdout.isatty())
    with progress_bar(printable(name), bar, unit=" tokens") as progress:
        rows = _summed(_rows(model, text, arguments, progress), totals)
        if arguments.json:
            _print_json(arguments, rows, totals)
            return ExitCode.OK
        if arguments.no_tokens:
            deque(rows, maxlen=0)
        else:
            _print_rows(rows, arguments.top)
    values = totals.members()
    print_fields(
        {
            "tokens predicted": f"{totals.predicted:,} of {totals.tokens:,}",
            "log-probability": f"{totals.logprob:.6g}",
            "perplexity": _number(values["perplexity"]),
            "bits per byte": _number(values["bits_per_byte"]),
        }
    )
    return ExitCode.OK


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"


def _rows(
    model: LanguageModel, text: bytes, arguments: argparse.Namespace, progress: Callable[[int, int], None] | None
) -> Iterator[_Row]:
    """Yield the tokens of the text as they are predicted, in bounded memory."""
    from rwkv_cy.text.logprobs import logprob_chunks
    from rwkv_cy.text.score import as_tokens

    tokens = as_tokens(model, text)
    logits = state = None
    if arguments.context:
        logits, state = model.forward(as_tokens(model, os.fsencode(arguments.context)))
    piece, position = piece_of(tokenizer_of(model, arguments.model)), 0
    top = min(arguments.top, model.vocab_size)
    for chunk in logprob_chunks(model, tokens, top=top, state=state, logits=logits):
        columns = (chunk.tokens, chunk.logprobs, chunk.ranks, chunk.top_tokens, chunk.top_logprobs)
        for token, logprob, rank, top_tokens, top_logprobs in zip(*(c.tolist() for c in columns), strict=True):
            if rank:
                best = [(t, piece(t), p) for t, p in zip(top_tokens, top_logprobs, strict=True)]
                yield _Row(position, token, piece(token), logprob, rank, best)
            else:
                yield _Row(position, token, piece(token), None, None, [])
            position += 1
        if progress is not None:
            progress(position, len(tokens))


def _summed(rows: Iterable[_Row], totals: _Totals) -> Iterator[_Row]:
    for row in rows:
        totals.add(row)
        yield row


def _print_rows(rows: Iterable[_Row], top: int) -> None:
    """Print a table whose columns have fixed widths, since its rows come one by one."""
    header = (*_HEADER, "likeliest") if top else _HEADER
    for cells in (header, tuple("-" * len(name) for name in header)):
        print(_aligned(cells))
    for row in rows:
        numbers = ("", "", "")
        if row.logprob is not None:
            numbers = (f"{row.logprob:.3f}", _probability(row.logprob), f"{row.rank}")
        best = ", ".join(f"{quoted(piece)} {_probability(logprob)}" for _, piece, logprob in row.top)
        print(_aligned((f"{row.position}", f"{row.token}", *numbers, quoted(row.piece), best)))
    print()


def _aligned(cells: tuple[str, ...]) -> str:
    """Align numbers to the right, and pad the piece, so that what follows is in line behind short ones."""
    numbers = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=False))
    piece, *rest = cells[len(_WIDTHS) :]
    return "  ".join([*numbers, piece.ljust(12), *rest]).rstrip()


def _probability(logprob: float) -> str:
    value = math.exp(logprob)
    return f"{value:.4f}" if value >= 0.00005 else f"{value:.1e}"


def _print_json(arguments: argparse.Namespace, rows: Iterable[_Row], totals: _Totals) -> None:
    with JsonObject("logprobs") as result:
        result.member("model", str(arguments.model))
        result.member("context", arguments.context)
        if arguments.no_tokens:
            deque(rows, maxlen=0)
        else:
            result.array("tokens", map(_fields, rows))
        for name, value in totals.members().items():
            result.member(name, value)


def _fields(row: _Row) -> dict[str, Any]:
    top = [{**token_fields(token, piece), "logprob": logprob} for token, piece, logprob in row.top]
    return {**token_fields(row.token, row.piece), "logprob": row.logprob, "rank": row.rank, "top": top}
