"""Build of the compiled modules: every .pyx of the package, and the C kernels behind them."""

from __future__ import annotations

import os
import runpy
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import setuptools
from Cython import __version__ as cython_version
from Cython.Build import cythonize
from setuptools import Distribution, Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

#: The first that knows the metadata in pyproject.toml; without build isolation, an older one may be installed.
SETUPTOOLS = 77
if int(setuptools.__version__.partition(".")[0]) < SETUPTOOLS:
    sys.exit(
        f"rwkv_cy: expected setuptools {SETUPTOOLS} or newer, got {setuptools.__version__}; pip install -U setuptools"
    )

PACKAGE = Path("rwkv_cy")
C_KERNELS = PACKAGE / "kernels" / "csrc"
#: The one extension that holds the C kernels; the others call them through its declarations.
C_KERNELS_OWNER = "rwkv_cy.kernels.dispatch"
#: Cython's code for memoryviews, compiled once instead of in every extension.
SHARED_UTILITY = "rwkv_cy.kernels._cyutility"
#: ``RWKV_CY_DEBUG=1`` in the environment turns on all of Cython's bounds checks.
DEBUG = os.environ.get("RWKV_CY_DEBUG", "") not in ("", "0")
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "freethreading_compatible": True,
}
#: The stable ABI of the oldest Python that pyproject.toml allows: one build runs on it and on all later ones. An
#: interpreter without a GIL has another ABI, and needs a build of its own.
LIMITED_API = None if sysconfig.get_config_var("Py_GIL_DISABLED") else (3, 11)
MACROS = [("Py_LIMITED_API", "0x{:02X}{:02X}0000".format(*LIMITED_API))] if LIMITED_API else []

