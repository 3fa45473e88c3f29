"""Modules of the standard library that are loaded when they are first used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from rwkv_cy.cli.spared_modules import CODE_FLAGS


def test_flags_of_code_objects_are_those_of_python() -> None:
    assert {name: getattr(inspect, name) for name in CODE_FLAGS} == CODE_FLAGS


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("import rwkv_cy.kernels.dispatch\nprint('dis' in sys.modules)", "False"),
        ("import inspect\nprint(inspect.CO_GENERATOR, 'dis' in sys.modules)", "32 False"),
        ("import inspect\nprint(inspect.isclass(int), 'dis' in sys.modules)", "True True"),
        (
            "import pathlib\nprint('ipaddress' not in before and '__file__' in vars(sys.modules['ipaddress']))",
            "False",  # an editable install loads pathlib before
        ),
        ("from urllib.parse import urlsplit\nprint(urlsplit('http://[::1]:80/a').hostname)", "::1"),
        ("from inspect import signature\nprint(signature(lambda a, b=1: 0))", "(a, b=1)"),
        (
            "from gettext import ngettext as n\nprint(n('a', 'b', 1), n('a', 'b', 2), 'locale' in sys.modules)",
            "a b False",
        ),
        ("import gettext\nprint(gettext.NullTranslations().gettext('a'))", "a"),
    ],
)
def test_it_is_there_when_it_is_used(program: str, printed: str) -> None:
    begin = (
        "import sys\nbefore = set(sys.modules)\nfrom rwkv_cy.cli.spared_modules import spare_modules\nspare_modules()\n"
    )
    done = subprocess.run([sys.executable, "-c", begin + program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed
