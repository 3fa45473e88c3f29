from __future__ import annotations

import pytest

from rwkv_cy import errors
from rwkv_cy.cli.exit_codes import HELP, ExitCode, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FormatError("x"), 1),
        (errors.SpecError("x"), 1),
        (errors.MissingDependencyError("x"), 1),
        (errors.StorageError("x"), 3),
        (FileNotFoundError(2, "x"), 3),
        (MemoryError(), 3),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(32, "x"), 141),
    ],
)
def test_every_error_has_its_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_another_error_has_none() -> None:
    with pytest.raises(TypeError, match="expected an error of the package or the system, got ZeroDivisionError"):
        exit_code(ZeroDivisionError())


def test_help_lists_every_code() -> None:
    listed = {int(line.split()[0]) for line in HELP.splitlines()[1:]}
    assert listed == {int(code) for code in ExitCode}
