"""The command ``rwkv-cy``: its subcommands, and how errors become one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rwkv_cy
from rwkv_cy.cli import exit_codes, output
from rwkv_cy.cli.arguments import common_options
from rwkv_cy.cli.commands import COMMANDS, add_commands
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.hub_arguments import replace_hub_names
from rwkv_cy.cli.parser import CommandParser
from rwkv_cy.cli.signals import ended_by_signals
from rwkv_cy.errors import RWKVError, StorageError

__all__ = ["command_parser", "main"]

#: Options that may stand before a command.
_SWITCHES = ("-q", "--quiet", "--debug")


def command_parser(words: Sequence[str] | None = None) -> CommandParser:
    """Return the parser of the command line, as far as it is needed for `words`: building all of it takes longer."""
    parser = CommandParser(
        prog="rwkv-cy",
        parents=[common_options()],
        description="Fetch, convert, merge, export, inspect, compare, verify, run and train RWKV language models on "
        "the CPU.",
        epilog=exit_codes.HELP,
        examples=["rwkv-cy generate", "rwkv-cy help convert"],
    )
    parser.set_defaults(debug=False, quiet=False, run=None, refused=ExitCode.REFUSED)
    parser.add_argument("--version", action="version", version=f"rwkv-cy {rwkv_cy.__version__}")
    first = None if words is None else next((word for word in words if word not in _SWITCHES), None)
    if first in COMMANDS:
        add_commands(parser, [first], [first])
    else:  # help, or an error: both list all commands
        add_commands(parser, COMMANDS, COMMANDS if words is None else COMMANDS.keys() & words)
    return parser


def _message(error: BaseException) -> str:
    """Return the message of an error."""
    if isinstance(error, RWKVError):
        return str(error).replace(" (overwrite=True)", "")  # what Python's callers do beside --force
    if isinstance(error, OSError):
        # Files that a user names raise StorageErrors, which say more.
        where = os.fsdecode(error.filename) if error.filename else "standard input or output"
        advice = "; choose a shorter name" if error.errno == errno.ENAMETOOLONG else ""
        return f"{where}: {error.strerror or error}{advice}"
    return f"out of memory: {error}".rstrip(": ")


def _report(error: BaseException, debug: bool) -> ExitCode:
    """Print an error, and return its exit code."""
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
    """Redirect standard output to the null device: its buffer cannot be written, and Python would retry at exit."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream without a descriptor, as in tests
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _fill_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed (``>&-``).

    Otherwise the next file that is opened would get their descriptor, and messages would be written into it. Python
    represents such a stream by None; input and output stay None, because using them is an error.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (to the end)


def main(argv: Sequence[str] | None = None, *, started: Callable[[bool], None] | None = None) -> int:
    """Run the command and return its exit code (:class:`rwkv_cy.cli.exit_codes.ExitCode`).

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name; those of the process by default.
    started : callable, optional
        Called when the command is loaded and before it runs, with whether it is a brief one.

    Raises
    ------
    SystemExit
        If the arguments are wrong (code 2), or request help or the version (code 0); or after a signal (143 for
        SIGTERM, 129 for SIGHUP).
    """
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    parser = command_parser(words)
    try:
        arguments = parser.parse_args(words)
    except OSError as error:  # help and version are printed here
        _discard_output()
        return _report(error, debug=False)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    if sys.stdout is None:  # closed by the caller: the results would be lost
        return _report(StorageError("standard output: expected an open stream, got a closed one"), arguments.debug)
    if started is not None:
        started(COMMANDS[arguments.command].brief)
    try:
        with ended_by_signals(), output.quiet(arguments.quiet), output.warnings_as_lines():
            replace_hub_names(arguments)
            code: int = arguments.run(arguments)
    except (RWKVError, OSError, MemoryError, KeyboardInterrupt) as error:
        code = _report(error, arguments.debug)
        code = arguments.refused if code == ExitCode.REFUSED else code
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        if code == ExitCode.OK:
            code = _report(error, arguments.debug)
    return code


if __name__ == "__main__":
    sys.exit(main())
