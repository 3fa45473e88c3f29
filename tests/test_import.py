"""Importing the package is silent and cheap, and reads no environment."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import rwkv_cy

#: Runs in a fresh interpreter. NumPy comes first, because what it loads and reads is its own affair.
PROBE = """
import json, os, sys
import numpy
read = []
class Watched(dict):
    def __getitem__(self, key):
        read.append(key)
        return super().__getitem__(key)
    def get(self, key, default=None):
        read.append(key)
        return super().get(key, default)
    def __contains__(self, key):
        read.append(key)
        return super().__contains__(key)
os.environ = Watched(os.environ)
before = set(sys.modules)
import rwkv_cy
new = sorted(set(sys.modules) - before)
print(json.dumps({"read": read, "new": new}), file=sys.__stderr__)
"""


def imported_in_a_fresh_interpreter() -> tuple[str, dict[str, list[str]]]:
    """Import the package in a new process; return what it printed, and what it read and loaded."""
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return run.stdout, json.loads(run.stderr)


def test_import_is_silent_and_cheap() -> None:
    printed, seen = imported_in_a_fresh_interpreter()
    assert printed == ""
    assert [name for name in seen["read"] if name.startswith(("RWKV", "OMP"))] == []
    foreign = {name.split(".")[0] for name in seen["new"]} - set(sys.stdlib_module_names) - {"rwkv_cy"}
    assert foreign.isdisjoint({"torch", "tokenizers", "transformers", "rwkv", "tqdm", "scipy", "huggingface_hub"})
    assert not any(name.startswith("rwkv_cy.cli") for name in seen["new"])


def test_the_command_line_is_read_without_what_commands_work_with() -> None:
    probe = "import sys, rwkv_cy.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"numpy", "h5py", "tqdm", "tokenizers", "huggingface_hub", "importlib.metadata"})
    assert not any(name.startswith("rwkv_cy.kernels") for name in loaded)


@pytest.mark.parametrize("name", rwkv_cy.__all__)
def test_every_name_of_the_front_door_leads_somewhere(name: str) -> None:
    assert getattr(rwkv_cy, name) is not None
    assert name in dir(rwkv_cy)


def test_import_alone_reaches_the_packages() -> None:
    packages = rwkv_cy._PACKAGES
    probe = "import rwkv_cy\n" + "".join(f"print(rwkv_cy.{package}.__name__)\n" for package in packages)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"rwkv_cy.{package}" for package in packages]


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'rwkv_cy' has no attribute 'nothing'"):
        rwkv_cy.nothing  # noqa: B018
