"""``rwkv-cy generate``: a prompt, and the text with which a model continues it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, integer, real
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.output import printable
from rwkv_cy.demo import DEMO_PROMPT, demo_model_path
from rwkv_cy.errors import StorageError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]

_DESCRIPTION = """Print a prompt and its continuation, each piece as soon as it is known.

  rwkv-cy generate                          the demo model, and a prompt of its own
  rwkv-cy generate --prompt "And he said"   the demo model, your prompt
  rwkv-cy generate model.h5 "In the"        your model, your prompt
  rwkv-cy generate model.h5 --prompt="-x"   the same, where the prompt begins with a dash"""


def add_parser(commands: Subparsers) -> None:
    """Add ``generate`` to the command's parser."""
    parser = commands.add_parser(
        "generate",
        parents=[common_options()],
        help="continue a prompt",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, nargs="?", help="a model file or checkpoint")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="the text to continue; - reads standard input")
    parser.add_argument("--prompt", dest="prompt_option", metavar="PROMPT", help="the same, with or without MODEL")
    parser.add_argument("--max-tokens", type=integer(0), default=256, metavar="N", help="stop after N (default: 256)")
    parser.add_argument(
        "--temperature", type=real(0), default=1.0, metavar="T", help="0 takes the likeliest token (default: 1)"
    )
    parser.add_argument(
        "--top-p", type=real(0, 1), default=0.85, metavar="P", help="choose among this much probability (default: 0.85)"
    )
    parser.add_argument(
        "--top-k", type=integer(0), default=0, metavar="K", help="choose among the K likeliest (default: 0, all)"
    )
    _add_rules(parser)
    parser.add_argument("--seed", type=integer(0), metavar="N", help="the same seed gives the same text")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; may be repeated")
    parser.add_argument(
        "--stop-token", type=integer(0), action="append", metavar="TOKEN", help="end at this token id; repeatable"
    )
    add_text_options(parser)
    parser.set_defaults(run=_run, parser=parser)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    """Add the options against repetition and for or against single tokens."""
    rules = parser.add_argument_group("rules", "docs/sampling.md has what each does")
    for name, kind, default, text in (
        ("--presence-penalty", real(-1e6, 1e6), 0.0, "off the logit of what came before"),
        ("--frequency-penalty", real(-1e6, 1e6), 0.0, "the same, times how often"),
        ("--penalty-decay", real(0, 1), 0.996, "how much of a count is left after each token"),
        ("--repetition-penalty", real(0.01, 100), 1.0, "divides the likelihood of what came before"),
    ):
        rules.add_argument(name, type=kind, default=default, metavar="X", help=f"{text} (default: {default:g})")
    rules.add_argument(
        "--repetition-window", type=integer(0), default=0, metavar="N", help="tokens it looks back on (default: 0, all)"
    )
    rules.add_argument(
        "--no-repeat-ngram", type=integer(0), default=0, metavar="N", help="no N tokens come twice (default: 0, off)"
    )
    rules.add_argument(
        "--ban", type=integer(0), action="append", default=[], metavar="TOKEN", help="never this token id; repeatable"
    )
    rules.add_argument(
        "--logit-bias", type=_bias, action="append", default=[], metavar="TOKEN=X", help="added to a logit; repeatable"
    )
    rules.add_argument(
        "--order",
        choices=("temperature-first", "rwkv"),
        default="temperature-first",
        help="whether temperature acts before top-p, or after it as in the rwkv package",
    )


def _bias(text: str) -> tuple[int, float]:
    token, equals, bias = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected TOKEN=X such as 10=-2.5, got {text!r}") from None


def _run(arguments: argparse.Namespace) -> int:
    prompt = _prompt(arguments)
    model = load_text_model(arguments.model or demo_model_path(), arguments)
    pieces = model.generate(
        prompt,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        presence_penalty=arguments.presence_penalty,
        frequency_penalty=arguments.frequency_penalty,
        penalty_decay=arguments.penalty_decay,
        repetition_penalty=arguments.repetition_penalty,
        repetition_window=arguments.repetition_window,
        no_repeat_ngram=arguments.no_repeat_ngram,
        banned_tokens=arguments.ban,
        logit_bias=dict(arguments.logit_bias),
        order=arguments.order,
        seed=arguments.seed,
        stop=arguments.stop,
        stop_tokens=arguments.stop_token,
    )
    # A model's text is a stranger's: what a terminal would obey is shown, not sent. A file or a pipe gets it as it is.
    terminal = sys.stdout.isatty()
    _write(prompt.decode("utf-8", "replace"), terminal)
    try:
        for piece in pieces:
            _write(piece, terminal)
    finally:
        _write("\n", terminal)
    return ExitCode.OK


def _prompt(arguments: argparse.Namespace) -> bytes:
    """Return the prompt's bytes, as the command line or standard input has them."""
    if arguments.prompt is not None and arguments.prompt_option is not None:
        arguments.parser.error("expected one prompt, got PROMPT and --prompt; leave one out")
    text = arguments.prompt if arguments.prompt is not None else arguments.prompt_option
    if text is None:
        if arguments.model is not None:
            arguments.parser.error(
                "expected a prompt after MODEL, or - to read it from standard input; "
                "a prompt for the demo model goes behind --prompt"
            )
        text = DEMO_PROMPT
    if text != "-":
        return os.fsencode(text)
    if sys.stdin is None:  # closed by whoever started the command
        raise StorageError("standard input: expected a prompt, got a closed stream; give the prompt as an argument")
    return sys.stdin.buffer.read()


def _write(text: str, terminal: bool) -> None:
    sys.stdout.write(printable(text, keep="\n\t") if terminal else text)
    sys.stdout.flush()
