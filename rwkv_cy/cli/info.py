"""``rwkv-cy info``: describes the package, the machine, and the libraries in use."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING, Any

import rwkv_cy
from rwkv_cy import runtime
from rwkv_cy.cli.arguments import common_options, output_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import print_fields, print_json
from rwkv_cy.demo import demo_model_path
from rwkv_cy.errors import StorageError
from rwkv_cy.toolkit.schema_names import named

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``info`` to the command's parser."""
    parser = commands.add_parser(
        "info",
        parents=[common_options()],
        description="Show the version of this installation and what it uses on this machine.",
        examples=["rwkv-cy info", "rwkv-cy info --json"],
    )
    output_options(parser, progress=False)
    parser.set_defaults(run=_run)


_LIBRARIES = ("numpy", "h5py", "tqdm", "tokenizers", "rwkv", "huggingface_hub")


def _run(arguments: argparse.Namespace) -> int:
    facts = _facts()
    if arguments.json:
        print_json(named("info", facts))
        return ExitCode.OK
    kernels = (f"{family} {name}" for family, name in facts["kernels"].items() if name)
    left_out = "".join(f"; not {name}: the compiler is too old" for name in facts["instruction_sets_left_out"])
    libraries = (f"{name} {version or 'not installed'}" for name, version in facts["libraries"].items())
    print_fields(
        {
            "rwkv-cy": facts["version"],
            "python": facts["python"],
            "platform": facts["platform"],
            "threads": str(facts["threads"]),
            "cores": str(facts["cores"]),
            "instruction set": facts["instruction_set"],
            "kernels": ", ".join(kernels),
            "CPU supports": ", ".join(facts["instruction_sets_available"]),
            "build contains": ", ".join(facts["instruction_sets_built"]) + left_out,
            "thread backend": facts["thread_backend"],
            "libraries": ", ".join(libraries),
            "demo model": facts["demo_model"] or "not installed",
        }
    )
    return ExitCode.OK


def _facts() -> dict[str, Any]:
    from rwkv_cy.kernels import dispatch

    return {
        "version": rwkv_cy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": runtime.get_num_threads(),
        "cores": runtime.available_cpus(),
        "instruction_set": dispatch.active_instruction_set(),
        "kernels": dispatch.kernel_families(),
        "instruction_sets_available": list(dispatch.available_instruction_sets()),
        "instruction_sets_built": list(dispatch.built_instruction_sets()),
        "instruction_sets_left_out": list(dispatch.left_out_instruction_sets()),
        "thread_backend": dispatch.thread_backend(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "demo_model": _demo_model(),
    }


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _demo_model() -> str | None:
    try:
        return str(demo_model_path())
    except StorageError:
        return None
