"""Package metadata: version, entry point, licence, typing, and files that must not be tracked."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

import rwkv_cy

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rwkv_cy"
BUILT = re.compile(r"\.(so|o|pyc|pyd|whl|egg-info|h5)$|^(build|dist)/|^rwkv_cy/(?!kernels/csrc/).*\.c$")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings: dict[str, Any] = tomllib.load(file)
    return settings


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Return the files of the checkout; an unpacked source distribution has no list of them."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout: this is not a git repository")
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def test_version_stands_once(project: dict[str, Any]) -> None:
    assert project["project"]["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", rwkv_cy.__version__)
    assert f"## [{rwkv_cy.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_entry_point_is_callable(project: dict[str, Any]) -> None:
    module, _, function = project["project"]["scripts"]["rwkv-cy"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_typing_is_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    compiled = {path.with_suffix("") for path in PACKAGE.rglob("*.pyx")}
    assert {path for path in compiled if not path.with_suffix(".pyi").is_file()} == set()


def test_licence_is_bsd_2_clause(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "BSD-2-Clause"
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.startswith("BSD 2-Clause License\n\nCopyright (c) 2026, The rwkv_cy authors\n")


def test_every_extra_is_known(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    named = {
        extra
        for requirements in extras.values()
        for requirement in requirements
        if requirement.startswith("rwkv-cy[")
        for extra in requirement.removeprefix("rwkv-cy[").rstrip("]").split(",")
    }
    assert named <= set(extras)
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {extra for row in rows for extra in re.findall("`([^`]+)`", row)} == set(extras)


def test_extras_that_messages_and_pages_name(project: dict[str, Any]) -> None:
    """One spelling of the package, and no extra that it does not have."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = [
        (package, extra)
        for path in files
        for package, extras in re.findall(r"pip install ['\"](rwkv[-_]cy|\.)\[([\w,]+)\]", path.read_text("utf-8"))
        for extra in extras.split(",")
    ]
    assert len(named) > 15
    assert {package for package, _ in named} == {".", "rwkv-cy"}
    assert {extra for _, extra in named} <= project["project"]["optional-dependencies"].keys()


def test_makefile_finds_what_the_build_needs(project: dict[str, Any]) -> None:
    (line,) = re.findall(r"^requires = \[(.*)\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert re.findall('"([^"]+)"', line) == project["build-system"]["requires"]


def test_an_older_setuptools_is_named() -> None:
    program = "import runpy, setuptools; setuptools.__version__ = '76.1.0'; runpy.run_path('setup.py')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "rwkv_cy: expected setuptools 77 or newer, got 76.1.0; pip install -U setuptools" in done.stderr


def test_one_build_serves_every_later_python(project: dict[str, Any]) -> None:
    """The oldest Python of the package is that of its ABI, in every compiled module."""
    (limited,) = re.findall(r"^LIMITED_API = .* else \((\d+), (\d+)\)$", (ROOT / "setup.py").read_text("utf-8"), re.M)
    assert project["project"]["requires-python"] == ">=" + ".".join(limited)
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGE.rglob("*.pyx")]
    files = [Path(str(importlib.import_module(name).__file__)).name for name in [*names, "rwkv_cy.kernels._cyutility"]]
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if sysconfig.get_config_var("Py_GIL_DISABLED") else ".abi3.so"
    assert {name for name in files if not name.endswith(suffix)} == set()


def test_bill_of_materials(monkeypatch: pytest.MonkeyPatch) -> None:
    cython = pytest.importorskip("Cython", reason="the build's Cython is part of what is listed")
    monkeypatch.chdir(ROOT)
    document = runpy.run_path("tools/sbom.py")["document"]
    bom = json.loads(document("1.2.3"))
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["purl"] == "pkg:pypi/rwkv-cy@1.2.3"
    by_ref = {each["bom-ref"]: each for each in bom["components"]}
    assert f"pkg:pypi/cython@{cython.__version__}" in by_ref
    digest = hashlib.sha256((ROOT / "data" / "kjv7.pth").read_bytes()).hexdigest()
    assert by_ref["demo-model"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert {each["ref"] for each in bom["dependencies"]} == {"pkg:pypi/rwkv-cy@1.2.3", *by_ref}
    assert document("1.2.3") == document("1.2.3") != document("1.2.4")


def test_kernels_are_compiled_alike_everywhere() -> None:
    """The arithmetic of the kernels depends on these flags; the Makefile's C tests must have those of setup.py."""
    (listed,) = re.findall(r"^C_FLAGS = \[(.*)\]$", (ROOT / "setup.py").read_text("utf-8"), re.MULTILINE)
    (flags,) = re.findall(r"^KERNEL_FLAGS := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall('"([^"]+)"', listed)) - {"-g0"} <= set(flags.split())


def test_no_build_product_is_tracked(tracked: list[str]) -> None:
    assert [name for name in tracked if BUILT.search(name)] == []


def test_no_file_is_too_long(tracked: list[str]) -> None:
    sources = [name for name in tracked if re.search(r"\.(py|pyx|pxd|c|h)$", name) and (ROOT / name).is_file()]
    lengths = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in sources}
    assert {name: length for name, length in lengths.items() if length > 600} == {}


def test_the_installed_version_is_this_one() -> None:
    try:
        installed = importlib.metadata.version("rwkv-cy")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("rwkv-cy is not installed: running from the source folder")
    assert installed == rwkv_cy.__version__
