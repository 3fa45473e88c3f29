"""Build of the compiled parts: every .pyx of the package, and the C kernels behind them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("rwkv_cy")
C_KERNELS = PACKAGE / "kernels" / "csrc"
#: The one extension that holds the C kernels; the others reach them through its table of functions.
C_KERNELS_OWNER = "rwkv_cy.kernels.dispatch"
#: ``RWKV_CY_DEBUG=1`` in the environment turns every bounds check of Cython on.
DEBUG = os.environ.get("RWKV_CY_DEBUG", "") not in ("", "0")
#: Where Cython writes its C: outside the package, and apart for the debug build.
GENERATED = Path("build") / ("cython-debug" if DEBUG else "cython")

C_FLAGS = ["-std=gnu11", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
#: The kernels are optimised fully; what Cython writes around them only calls them, and -O1 compiles it in a third of
#: the time.
KERNEL_LEVEL, GLUE_LEVEL = "-O3", "-O1"
#: Who shares the work among threads: our own pool, OpenMP, or nobody; ``RWKV_CY_THREADS`` in the environment says
#: otherwise. docs/adr has why the pool comes first.
THREADS = os.environ.get("RWKV_CY_THREADS", "") or "pool"
THREAD_BACKENDS = {"none": "RK_THREADS_NONE", "pool": "RK_THREADS_POOL", "openmp": "RK_THREADS_OPENMP"}
#: A program that shows whether a backend builds and runs, and ways to ask for it (compiler's flags, linker's flags).
POOL_PROBE = """
#include <pthread.h>
#include <stdatomic.h>
static _Atomic(int) n;
static void *f(void *p) { atomic_fetch_add(&n, 1); return p; }
int main(void) { pthread_t id; return pthread_create(&id, 0, f, 0) || pthread_join(id, 0) || atomic_load(&n) != 1; }
"""
POOL_WAYS = ((["-pthread"], ["-pthread"]),)
OPENMP_PROBE = """
#include <omp.h>
int main(void) { int n = 0;
#pragma omp parallel reduction(+:n)
n += 1;
return n < 1 || omp_get_max_threads() < 1; }
"""
#: gcc and clang; Apple's clang with libomp beside it.
OPENMP_WAYS = ((["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"]))
PROBES = {"pool": (POOL_PROBE, POOL_WAYS), "openmp": (OPENMP_PROBE, OPENMP_WAYS)}
ONE_THREAD = (
    "rwkv_cy: the C compiler cannot build programs with {}, so the kernels will run on one thread; for more, build "
    "again with gcc, or with clang (for OpenMP with its libomp: Debian, Ubuntu: libomp-dev; macOS: "
    "'brew install libomp', and its folders in CPPFLAGS=-I... and LDFLAGS=-L...)."
)


def extensions() -> list[Extension]:
    """One extension per .pyx; the one that owns the C kernels is compiled with them."""
    found = []
    for path in sorted(PACKAGE.rglob("*.pyx")):
        name = ".".join(path.with_suffix("").parts)
        sources = [path.as_posix()]
        if name == C_KERNELS_OWNER:
            sources += [p.as_posix() for p in sorted(C_KERNELS.glob("*.c"))]
        found.append(Extension(name, sources, include_dirs=[C_KERNELS.as_posix()]))
    return found


class BuildExt(build_ext):
    """Runs Cython, then the compiler with its flags, those of the threads among them."""

    def finalize_options(self) -> None:
        """Compile extensions side by side unless ``--parallel`` says otherwise."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count() or 1

    def build_extensions(self) -> None:
        """Build all extensions."""
        if self.compiler.compiler_type != "unix":
            sys.exit("rwkv_cy: the kernels are written for gcc and clang; on Windows, build within WSL.")
        backend, compile_threads, link_threads = self.thread_backend()
        generated = {extension.name: extension.sources for extension in self.cythonized()}
        for extension in self.extensions:
            extension.sources = generated[extension.name]
            extension.depends = ["setup.py", *(path.as_posix() for path in sorted(C_KERNELS.glob("*.h")))]
            extension.extra_compile_args = C_FLAGS + compile_threads
            extension.extra_link_args = link_threads
            extension.define_macros = [
                ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
                ("RK_THREADS", THREAD_BACKENDS[backend]),
            ]
        compile_one = self.compiler._compile

        def compile_at_its_level(
            obj: str, src: str, ext: str, cc_args: list[str], extra: list[str], pp: list[str]
        ) -> None:
            level = KERNEL_LEVEL if Path(src).parent.name == "csrc" else GLUE_LEVEL
            compile_one(obj, src, ext, cc_args, [*extra, level], pp)

        self.compiler._compile = compile_at_its_level
        super().build_extensions()

    def cythonized(self) -> list[Extension]:
        """Turn every .pyx into C; done here, not at the top, so that asking for metadata compiles nothing."""
        result: list[Extension] = cythonize(
            self.extensions,
            build_dir=GENERATED.as_posix(),
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": DEBUG,
                "initializedcheck": DEBUG,
                "cdivision": True,
                "freethreading_compatible": False,
            },
        )
        return result

    def thread_backend(self) -> tuple[str, list[str], list[str]]:
        """Return the backend that was asked for, with its flags; where the compiler has none, "none", and say so."""
        if THREADS not in THREAD_BACKENDS:
            sys.exit(f"rwkv_cy: RWKV_CY_THREADS: expected one of {', '.join(THREAD_BACKENDS)}, got {THREADS!r}.")
        if THREADS == "none":
            return "none", [], []
        program, ways = PROBES[THREADS]
        # The linker's command has them for extensions, and not for programs.
        link_with = shlex.split(os.environ.get("LDFLAGS", ""))
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            for compile_flags, link_flags in ways:
                steps = (
                    [*self.compiler.compiler_so, *compile_flags, "-c", source, "-o", f"{folder}/probe.o"],
                    [*self.compiler.linker_exe, f"{folder}/probe.o", *link_with, *link_flags, "-o", f"{folder}/probe"],
                    [f"{folder}/probe"],
                )
                try:
                    for step in steps:
                        subprocess.run(step, check=True, capture_output=True)
                except (OSError, subprocess.CalledProcessError):
                    continue
                return THREADS, compile_flags, link_flags
        print(ONE_THREAD.format({"pool": "POSIX threads", "openmp": "OpenMP"}[THREADS]), file=sys.stderr)
        return "none", [], []


setup(
    # The demo model lies in the checkout's data/, and beside the modules of an installed package.
    packages=[*find_packages(include=["rwkv_cy", "rwkv_cy.*"]), "rwkv_cy.data"],
    package_dir={"rwkv_cy.data": "data"},
    package_data={"rwkv_cy": ["py.typed", "*.pyi", "**/*.pyi"], "rwkv_cy.data": ["kjv.pth", "MANIFEST*"]},
    include_package_data=False,
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExt},
)
