"""``rwkv-cy chat``: talks with a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, integer
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.sampling_options import add_sampling_options, check_sampling_tokens, sampling_keywords
from rwkv_cy.demo import demo_model_path

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]

#: The choices of rwkv_cy.chat.THINKING_MODES, which needs NumPy.
_THINKING = ("on", "fake", "off")


def add_parser(commands: Subparsers) -> None:
    """Add ``chat`` to the command's parser."""
    parser = commands.add_parser(
        "chat",
        parents=[common_options()],
        stray="; chat reads messages from the keyboard or standard input, and generate takes a prompt",
        description="Talk with a model: each line is a message, and the answer follows piece by piece. /help lists "
        "the commands of a chat. Ctrl-C stops an answer, Ctrl-D ends the chat. Without MODEL, the demo model that "
        "comes with the package is used.",
        examples=[
            "rwkv-cy chat",
            "rwkv-cy chat rwkv7-g1d-0.4b.pth --dtype q8 --thinking on",
            "rwkv-cy chat model.h5 --system 'Answer in one sentence.' --load yesterday.json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, nargs="?", help="a model file or checkpoint")
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--format",
        default="auto",
        metavar="auto|world|g1|FILE.jinja",
        help="prompt format (default: auto, by the model's name or template)",
    )
    parser.add_argument(
        "--thinking",
        choices=_THINKING,
        default="",
        help="whether the model thinks before it answers (default: fake for g1)",
    )
    parser.add_argument("--load", type=Path, metavar="FILE", help="continue a chat that /save wrote")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="the state before the chat: one that --save-state wrote, or a state-tuned .pth or safetensors file",
    )
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=integer(1),
        default=2048,
        metavar="N",
        help="most tokens of an answer (default: 2048)",
    )
    parser.add_argument(
        "-s", "--seed", type=integer(0), metavar="N", help="the same seed and messages give the same answers"
    )
    parser.add_argument("--plain", action="store_true", help="do not use prompt_toolkit, if it is installed")
    add_sampling_options(parser, "the format's")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    add_text_options(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.chat import ChatSession, choose_format
    from rwkv_cy.cli.chat_input import is_terminal, message_reader
    from rwkv_cy.cli.chat_loop import ChatLoop

    path = arguments.model if arguments.model is not None else demo_model_path()
    chat = choose_format(path, arguments.format)
    read = message_reader(arguments.plain)
    model = load_text_model(path, arguments)
    check_sampling_tokens(arguments, model)
    state = None
    if arguments.state is not None:
        from rwkv_cy.model.state_files import load_state

        state = load_state(model, arguments.state)
    session = ChatSession(
        model,
        chat,
        system=arguments.system,
        thinking=arguments.thinking,
        sampling=sampling_keywords(arguments),
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        state=state,
    )
    loop = ChatLoop(session, read, terminal=is_terminal())
    if arguments.load is not None:
        loop.load(str(arguments.load))
    if is_terminal():
        loop.note(f"{path.name}, format {chat.name}; /help lists the commands, Ctrl-D ends the chat")
    loop.run()
    return ExitCode.OK
