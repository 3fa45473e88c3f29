"""Modules of the standard library that are loaded when they are first used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from rwkv_cy.cli.spared_modules import CODE_FLAGS


def test_flags_of_code_objects_are_those_of_python() -> None:
    assert {name: getattr(inspect, name) for name in CODE_FLAGS} == CODE_FLAGS


def output_of(program: str) -> str:
    """Run a program that begins with the spared modules."""
    begin = (
        "import sys\nbefore = set(sys.modules)\nfrom rwkv_cy.cli.spared_modules import spare_modules\nspare_modules()\n"
    )
    done = subprocess.run([sys.executable, "-c", begin + program], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("import pathlib\nprint(pathlib.Path('/a b').as_uri())", "file:///a%20b"),
        ("import pathlib\nprint(pathlib.PureWindowsPath('c:/a') / 'b')", "c:\\a\\b"),
        ("import urllib.parse\nprint(urllib.parse.quote('a b'))", "a%20b"),
        ("import urllib.parse\nprint(urllib.parse.quote_from_bytes(b'a b'))", "a%20b"),
        (
            "import gettext\nprint(gettext.gettext('a'), gettext.ngettext('a', 'b', 2), gettext.dgettext('x', 'c'))",
            "a b c",
        ),
        ("import ntpath\nprint(ntpath.join('a', 'b'))", "a\\b"),
    ],
)
def test_spared_modules_are_there(program: str, printed: str) -> None:
    assert output_of(program).strip() == printed


def test_pathlib_and_argparse_do_not_load_them() -> None:
    program = (
        "import argparse, pathlib\nargparse.ArgumentParser().parse_args([])\npathlib.Path('a') / 'b'\n"
        "names = ('ntpath', 'urllib.parse', 'gettext')\n"
        "print(*(name for name in names if name not in before and type(sys.modules[name]).__name__ != '_Later'))"
    )
    assert output_of(program).strip() == ""
