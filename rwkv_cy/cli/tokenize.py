"""``rwkv-cy tokenize``: shows the tokens of a text, or the text of tokens."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.hub_arguments import replace_hub_names
from rwkv_cy.cli.json_stream import JsonObject
from rwkv_cy.cli.output import printable, write_bytes
from rwkv_cy.cli.pieces import piece_of, quoted, token_fields
from rwkv_cy.cli.standard_input import add_text_argument, given_text
from rwkv_cy.errors import TokenError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.text import Tokenizer

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``tokenize`` to the command's parser."""
    parser = commands.add_parser(
        "tokenize",
        parents=[common_options()],
        description="Show the tokens of a text: ids, and the text of each. Only the tokenizer of MODEL is read.",
        examples=[
            "rwkv-cy tokenize model.h5 'In the beginning'",
            "rwkv-cy tokenize model.h5 --file text.txt --count",
            "rwkv-cy tokenize model.h5 --decode '73 110'",
        ],
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a model file or checkpoint; leave it out with --tokenizer"
    )
    add_text_argument(parser, "the text")
    parser.add_argument("--tokenizer", metavar="bytes|world|FILE", help="replaces the model's own; works without MODEL")
    parser.add_argument("--decode", action="store_true", help="the text is token ids, from 0 on: print what they mean")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--ids", action="store_true", help="print the ids alone, in one line")
    shown.add_argument("--count", action="store_true", help="print the number of tokens alone")
    shown.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    _sort_out(arguments)
    name, data = given_text(arguments)
    tokenizer = _tokenizer(arguments)
    if arguments.decode:
        tokens = _ids(data, name, tokenizer.vocab_size)
        data = tokenizer.decode_bytes(tokens)
    else:
        tokens = tokenizer.encode_bytes(data)
    if arguments.json:
        _print_json(tokenizer, tokens, data)
    elif arguments.count:
        print(len(tokens))
    elif arguments.ids:
        print(*tokens)
    elif arguments.decode:
        _print_text(data)
    else:
        _print_tokens(tokenizer, tokens, data)
    return ExitCode.OK


def _sort_out(arguments: argparse.Namespace) -> None:
    """Find out what one positional argument is: with --tokenizer the text, otherwise the model."""
    if arguments.tokenizer is not None and arguments.text is None and arguments.file is None:
        arguments.model, arguments.text = None, arguments.model
    if arguments.model == "":
        arguments.parser.error("argument MODEL: expected a path, got an empty text")
    if arguments.model is None and arguments.tokenizer is None:
        arguments.parser.error("MODEL is missing: the file whose tokenizer to use, or --tokenizer")
    if arguments.model is not None and arguments.text is None and arguments.file is None:
        arguments.parser.error(
            f"{arguments.model!r} was taken as MODEL, and TEXT is missing: the text itself, - for standard input, or "
            "--file FILE"
        )


def _tokenizer(arguments: argparse.Namespace) -> Tokenizer:
    if arguments.model is None:
        from rwkv_cy.checkpoint.tokenizer_choice import named_tokenizer

        return named_tokenizer(arguments.tokenizer)
    from rwkv_cy.cli.model_options import no_tokenizer
    from rwkv_cy.model.loading import load_tokenizer_of

    # Only now it is known to be a path: with --tokenizer alone it was the text.
    arguments.model = Path(arguments.model)
    replace_hub_names(arguments)
    tokenizer = load_tokenizer_of(arguments.model, arguments.tokenizer)
    if tokenizer is None:
        raise no_tokenizer(arguments.model)
    return tokenizer


def _ids(data: bytes, name: str, vocab_size: int) -> list[int]:
    """Read token ids, separated by spaces, line ends or commas; brackets around them are those of a list."""
    words = re.sub(rb"[\[\],]", b" ", data).split()
    for position, word in enumerate(words):
        if not word.isdigit() or len(word) > len(str(vocab_size)) or int(word) >= vocab_size:
            shown = quoted(word[:40])
            raise TokenError(f"{name}: token {position}: expected an id from 0 to {vocab_size - 1}, got {shown}")
    return list(map(int, words))


def _print_tokens(tokenizer: Tokenizer, tokens: Sequence[int], data: bytes) -> None:
    piece: Callable[[int], bytes] = piece_of(tokenizer)
    widths = max(8, len(str(len(tokens)))), max(2, len(str(max(tokens, default=0))))
    print(f"{'position':>{widths[0]}}  {'id':>{widths[1]}}  piece")
    print(f"{'-' * widths[0]}  {'-' * widths[1]}  -----")
    for position, token in enumerate(tokens):
        print(f"{position:>{widths[0]}}  {token:>{widths[1]}}  {quoted(piece(token))}")
    print(
        f"\n{len(tokens):,} token{'' if len(tokens) == 1 else 's'}, {len(data):,} bytes; "
        f"tokenizer {tokenizer.kind} of {tokenizer.vocab_size:,} tokens"
    )


def _print_json(tokenizer: Tokenizer, tokens: Sequence[int], data: bytes) -> None:
    piece = piece_of(tokenizer)
    with JsonObject("tokenize") as result:
        result.member("tokenizer", tokenizer.kind)
        result.member("vocab_size", tokenizer.vocab_size)
        result.member("text", data.decode("utf-8", "replace"))
        result.member("bytes", len(data))
        result.member("count", len(tokens))
        result.array("tokens", (token_fields(token, piece(token)) for token in tokens))


def _print_text(data: bytes) -> None:
    """Print decoded text: exactly its bytes to a file or a pipe; escaped on a terminal."""
    if sys.stdout.isatty():
        print(printable(data.decode("utf-8", "backslashreplace"), keep="\n\t"))
    else:
        write_bytes(data)
