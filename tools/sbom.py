"""The software bill of materials of a wheel (CycloneDX): what it contains besides the package's own files."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sysconfig
import tempfile
import uuid
from pathlib import Path
from typing import Any

from Cython import __version__ as cython_version

#: https://cyclonedx.org/specification/overview/
SPECIFICATION = "1.6"
DEMO_MODEL = Path("data", "kjv7.pth")


def compiler() -> str:
    """Return what the C compiler says of its own version: the first line."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:  # zig's compiler writes an empty object file where it is run
        done = subprocess.run([*command, "--version"], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def package(name: str, version: str, license_id: str, kind: str = "library", **others: Any) -> dict[str, Any]:
    """Return the component of a project on PyPI."""
    url = f"pkg:pypi/{name.lower()}@{version}"
    return {
        "type": kind,
        "bom-ref": url,
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": license_id}}],
        "purl": url,
        **others,
    }


def document(version: str) -> str:
    """Return the bill of materials of the package's `version` as JSON; the same inputs make the same bytes."""
    own = package("rwkv-cy", version, "BSD-2-Clause")
    cython = package(
        "Cython",
        cython_version,
        "Apache-2.0",
        description="Code that Cython adds to each compiled module.",
    )
    built_with = {
        "type": "application",
        "bom-ref": "compiler",
        "name": "C compiler",
        "version": compiler(),
        "scope": "excluded",
        "description": "Compiled the modules; its support functions may be linked into them.",
    }
    model = {
        "type": "machine-learning-model",
        "bom-ref": "demo-model",
        "name": DEMO_MODEL.name,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(DEMO_MODEL.read_bytes()).hexdigest()}],
        "description": "A byte-level RWKV-4, trained for this project on the King James Bible (public domain).",
    }
    components = [cython, model, built_with]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([own, components])).urn,
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": [
            {"ref": own["bom-ref"], "dependsOn": [each["bom-ref"] for each in components]},
            *({"ref": each["bom-ref"]} for each in components),
        ],
    }
    return json.dumps(bom, indent=2) + "\n"
