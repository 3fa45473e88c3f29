"""Names of packages that are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rwkv_cy import formats, storage
from rwkv_cy.lazy import names_from


@pytest.mark.parametrize("package", [formats, storage])
def test_every_name_of_a_package_is_there(package: object) -> None:
    assert all(getattr(package, name) is not None for name in package.__all__)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):  # type: ignore[attr-defined]
        package.nothing  # type: ignore[attr-defined] # noqa: B018


def test_a_module_is_imported_for_its_first_name_and_the_name_is_kept() -> None:
    program = (
        "import sys\nfrom rwkv_cy import storage\nassert 'rwkv_cy.storage.reader' not in sys.modules\n"
        "storage.open_model\nassert 'rwkv_cy.storage.reader' in sys.modules and 'open_model' in vars(storage)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_of_modules() -> None:
    look_up = names_from("rwkv_cy.storage", {"schema": ("MODEL_KIND",)})
    assert look_up("MODEL_KIND") == storage.MODEL_KIND
    with pytest.raises(AttributeError, match="no attribute 'open_model'"):
        look_up("open_model")