C_FLAGS = ["-std=gnu11", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
#: Optimisation of the C kernels; of Cython modules that loop themselves; of kernels in float64, which serve for
#: checking, not for speed; and of Cython modules that only call kernels: a third less work than -O1, and as fast.
KERNEL_LEVEL = ["-O3"]
LOOP_LEVEL = ["-O2"]
CHECK_LEVEL = ["-O1"]
GLUE_LEVEL = ["-Og"]
LOOPING = {"json_text", "pickle_vm", "sample", "token_table", "torch_tensors", "zip_entries"}
CHECKING = {"doubles"}
#: The C files here take longest to compile.
FAMILIES = C_KERNELS / "families"

#: What distributes work among threads: a pool of our own, OpenMP, or nothing (one thread); ``RWKV_CY_THREADS`` in the
#: environment chooses another one. docs/adr/0003-threads.md has the reasons.
THREADS = os.environ.get("RWKV_CY_THREADS", "") or "pool"
#: The value of the C macro, and the flags of the compiler and the linker.
THREAD_BACKENDS = {
    "none": ("RK_THREADS_NONE", []),
    "pool": ("RK_THREADS_POOL", ["-pthread"]),
    "openmp": ("RK_THREADS_OPENMP", ["-fopenmp"]),
}


def extensions() -> list[Extension]:
    """Return one extension per .pyx, and the one that they share."""
    found = []
    for path in sorted(PACKAGE.rglob("*.pyx")):
        name = ".".join(path.with_suffix("").parts)
        found.append(Extension(name, [path.as_posix()], py_limited_api=bool(LIMITED_API)))
    shared = Path(*SHARED_UTILITY.split(".")).with_suffix(".c")
    return [Extension(SHARED_UTILITY, [shared.as_posix()], py_limited_api=bool(LIMITED_API)), *found]


def _level(name: str, usual: list[str]) -> list[str]:
    """Return the optimisation of a file."""
    return CHECK_LEVEL if name in CHECKING else LOOP_LEVEL if name in LOOPING else usual


class Progress:
    """A line that says how much of the build is done; on a terminal it is rewritten in place."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def count(self, compiled: bool) -> None:
        """Count one file; one that was up to date prints nothing."""
        self._done += 1
        last = self._done == self._total
        terminal = sys.stderr.isatty()
        if compiled and (terminal or last or self._done % 8 == 0):
            line = f"building: {self._done} of {self._total} files"
            print("\r" * terminal + line, end="" if terminal and not last else "\n", file=sys.stderr, flush=True)


class BuildExt(build_ext):
    """Runs Cython and, beside it, the C compiler on all cores; compiles only what is out of date."""

    def finalize_options(self) -> None:
        """Let an editable install use what ``build_ext --inplace`` has built."""
        if self.editable_mode:
            usual = build(Distribution({"ext_modules": self.distribution.ext_modules}))
            usual.ensure_finalized()
            self.build_lib, self.build_temp = usual.build_lib, usual.build_temp
        super().finalize_options()

    def build_extensions(self) -> None:
        """Build all extensions: setuptools only links what is compiled here."""
        if self.compiler.compiler_type != "unix":
            sys.exit("rwkv_cy: the kernels need gcc or clang; on Windows, build in WSL.")
        if THREADS not in THREAD_BACKENDS:
            sys.exit(f"rwkv_cy: RWKV_CY_THREADS: expected one of {', '.join(THREAD_BACKENDS)}, got {THREADS!r}.")
        backend, thread_flags = THREAD_BACKENDS[THREADS]
        self._macros = [*MACROS, ("RK_THREADS", backend)]
        self._flags = [*C_FLAGS, *thread_flags]
        with self._same_options():
            objects = self._compile_all()
            for extension in self.extensions:
                extension.sources = []
                extension.extra_objects = extension.depends = objects[extension.name]
                extension.extra_link_args = [*thread_flags, "-lm"]
            super().build_extensions()
        self._remove_others()

    def copy_extensions_to_source(self) -> None:
        """Copy what was built beside the sources, for a build in place."""
        super().copy_extensions_to_source()
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove earlier builds that this interpreter would import instead of the new ones: with another suffix."""
        for extension in self.extensions:
            built = Path(self.get_ext_fullpath(extension.name))
            module = built.with_name(built.name.partition(".")[0])
            for suffix in EXTENSION_SUFFIXES:
                if (other := module.with_name(module.name + suffix)) != built:
                    other.unlink(missing_ok=True)

    @contextmanager
    def _same_options(self) -> Iterator[None]:
        """Rebuild everything if the last build had another compiler, another Cython or other flags."""
        levels = [KERNEL_LEVEL, LOOP_LEVEL, CHECK_LEVEL, GLUE_LEVEL, sorted(LOOPING), sorted(CHECKING)]
        tools = [self.compiler.compiler_so, self.compiler.linker_so, cython_version]
        options = repr([tools, DIRECTIVES, self._flags, self._macros, levels])
        record = Path(self.build_temp, "options.txt")
        if not record.exists() or record.read_text("utf-8") != options:
            record.unlink(missing_ok=True)
            self.force = True
        yield
        record.write_text(options, "utf-8")

    def _compile_all(self) -> dict[str, list[str]]:
        """Compile what is out of date and return the object files of each extension."""
        headers = sorted(path.as_posix() for path in C_KERNELS.rglob("*.h"))
        kernels = sorted(C_KERNELS.rglob("*.c"), key=lambda path: (path.parent != FAMILIES, path))
        progress = Progress(len(kernels) + len(self.extensions))
        objects: dict[str, list[str]] = {extension.name: [] for extension in self.extensions}
        futures: list[Future[None]] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def submit(name: str, source: str, level: list[str]) -> None:
                (target,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
                objects[name].append(target)
                if not self.force and not newer_group([source, *headers], target):
                    progress.count(compiled=False)
                    return
                future = pool.submit(self._compile, source, level)
                future.add_done_callback(lambda _: progress.count(compiled=True))
                futures.append(future)

            try:
                for path in kernels:
                    submit(C_KERNELS_OWNER, path.as_posix(), _level(path.stem, KERNEL_LEVEL))
                for extension in self.extensions:
                    level = _level(extension.name.rpartition(".")[2], GLUE_LEVEL)
                    submit(extension.name, self._translate(extension), level)
                for future in as_completed(futures):
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
        return objects

    def _translate(self, extension: Extension) -> str:
        """Return the C file that Cython makes of an extension's .pyx."""
        (result,) = cythonize(
            [extension],
            build_dir=Path(self.build_temp, "cython").as_posix(),
            compiler_directives=DIRECTIVES,
            shared_utility_qualified_name=SHARED_UTILITY,
            force=self.force,
            quiet=True,
        )
        source: str = result.sources[0]
        return source

    def _compile(self, source: str, level: list[str]) -> None:
        include = [C_KERNELS.as_posix()]
        self.compiler.compile([source], self.build_temp, self._macros, include, extra_postargs=[*self._flags, *level])


class BdistWheel(bdist_wheel):
    """Adds the list of what is compiled into the wheel (PEP 770)."""

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        """Write the metadata of the wheel, of which RECORD is made afterwards."""
        super().egg2dist(egginfo_path, distinfo_path)
        path = Path(distinfo_path, "sboms", "rwkv_cy.cdx.json")
        path.parent.mkdir()
        sbom = runpy.run_path(Path("tools", "sbom.py").as_posix())
        path.write_text(sbom["document"](self.distribution.get_version()), "utf-8")


setup(
    # The demo model is in the checkout's data/, and beside the modules of an installed package.
    packages=[*find_packages(include=["rwkv_cy", "rwkv_cy.*"]), "rwkv_cy.data"],
    package_dir={"rwkv_cy.data": "data"},
    package_data={
        "rwkv_cy": ["py.typed", "*.pyi", "**/*.pyi", "toolkit/known_models.json", "server/page.html"],
        "rwkv_cy.data": ["kjv7.pth", "MANIFEST*"],
    },
    include_package_data=False,
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel},
    options={"bdist_wheel": {"py_limited_api": "cp{}{}".format(*LIMITED_API)}} if LIMITED_API else {},
)
