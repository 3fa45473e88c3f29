"""Importing the package is silent and cheap, and reads no environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rwkv_cy
from benchmarks.sparse import write_sparse
from rwkv7_shapes import rwkv7_config
from rwkv_cy.cli.commands import COMMANDS

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


#: Runs in a fresh interpreter: what another program would notice of the package within it, if anything changed.
EMBEDDED = """
import signal, sys, threading
def hooks():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return handlers, sys.excepthook, sys.unraisablehook, threading.excepthook, signal.set_wakeup_fd(-1)
before = hooks()
import rwkv_cy
with rwkv_cy.load(rwkv_cy.demo_model_path()) as model:
    list(model.generate("In", max_tokens=2))
    rwkv_cy.convert(rwkv_cy.demo_model_path(), sys.argv[1])
    rwkv_cy.engine.Engine(model).step()
print(hooks() == before)
"""


def test_import_and_calls_leave_signals_and_hooks_alone(tmp_path: Path) -> None:
    """They belong to the program that imports the package; only the command sets any."""
    command = [sys.executable, "-c", EMBEDDED, str(tmp_path / "m.h5")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


#: Modules of the standard library that take milliseconds to load, with what they load.
SLOW = {
    "asyncio",
    "concurrent.futures",
    "dataclasses",
    "difflib",
    "hashlib",
    "importlib.metadata",
    "inspect",
    "logging",
}
SLOW |= {"platform", "random", "secrets", "shutil", "tempfile", "unittest"}
#: What no command loads that only prints.
HEAVY = {"numpy", "h5py", "tqdm", "tokenizers", "huggingface_hub", "rich"}


def loaded_by(*words: str) -> set[str]:
    """Return the names of the modules that a run of the command loads; its exit code has to be 0.

    Modules that wait until they are used are not loaded, and those do not count that the environment loads before: an
    editable install loads pathlib.
    """
    probe = (
        "import sys\nbefore = set(sys.modules)\nfrom rwkv_cy.__main__ import main\nsys.argv[1:] = sys.argv[2:]\n"
        "try:\n    code = main()\nexcept SystemExit as end:\n    code = end.code\n"
        "from rwkv_cy.lazy import _Later\n"
        "names = sys.modules.keys() - before\n"
        "loaded = (name for name in names if not isinstance(sys.modules[name], _Later))\n"
        "print(*loaded, file=sys.stderr)\nsys.exit(code)"
    )
    command = [sys.executable, "-c", probe, "--", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def own(loaded: set[str], package: str = "") -> set[str]:
    """Return the modules of this package, or of one of its packages, without that in front."""
    begin = f"rwkv_cy.{package}"
    return {name.removeprefix(begin) for name in loaded if name.startswith(begin)}


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("inspect", "--help"), ("generate", "--help")])
def test_help_loads_one_command_at_most_and_nothing_slow(words: tuple[str, ...]) -> None:
    loaded = loaded_by(*words)
    assert loaded & (SLOW | HEAVY) == set()
    commands = {command.module for command in COMMANDS.values()} & own(loaded, "cli.")
    assert commands == {word for word in words if word in COMMANDS}
    assert len(own(loaded)) <= 30


def test_describing_a_file_loads_the_reader_of_its_format_alone(tmp_path: Path) -> None:
    readers = {"pth", "pth_legacy", "rwkvcpp", "gguf", "safetensors", "huggingface", "shards"}
    path = tmp_path / "m.safetensors"
    write_sparse(path, rwkv7_config(64, 1, 64, (8, 8, 8, 8), vocab_size=300), "bf16")
    loaded = loaded_by("inspect", str(path), "--no-speed")
    unused = {"numpy", "h5py", "tokenizers", "ast", "dis", "isal.isal_zlib", "gettext", "locale", "shlex"}
    assert loaded & (SLOW | unused) == set()
    assert readers & own(loaded, "formats.") == {"safetensors"}
    assert own(loaded, "formats.layouts.") & {"export", "gguf", "rwkvcpp"} == set()
    assert own(loaded) & {"model", "text", "hub"} == set()
    assert own(loaded, "storage.") == {"signature"}
    assert own(loaded, "toolkit.") == {
        "inspect",
        "file_report",
        "expectation",
        "bandwidth",
        "schema_names",
        "tensor_names",
    }


def test_describing_a_checkpoint_of_torch_loads_no_json(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    write_sparse(path, rwkv7_config(64, 1, 64, (8, 8, 8, 8), vocab_size=300), "bf16")
    loaded = loaded_by("inspect", str(path), "--no-speed")
    assert "formats.pth" in own(loaded)
    assert loaded & {"json", "numpy"} == set()


def test_generating_loads_no_writer_and_no_foreign_reader(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    rwkv_cy.convert(rwkv_cy.demo_model_path(), path)
    loaded = loaded_by("generate", str(path), "In", "--max-tokens", "1")
    assert loaded & {"h5py", "tqdm", "huggingface_hub", "dataclasses", "logging", "concurrent.futures"} == set()
    assert own(loaded, "storage.") & {"file_writer", "writer", "structure", "skeleton"} == set()
    assert own(loaded, "formats.") <= {"metadata"}
    assert own(loaded) & {"hub"} == set()
    assert own(loaded, "toolkit.") == set()


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
