"""``generate --beams`` and ``--best-of``: several continuations at once, of which the best is printed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from rwkv_cy.cli.arguments import integer, real
from rwkv_cy.cli.grammar_options import GRAMMAR_OPTIONS
from rwkv_cy.cli.output import printable, write_prompt
from rwkv_cy.records import asdict

if TYPE_CHECKING:
    from rwkv_cy.model.language_model import LanguageModel
    from rwkv_cy.model.state import State
    from rwkv_cy.text import SamplingKeywords

__all__ = ["add_search_options", "check_search", "run_search"]

#: The limit of rwkv_cy.text.search, which needs NumPy.
_MOST = 256


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a search to those of ``generate``."""
    search = parser.add_argument_group("search", "the best of several texts, printed when all are complete")
    search.add_argument(
        "--beams", type=integer(1, _MOST), metavar="N", help="search for the likeliest text with N beams"
    )
    search.add_argument(
        "--length-penalty", type=real(0), metavar="X", help="of beams: 0 favours short texts (default: 1)"
    )
    search.add_argument("--best-of", type=integer(1, _MOST), metavar="N", help="sample N texts, print the likeliest")


def check_search(arguments: argparse.Namespace) -> bool:
    """Return whether a search is to run; end the command if an option does not fit it."""
    if arguments.length_penalty is not None and arguments.beams is None:
        arguments.parser.error("--length-penalty is for --beams; leave it out")
    if arguments.beams is None and arguments.best_of is None:
        return False
    if arguments.beams is not None and arguments.best_of is not None:
        arguments.parser.error("--beams and --best-of exclude each other; leave one out")
    if arguments.beams is not None and arguments.max_tokens < 1:
        arguments.parser.error("--beams needs --max-tokens of at least 1")
    for option in ("save_state", "stats", *GRAMMAR_OPTIONS):
        if getattr(arguments, option):
            arguments.parser.error(f"--{option.replace('_', '-')} is for one text, not for a search; leave it out")
    return True


def run_search(
    model: LanguageModel,
    prompt: bytes,
    state: State | None,
    arguments: argparse.Namespace,
    sampling: SamplingKeywords,
    shown: dict[str, Any],
) -> None:
    """Search, and print the best text after the prompt, or all of them as JSON after the members in `shown`."""
    from rwkv_cy.cli.json_stream import JsonObject
    from rwkv_cy.text import SamplingOptions, beam_search, best_of

    stops = {"stop": arguments.stop, "stop_tokens": arguments.stop_token}
    if arguments.beams is not None:
        penalty = 1.0 if arguments.length_penalty is None else arguments.length_penalty
        found = beam_search(
            model,
            prompt,
            beams=arguments.beams,
            length_penalty=penalty,
            max_tokens=arguments.max_tokens,
            state=state,
            **stops,
        )
    else:
        found = best_of(
            model,
            prompt,
            arguments.best_of,
            state=state,
            max_tokens=arguments.max_tokens,
            seed=arguments.seed,
            options=SamplingOptions(**sampling),
            **stops,
        )
    if not arguments.json:
        # The model's text is untrusted: control characters are escaped on a terminal.
        if sys.stdout.isatty():
            print(printable(shown["prompt"] + found[0].text, keep="\n\t"), flush=True)
            return
        write_prompt(prompt)
        sys.stdout.write(found[0].text)
        sys.stdout.flush()
        return
    with JsonObject("generate-search") as result:
        for name, value in shown.items():
            result.member(name, value)
        result.array("candidates", (asdict(each) for each in found))
