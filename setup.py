"""Build of the compiled parts: every .pyx of the package, and the C kernels behind them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("rwkv_cy")
C_KERNELS = PACKAGE / "kernels" / "csrc"
#: The one extension that holds the C kernels; the others reach them through its table of functions.
C_KERNELS_OWNER = "rwkv_cy.kernels.dispatch"
#: ``RWKV_CY_DEBUG=1 pip install .`` turns every bounds check of Cython on.
DEBUG = os.environ.get("RWKV_CY_DEBUG", "") not in ("", "0")

OPENMP_PROBE = """
#include <omp.h>
int main(void) { int n = 0;
#pragma omp parallel reduction(+:n)
n += 1;
return n < 1 || omp_get_max_threads() < 1; }
"""


def extensions() -> list[Extension]:
    """One extension per .pyx; the one that owns the C kernels is compiled with them."""
    found = []
    for path in sorted(PACKAGE.rglob("*.pyx")):
        name = ".".join(path.with_suffix("").parts)
        sources = [path.as_posix()]
        depends = []
        if name == C_KERNELS_OWNER:
            sources += [p.as_posix() for p in sorted(C_KERNELS.glob("*.c"))]
            depends = [p.as_posix() for p in sorted(C_KERNELS.glob("*.h"))]
        found.append(Extension(name, sources, include_dirs=[C_KERNELS.as_posix()], depends=depends))
    return found


class BuildExt(build_ext):
    """Adds the compiler's flags, OpenMP's among them where the compiler has it."""

    def build_extensions(self) -> None:
        flags = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
        openmp = self.openmp_flags()
        if openmp is None:
            print(
                "rwkv_cy: the C compiler has no OpenMP, so the kernels will run on one thread; "
                "install a compiler with OpenMP (gcc, or clang with libomp) and build again for more.",
                file=sys.stderr,
            )
            openmp = []
        for extension in self.extensions:
            extension.extra_compile_args = flags + openmp
            extension.extra_link_args = openmp
            extension.define_macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
        super().build_extensions()

    def openmp_flags(self) -> list[str] | None:
        """Return the flags that make OpenMP work, or None where a program with them does not run."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(OPENMP_PROBE)
            program = Path(folder) / "probe"
            command = [*self.compiler.compiler_so[:1], "-fopenmp", str(source), "-o", str(program)]
            try:
                subprocess.run(command, check=True, capture_output=True)
                subprocess.run([program], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                return None
        return ["-fopenmp"]


setup(
    ext_modules=cythonize(
        extensions(),
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "freethreading_compatible": False,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
