"""Importing the package is silent and cheap, and reads no environment."""

from __future__ import annotations

import json
import subprocess
import sys

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
    assert foreign.isdisjoint({"torch", "tokenizers", "transformers", "rwkv", "tqdm", "scipy"})
    assert not any(name.startswith("rwkv_cy.cli") for name in seen["new"])
