"""The command ``rwkv-cy``: its subcommands, and how an error becomes one sentence and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence

import rwkv_cy
from rwkv_cy.cli import convert, exit_codes, generate, info, inspect, output, quantize, verify
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.errors import RWKVError

__all__ = ["main"]

_COMMANDS = (convert, quantize, inspect, verify, generate, info)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rwkv-cy",
        description="Convert, inspect, verify and run RWKV language models on the CPU.",
        epilog=exit_codes.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rwkv-cy {rwkv_cy.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _message(error: BaseException) -> str:
    """Return the sentence that says what went wrong."""
    if isinstance(error, RWKVError):
        return str(error)
    if isinstance(error, OSError):
        # Errors of the files that a user names are StorageErrors, and say more.
        where = os.fsdecode(error.filename) if error.filename else "standard input or output"
        return f"{where}: {error.strerror or error}"
    return f"out of memory: {error}".rstrip(": ")


def _report(error: BaseException, debug: bool) -> ExitCode:
    """Tell the user of an error, and return the exit code for it."""
    code = exit_codes.exit_code(error)
    if debug:
        traceback.print_exception(error)
    elif code == ExitCode.INTERRUPTED:
        print("rwkv-cy: interrupted", file=sys.stderr)
    elif code != ExitCode.BROKEN_PIPE:
        output.print_error(_message(error))
    return code


def _discard_output() -> None:
    """Point standard output at nothing: what is left in its buffer cannot be written, and is tried again at exit."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's or an embedder's stream, without a descriptor
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (:class:`rwkv_cy.cli.exit_codes.ExitCode`).

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name; those of the process by default.

    Raises
    ------
    SystemExit
        If the arguments are wrong (code 2), or ask for help or the version (code 0).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except (RWKVError, OSError, MemoryError, KeyboardInterrupt) as error:
        code = _report(error, arguments.debug)
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        if code == ExitCode.OK:
            code = _report(error, arguments.debug)
    return code


if __name__ == "__main__":
    sys.exit(main())
