"""Exit codes of the command, and the exception that each stands for."""

from __future__ import annotations

from enum import IntEnum

from rwkv_cy.errors import RWKVError

__all__ = ["HELP", "ExitCode", "exit_code"]


class ExitCode(IntEnum):
    """Exit codes of the command."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    SYSTEM = 3
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it
    BROKEN_PIPE = 141  # 128 + SIGPIPE


HELP = """exit codes:
  0    done
  1    the file is damaged or not supported, or the request does not fit the model
  2    wrong command line
  3    a file cannot be read or written, or there is too little memory
  130  interrupted (Ctrl-C); 143 and 129 after SIGTERM and SIGHUP
  141  output pipe closed (SIGPIPE)"""


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code of an error that ended the command.

    StorageError is both an RWKVError and an OSError, and has the exit code of the latter.
    """
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return ExitCode.BROKEN_PIPE
    if isinstance(error, (OSError, MemoryError)):
        return ExitCode.SYSTEM
    if isinstance(error, RWKVError):
        return ExitCode.REFUSED
    raise TypeError(f"exit_code: expected an error of the package or the system, got {type(error).__name__}")
