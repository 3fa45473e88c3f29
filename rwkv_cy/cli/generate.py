"""``rwkv-cy generate``: continues a prompt."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, integer, new_file, output_options, some_text
from rwkv_cy.cli.colours import styled
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.generation_report import Clock, print_generation, print_stats
from rwkv_cy.cli.grammar_options import add_grammar_options, given_grammar, grammar_errors
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.output import print_warning, printable, write_prompt
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.sampling_options import add_sampling_options, check_sampling_tokens, sampling_keywords
from rwkv_cy.cli.search import add_search_options, check_search, run_search
from rwkv_cy.cli.standard_input import read_standard_input, read_text
from rwkv_cy.demo import DEMO_PROMPT, demo_model_path
from rwkv_cy.errors import StorageError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.model.state import State
    from rwkv_cy.text import Generation

__all__ = ["add_parser"]

_STATE_ALONE = "--state needs a prompt: the text that follows what the state has read, at least one token"
#: Prompts of more tokens get a progress bar.
_LONG_PROMPT = 256


def add_parser(commands: Subparsers) -> None:
    """Add ``generate`` to the command's parser."""
    parser = commands.add_parser(
        "generate",
        parents=[common_options()],
        description="Print a prompt and its continuation, piece by piece. Without MODEL, the demo model that comes "
        "with the package is used; a single argument is always MODEL.",
        examples=[
            "rwkv-cy generate --prompt 'And he said'",
            "rwkv-cy generate model.h5 'In the beginning' -n 64 --temperature 0.8",
            "cat prompt.txt | rwkv-cy generate model.h5 - --save-state state.h5",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, nargs="?", help="a model file or checkpoint")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="the text to continue; - reads standard input")
    parser.add_argument("-p", "--prompt", dest="prompt_option", metavar="PROMPT", help="the same; works without MODEL")
    parser.add_argument(
        "-f", "--file", type=Path, metavar="FILE", help="read the prompt from a file; works without MODEL"
    )
    parser.add_argument(
        "-n", "--max-tokens", type=integer(0), default=256, metavar="N", help="generate at most N (default: 256)"
    )
    add_sampling_options(parser)
    add_grammar_options(parser)
    add_search_options(parser)
    parser.add_argument("-s", "--seed", type=integer(0), metavar="N", help="the same seed gives the same text")
    parser.add_argument(
        "--stop", type=some_text, action="append", default=[], metavar="TEXT", help="stop before TEXT; repeatable"
    )
    parser.add_argument(
        "--stop-token", type=integer(0), action="append", metavar="TOKEN", help="stop at this token id; repeatable"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="continue from a state: one that --save-state wrote, or a state-tuned .pth or safetensors file",
    )
    parser.add_argument("--save-state", type=new_file, metavar="FILE", help="write the state after the text to FILE")
    parser.add_argument("--force", action="store_true", help="let --save-state replace a state file")
    parser.add_argument("--stats", action="store_true", help="print speed, memory and finish reason on standard error")
    output_options(parser, json="print JSON when the text is complete, in place of the text")
    add_text_options(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    prompt = _prompt(arguments)
    _check_model(arguments.model, arguments.prompt)
    _check_save(arguments)
    searches = check_search(arguments)
    grammar = given_grammar(arguments)
    clock = Clock()
    path = arguments.model or demo_model_path()
    model = load_text_model(path, arguments)
    check_sampling_tokens(arguments, model)
    state = None
    if arguments.state is not None:
        from rwkv_cy.model.state_files import load_state

        state = load_state(model, arguments.state)
    clock.lap("load")
    sampling = sampling_keywords(arguments)
    text = prompt.decode("utf-8", "replace")
    if searches:
        shown = {"model": str(path), "prompt": text, "seed": arguments.seed}
        run_search(model, prompt, state, arguments, sampling, shown)
        return ExitCode.OK
    with grammar_errors(arguments):
        generation = model.generate(
            prompt,
            state=state,
            max_tokens=arguments.max_tokens,
            seed=arguments.seed,
            stop=arguments.stop,
            stop_tokens=arguments.stop_token,
            grammar=grammar,
            **sampling,
        )
    try:
        _print_text(generation, prompt, clock, arguments)
    except KeyboardInterrupt:
        if arguments.save_state is not None:
            _save_interrupted(generation, arguments)
        raise
    finally:
        if arguments.stats:
            print_stats(generation, clock)
    if arguments.json:
        print_generation(generation, clock, {"model": str(path), "prompt": text, "seed": arguments.seed})
    if arguments.save_state is not None:
        _save_state(generation, arguments)
    return ExitCode.OK


def _print_text(generation: Generation[State], prompt: bytes, clock: Clock, arguments: argparse.Namespace) -> None:
    """Generate the text; print the prompt and each piece as soon as it is complete, unless JSON comes at the end."""
    # The model's text is untrusted: control characters are escaped on a terminal. A file or a pipe gets it unchanged.
    terminal = sys.stdout.isatty()
    shown = not arguments.json
    is_long = len(generation.prompt) > _LONG_PROMPT
    if shown and not is_long:
        _write_prompt(prompt, terminal)
    with progress_bar("prompt", is_long and not arguments.no_progress, unit=" tokens") as progress:
        generation.prefill(progress)
    if shown and is_long:  # after its progress bar, which would overwrite its last line
        _write_prompt(prompt, terminal)
    clock.lap("prefill")
    try:
        for piece in generation:
            if shown:
                _write(piece, terminal)
    finally:
        clock.lap("decode")
        if shown and terminal:
            _write("\n", terminal)


def _save_state(generation: Generation[State], arguments: argparse.Namespace) -> None:
    if generation.state is not None:
        generation.state.save(arguments.save_state, overwrite=arguments.force)


def _save_interrupted(generation: Generation[State], arguments: argparse.Namespace) -> None:
    """Save the state of the text so far, unless the prompt is not read yet: reading the rest would take long."""
    if len(generation.sequence.pending) > 1:
        print_warning("interrupted while the prompt was read: no state is saved")
        return
    _save_state(generation, arguments)
    print_warning(f"interrupted: {arguments.save_state} has the state after the text so far")


def _prompt(arguments: argparse.Namespace) -> bytes:
    """Return the prompt's bytes, from the command line, a file or standard input."""
    given = {"PROMPT": arguments.prompt, "--prompt": arguments.prompt_option, "--file": arguments.file}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        arguments.parser.error(f"two prompts, {names[0]} and {names[1]}; leave one out")
    text = arguments.prompt if arguments.prompt is not None else arguments.prompt_option
    if arguments.file is not None:
        prompt = read_text(arguments.file)[1]
    elif text == "-":
        prompt = read_standard_input("a prompt", "give the prompt as an argument")
    elif text is not None:
        prompt = os.fsencode(text)
    elif arguments.model is None:
        prompt = os.fsencode(DEMO_PROMPT)
    elif arguments.state is not None:
        prompt = b""
    else:
        arguments.parser.error(
            f"{str(arguments.model)!r} was taken as MODEL, and PROMPT is missing (- reads standard input); "
            "for the demo model, write --prompt before a prompt"
        )
    if not prompt and arguments.state is not None:
        arguments.parser.error(_STATE_ALONE)
    return prompt


def _check_model(model: Path | None, prompt: str | None) -> None:
    """Raise StorageError if MODEL and PROMPT are probably swapped."""
    if model is None or prompt is None or os.path.exists(model):  # noqa: PTH110 (a text may be too long for a path)
        return
    if os.path.isfile(prompt):  # noqa: PTH113
        raise StorageError(f"{model}: no such file, but {prompt} is one: are MODEL and PROMPT swapped?")


def _check_save(arguments: argparse.Namespace) -> None:
    """Raise StorageError, before anything is generated, if the state cannot be saved."""
    path = arguments.save_state
    if path is None:
        if arguments.force:
            arguments.parser.error("--force is for --save-state; leave it out")
        return
    from rwkv_cy.storage import check_replaceable

    if path.is_dir():
        raise StorageError(f"{path} is a folder; name a file in it for --save-state")
    check_replaceable(path, "state")
    if path.exists() and not arguments.force:
        raise StorageError(f"{path} already exists; choose another name or pass --force")
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent}: not a folder; create it before a state is saved there")


def _write_prompt(prompt: bytes, terminal: bool) -> None:
    """Print the prompt; a file or a pipe gets its bytes, which need not be UTF-8, as the model reads them."""
    if terminal:
        _write_now(styled(printable(prompt.decode("utf-8", "replace"), keep="\n\t"), "dim", sys.stdout))
    else:
        write_prompt(prompt)


def _write(text: str, terminal: bool) -> None:
    _write_now(printable(text, keep="\n\t") if terminal else text)


def _write_now(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
