"""Prints one sentence about what the build needs and this machine lacks, before anything is set up.

Written for any version of Python, so that an old one prints the sentence instead of a SyntaxError.
"""

import os
import shlex
import subprocess
import sys
import sysconfig

OLDEST = (3, 11)


def missing():
    """Return a sentence about what is missing; None if nothing is."""
    if sys.version_info < OLDEST:
        return "needs Python %d.%d or later, got %d.%d (%s); name another one: make PYTHON=python3.12 ..." % (
            OLDEST + tuple(sys.version_info[:2]) + (sys.executable,)
        )
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return "this Python cannot make virtual environments; install its venv module (Debian, Ubuntu: python3-venv)"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "this Python has no C headers; install them (Debian, Ubuntu: python3-dev; Fedora: python3-devel)"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    try:
        subprocess.check_output(compiler + ["--version"], stderr=subprocess.STDOUT)
    except (OSError, subprocess.CalledProcessError):
        return "the C compiler %r does not run; install gcc or clang, or name one: CC=clang make ..." % compiler[0]
    return None


if __name__ == "__main__":
    problem = missing()
    if problem:
        sys.exit("rwkv_cy: " + problem)
