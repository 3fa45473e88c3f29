"""Names of packages that are imported when they are first used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv_cy import formats, storage
from rwkv_cy.lazy import names_from


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that finds modules in a folder, and in whatever this one was given."""
    places = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


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


def test_a_module_that_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text("print('loaded')\nvalue = 1\n")
    program = (
        "from rwkv_cy.lazy import import_later\nimport_later('large')\nimport_later('large')\n"
        "import large\nprint('imported')\nprint(large.value)\n"
    )
    environment = _environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["imported", "loaded", "1"]


def test_known_attributes_do_not_load_a_module(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text("print('loaded')\nsize = 7\nother = 8\n")
    program = (
        "from rwkv_cy.lazy import import_later\nimport_later('large', {'size': 7})\n"
        "import large\nprint(large.size)\nprint(large.other)\n"
    )
    environment = _environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", "loaded", "8"]


def test_two_threads_load_a_later_module_once(tmp_path: Path) -> None:
    names = [f"later_{number}" for number in range(300)]
    for name in names:
        (tmp_path / f"{name}.py").write_text("import builtins\nbuiltins.loaded.append(__name__)\nvalue = 1\n")
    program = (
        "import builtins, sys, threading\n"
        "from rwkv_cy.lazy import import_later\n"
        "builtins.loaded, failed = [], []\n"
        "sys.setswitchinterval(1e-6)\n"
        "def use(module, barrier):\n"
        "    barrier.wait()\n"
        "    try:\n"
        "        assert module.value == 1\n"
        "    except BaseException as error:\n"
        "        failed.append(repr(error))\n"
        f"for name in {names}:\n"
        "    import_later(name)\n"
        "    module, barrier = __import__(name), threading.Barrier(4)\n"
        "    threads = [threading.Thread(target=use, args=(module, barrier)) for _ in range(4)]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
        "print(len(builtins.loaded), len(set(builtins.loaded)), *failed)\n"
    )
    environment = _environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "300 300\n"


def test_a_later_module_of_a_package_is_an_attribute_of_it(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "__init__.py").write_text("")
    (tmp_path / "group" / "large.py").write_text("print('loaded')\nvalue = 1\n")
    program = (
        "from rwkv_cy.lazy import import_later\nimport_later('group.large')\n"
        "import group.large\nprint('imported')\nprint(group.large.value)\n"
    )
    environment = _environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["imported", "loaded", "1"]
