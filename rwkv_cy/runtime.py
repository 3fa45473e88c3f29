"""The machine and the environment: instruction set, processors, threads, read on first use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass

__all__ = [
    "available_cpus",
    "available_memory",
    "child_environment",
    "colour_setting",
    "columns_setting",
    "core_of",
    "default_setting",
    "get_num_threads",
    "instruction_set_override",
    "keep_blas_quiet",
    "last_level_cache",
    "process_memory",
    "resolve_num_threads",
    "set_num_threads",
]

#: More threads than this are a mistake.
MAX_THREADS = 1024

_num_threads: int | None = None


def instruction_set_override() -> str | None:
    """Return the instruction set named by ``RWKV_CY_ISA``, or None."""
    return os.environ.get("RWKV_CY_ISA", "").strip().lower() or None


def colour_setting() -> bool | None:
    """Return whether the environment turns colours off (``NO_COLOR``) or on (``CLICOLOR_FORCE``); None for neither.

    Terminals that cannot show any (``TERM=dumb``) have them turned off.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return False if os.environ.get("TERM") == "dumb" else None


def columns_setting() -> int:
    """Return the columns of the terminal that the environment states (``COLUMNS``); 0 if it states none."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and len(columns) < 6 else 0


def keep_blas_quiet() -> None:
    """Set ``OPENBLAS_NUM_THREADS`` to 1 unless it is set. Must be called before NumPy is imported.

    The package does not use BLAS, whose idle threads would compete with its own.
    """
    default_setting("OPENBLAS_NUM_THREADS", "1")


def default_setting(name: str, value: str) -> None:
    """Set a variable of the environment that another package reads, unless it is set."""
    os.environ.setdefault(name, value)


def child_environment() -> dict[str, str]:
    """Return the environment of a process that runs this package: that of this process, with BLAS kept quiet."""
    return {"OPENBLAS_NUM_THREADS": "1", **os.environ}


def get_num_threads() -> int:
    """Return the default number of threads of a call.

    That is the value of :func:`set_num_threads`; else that of the environment variable ``RWKV_CY_NUM_THREADS``; else
    the number of physical cores that the affinity mask and the control group allow.

    Raises
    ------
    ConfigError
        If ``RWKV_CY_NUM_THREADS`` is not a number of threads.
    """
    global _num_threads
    if _num_threads is None:
        setting = os.environ.get("RWKV_CY_NUM_THREADS", "").strip()
        _num_threads = _checked(setting, "RWKV_CY_NUM_THREADS") if setting else available_cpus()
    return _num_threads


def set_num_threads(num_threads: int | None) -> None:
    """Set the default number of threads of a call; None restores the initial default.

    Raises
    ------
    ConfigError
        If `num_threads` is not from 1 to 1024.
    """
    global _num_threads
    _num_threads = None if num_threads is None else _checked(num_threads, "num_threads")


def resolve_num_threads(num_threads: int | None) -> int:
    """Return the checked number of threads for one call; None stands for :func:`get_num_threads`."""
    return get_num_threads() if num_threads is None else _checked(num_threads, "num_threads")


def _checked(value: object, where: str) -> int:
    try:
        number = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_THREADS:
        raise ConfigError(f"{where}: expected a number of threads from 1 to {MAX_THREADS}, got {value!r}")
    return number


def available_cpus() -> int:
    """Count the physical cores that this process may use: at least 1."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = {core_of(cpu) for cpu in allowed}
    quota = _cgroup_cpus()
    count = len(cores)
    if quota is not None:
        count = min(count, max(1, int(quota)))
    return max(1, count)


def core_of(cpu: int, root: Path = Path("/sys/devices/system/cpu")) -> str:
    """Name the physical core of a logical processor; the processor itself if the system does not report it."""
    try:
        return (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the CPU limit of the control groups (the lowest quota / period); None if there is no limit."""
    limits = []
    for folder in _cgroup_folders(root, own, "cpu"):
        for quota, period in (_limit_v2(folder), _limit_v1(folder)):
            if quota > 0 and period > 0:
                limits.append(quota / period)
    return min(limits) if limits else None


def _cgroup_folders(root: Path, own: Path, controller: str) -> list[Path]:
    """Return the folders of the control groups of this process, of version 2 and of a controller of version 1."""
    folders = [root, root / controller]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        base = root if number == "0" else root / controller
        if number != "0" and controller not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        folders += [base.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders


def _limit_v2(folder: Path) -> tuple[int, int]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
        return (0, 0) if quota == "max" else (int(quota), int(period))
    except (OSError, ValueError):
        return 0, 0


def _limit_v1(folder: Path) -> tuple[int, int]:
    try:
        return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return 0, 0


def available_memory(
    root: Path = Path("/sys/fs/cgroup"),
    meminfo: Path = Path("/proc/meminfo"),
    own: Path = Path("/proc/self/cgroup"),
) -> int | None:
    """Return the bytes of memory available without swapping; None if the system does not report them.

    That is the minimum over the machine and the control groups of this process.
    """
    available = []
    with suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                available.append(int(value.split()[0]) * 1024)
    for folder in _cgroup_folders(root, own, "memory"):
        for files in _MEMORY_FILES:
            with suppress(OSError, ValueError, IndexError):
                limit = (folder / files.limit).read_text().strip()
                if limit != "max":
                    available.append(max(0, int(limit) - _cgroup_memory(folder, files)))
    return min(available) if available else None


@dataclass(frozen=True)
class _MemoryFiles:
    """Names of the files of a control group that tell limit and use, and of lines in its statistics."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]


#: Of version 2 and of version 1, where no limit is one beyond any memory.
_MEMORY_FILES = (
    _MemoryFiles("memory.max", "memory.current", ("inactive_file", "active_file")),
    _MemoryFiles("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def _cgroup_memory(folder: Path, files: _MemoryFiles) -> int:
    """Return the bytes that a control group uses, without pages of files, which can be reclaimed."""
    used = int((folder / files.used).read_text())
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in files.reclaimable:
            used -= int(value)
    return max(0, used)  # the two files are not read at the same instant


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Return the bytes of the largest cache of the first processor; 0 if the system does not report it."""
    sizes = [0]
    for path in root.glob("index*/size"):
        with suppress(OSError, ValueError, KeyError):
            text = path.read_text().strip()
            sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1:]])
    return max(sizes)


def process_memory(status: Path = Path("/proc/self/status")) -> tuple[int, int] | None:
    """Return the anonymous and file-backed resident bytes of this process; None if the system does not report them."""
    try:
        pairs = (line.split()[:2] for line in status.read_text().splitlines() if line.startswith("Rss"))
        sizes = {name: int(value) * 1024 for name, value in pairs}
        return sizes["RssAnon:"], sizes["RssFile:"]
    except (OSError, ValueError, KeyError):
        return None
