"""Processors of this machine by NUMA node, and their division among processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass
from rwkv_cy.runtime import available_cpus, core_of

__all__ = ["MOST_PROCESSES", "Share", "divide", "nodes", "shares"]

MOST_PROCESSES = 1024


@dataclass(frozen=True)
class Share:
    """What a process runs on.

    Attributes
    ----------
    cpus : frozenset of int
        Logical processors that it is pinned to; empty where the system cannot do that.
    threads : int
    """

    cpus: frozenset[int]
    threads: int


def shares(processes: int | None = None, threads: int | None = None) -> list[Share]:
    """Divide the processors that this process may use.

    Parameters
    ----------
    processes : int, optional
        By default one a NUMA node.
    threads : int, optional
        Of each process; by default its physical cores, and together not more than the control group allows.

    Raises
    ------
    ConfigError
        If there are less than 1 or more than 1024 processes.
    """
    if processes is not None and not 1 <= processes <= MOST_PROCESSES:
        raise ConfigError(f"processes: expected from 1 to {MOST_PROCESSES}, got {processes}")
    parts = divide(nodes(), processes)
    allowed = available_cpus()
    cores = [len(_cores(part)) or max(1, allowed // len(parts)) for part in parts]
    total = max(allowed, sum(cores))
    return [Share(part, threads or max(1, own * allowed // total)) for part, own in zip(parts, cores, strict=True)]


def nodes(root: Path = Path("/sys/devices/system/node")) -> list[frozenset[int]]:
    """Return the processors of each NUMA node that this process may use; one node if the system does not report any."""
    try:
        allowed = frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return [frozenset()]
    found = {}
    for path in root.glob("node[0-9]*/cpulist"):
        with suppress(OSError, ValueError):
            found[int(path.parent.name.removeprefix("node"))] = parse_cpus(path.read_text()) & allowed
    known = [found[number] for number in sorted(found) if found[number]]
    return known if frozenset().union(*known) == allowed else [allowed]


def parse_cpus(text: str) -> frozenset[int]:
    """Return the numbers in a list such as ``0-3,8``; ValueError if it is not one."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def divide(parts: Sequence[frozenset[int]], processes: int | None) -> list[frozenset[int]]:
    """Divide processors by node among processes: whole physical cores, as equally as they can be.

    A process gets processors of one node, unless there are fewer processes than nodes. Processes of a node that has
    fewer cores than processes share them.
    """
    if processes is None:
        return list(parts)
    if processes < len(parts):
        return [frozenset().union(*parts[index::processes]) for index in range(processes)]
    counts = [processes // len(parts) + (index < processes % len(parts)) for index in range(len(parts))]
    return [share for part, count in zip(parts, counts, strict=True) for share in _split(part, count)]


def _split(cpus: frozenset[int], count: int) -> list[frozenset[int]]:
    cores = _cores(cpus)
    if not cores:
        return [cpus] * count
    if len(cores) < count:
        return [cores[index % len(cores)] for index in range(count)]
    bounds = [len(cores) * index // count for index in range(count + 1)]
    return [frozenset().union(*cores[first:last]) for first, last in pairwise(bounds)]


def _cores(cpus: frozenset[int]) -> list[frozenset[int]]:
    """Return the processors of each physical core."""
    cores: dict[str, set[int]] = {}
    for cpu in sorted(cpus):
        cores.setdefault(core_of(cpu), set()).add(cpu)
    return [frozenset(core) for core in cores.values()]
