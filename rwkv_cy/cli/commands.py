"""The commands of ``rwkv-cy``: their modules, which are imported when they are needed, and their lines in the help."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from rwkv_cy.records import dataclass

__all__ = ["COMMANDS", "Command", "add_commands"]


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes
    ----------
    module : str
        Its module in :mod:`rwkv_cy.cli`, whose function ``add_parser`` adds it; one module may have several.
    help : str
        Its line in the help of the program.
    brief : bool, default False
        Whether it describes something and ends, so that a search for cycles among its objects is not worth its time.
    """

    module: str
    help: str
    brief: bool = False


#: In the order of the help.
COMMANDS = {
    "pull": Command("pull", "download a model from the Hugging Face hub"),
    "models": Command("models", "list published models with their sizes", brief=True),
    "convert": Command("convert", "convert a checkpoint to a model file"),
    "quantize": Command("quantize", "quantize a model file or checkpoint, and measure the error"),
    "merge": Command("merge", "merge an adapter (LoRA, PiSSA, DiSHA, bone, states) into its model"),
    "export": Command("export", "write a model in a format of another program"),
    "shard": Command("parts", "cut a file into parts, for file systems with limits"),
    "join": Command("parts", "join the parts of a file"),
    "inspect": Command(
        "inspect", "describe a file: dimensions, types, sizes, tokenizer, memory and speed to expect", brief=True
    ),
    "diff": Command("diff", "compare two files: names, shapes, types, numbers"),
    "verify": Command("verify", "check a file completely"),
    "generate": Command("generate", "continue a prompt"),
    "chat": Command("chat", "talk with a model"),
    "serve": Command("serve", "serve a model over HTTP, with OpenAI's API"),
    "batch": Command("batch", "generate, score or embed all records of a file"),
    "tokenize": Command("tokenize", "show the tokens of a text", brief=True),
    "logprobs": Command("logprobs", "print the log-probability of each token of a text"),
    "embed": Command("embed", "print vectors of texts"),
    "perplexity": Command("perplexity", "measure how well a model predicts a text"),
    "eval": Command("evaluation", "score a model by the tasks of lm-eval"),
    "train": Command("training", "train a new model from a text"),
    "tune": Command("training", "tune a model's initial state, or train adapters or all of it, on a text"),
    "bench": Command("bench", "measure how fast a model runs here"),
    "info": Command("info", "show version, threads, instruction set and libraries", brief=True),
    "completion": Command("completion.command", "print a completion script for a shell", brief=True),
}


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Parsers of commands, each with its line of the table."""

    def add_parser(self, name: str, **options: Any) -> Any:
        """Add the parser of a command."""
        return super().add_parser(name, help=COMMANDS[name].help, **options)


def add_commands(parser: argparse.ArgumentParser, listed: Iterable[str], complete: Iterable[str]) -> None:
    """Add commands to a parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    listed : iterable of str
        Those that are known: the help lists them.
    complete : iterable of str
        Those of them whose arguments are known too, which takes importing their modules.
    """
    # Without `prog`, the base class would make a usage text for it.
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", prog=parser.prog, action=_Commands
    )
    modules = {COMMANDS[name].module for name in complete}
    added: set[str] = set()
    for name in listed:
        module = COMMANDS[name].module
        if module not in modules:
            commands.add_parser(name)
        elif module not in added:
            added.add(module)
            import_module(f"rwkv_cy.cli.{module}").add_parser(commands)
