"""The command ``rwkv-cy``: its subcommands, and how an error becomes one sentence and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import rwkv_cy
from rwkv_cy.cli import bench, convert, exit_codes, generate, info, inspect, output, perplexity, quantize, verify
from rwkv_cy.cli.arguments import common_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.signals import ended_by_signals
from rwkv_cy.errors import RWKVError, StorageError

__all__ = ["main"]

_COMMANDS = (convert, quantize, inspect, verify, generate, perplexity, bench, info)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rwkv-cy",
        parents=[common_options()],
        description="Convert, inspect, verify and run RWKV language models on the CPU.",
        epilog=exit_codes.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(debug=False)
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
        import traceback

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


def _fill_closed_streams() -> None:
    """Open the null device in the places of standard streams that are closed (``>&-``).

    The next file to be opened would get their number, and what a library prints would be written into it. Python has
    None for such a stream; it stays so for input and output, whose use is an error, while messages go nowhere.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (to the end)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (:class:`rwkv_cy.cli.exit_codes.ExitCode`).

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name; those of the process by default.

    Raises
    ------
    SystemExit
        If the arguments are wrong (code 2), or ask for help or the version (code 0); or a signal asks for the end
        (143 for SIGTERM, 129 for SIGHUP).
    """
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    if sys.stdout is None:  # closed by whoever started the command: what it is asked for would be lost
        return _report(StorageError("standard output: expected an open stream, got a closed one"), arguments.debug)
    try:
        with ended_by_signals():
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
