"""Energy from the processor's own counters (RAPL), where the system lets them be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Counters", "joules_of"]

_POWERCAP = Path("/sys/class/powercap")
#: Long enough for counters that are updated every millisecond.
_SECONDS = 1.0


class Counters:
    """The energy counters of the processor packages.

    Parameters
    ----------
    folder : Path, optional
        Where Linux has them. They are usually readable for root only, and not there at all in most virtual machines.

    Attributes
    ----------
    readable : bool
        Whether there is at least one package, and all of them can be read.
    """

    def __init__(self, folder: Path = _POWERCAP) -> None:
        self._files = []
        # intel-rapl:0 is a package, on AMD as well; intel-rapl:0:1 is a part of it.
        for package in sorted(folder.glob("intel-rapl:*")):
            if package.name.count(":") == 1:
                self._files.append((package / "energy_uj", package / "max_energy_range_uj"))
        try:
            self._ranges = [int(limit.read_text()) for _, limit in self._files]
            self.readings()
            self.readable = bool(self._files)
        except OSError:
            self.readable = False

    def readings(self) -> list[int]:
        """Return the counters, in microjoules."""
        return [int(counter.read_text()) for counter, _ in self._files]

    def joules_since(self, before: list[int]) -> float:
        """Return the energy of all packages since these readings; a counter that began anew once is corrected."""
        spent = zip(before, self.readings(), self._ranges, strict=True)
        return sum((now - then) % (limit + 1) for then, now, limit in spent) / 1e6


def joules_of(step: Callable[[], object], counters: Counters, seconds: float = _SECONDS) -> float:
    """Return the energy of one call in joules, the machine's idle power included: the mean over this many seconds."""
    calls, before, start = 0, counters.readings(), time.perf_counter()
    while time.perf_counter() - start < seconds or not calls:
        step()
        calls += 1
    return counters.joules_since(before) / calls
