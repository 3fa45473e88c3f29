"""What ``generate --stats`` and ``--json`` report: speed, memory, and why the text ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rwkv_cy.cli.output import byte_size

if TYPE_CHECKING:
    from rwkv_cy.model.state import State
    from rwkv_cy.text import Generation

__all__ = ["Clock", "print_generation", "print_stats"]


class Clock:
    """Seconds of each phase, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the phase `name`, which began with the end of the one before it."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def print_stats(generation: Generation[State], clock: Clock) -> None:
    """Print the speed of prefill and decode, the finish reason and the memory on standard error."""
    report = _report(generation, clock)
    lines = {
        "prompt": _speed(report, "prompt_tokens", "prefill"),
        "generated": _speed(report, "tokens", "decode"),
        "finish reason": report["finish_reason"] or "interrupted",
        "loaded in": f"{report['load_seconds']:.3f} s",
    }
    if report["anonymous_bytes"] is not None:
        shared = byte_size(report["file_bytes"])
        lines["memory"] = f"{byte_size(report['anonymous_bytes'])} own, {shared} mapped files"
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name.ljust(width)}  {value}", file=sys.stderr)


def _speed(report: Mapping[str, Any], tokens: str, phase: str) -> str:
    count, seconds, rate = len(report[tokens]), report[f"{phase}_seconds"], report[f"{phase}_tokens_per_second"]
    return f"{count:,} token{'' if count == 1 else 's'} in {seconds:.3f} s, {rate:,.1f} tokens/s"


def print_generation(generation: Generation[State], clock: Clock, first: Mapping[str, Any]) -> None:
    """Print a complete generation as JSON, after the members in `first`."""
    from rwkv_cy.cli.json_stream import JsonObject

    with JsonObject("generate") as result:
        for name, value in {**first, **_report(generation, clock)}.items():
            result.member(name, value)


def _report(generation: Generation[State], clock: Clock) -> dict[str, Any]:
    from rwkv_cy.runtime import process_memory

    seconds = {name: clock.seconds.get(name, 0.0) for name in ("load", "prefill", "decode")}
    anonymous_bytes, file_bytes = process_memory() or (None, None)
    return {
        "text": generation.text,
        "prompt_tokens": generation.prompt,
        "tokens": generation.tokens,
        "finish_reason": generation.finish_reason,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "prefill_tokens_per_second": _rate(len(generation.prompt), seconds["prefill"]),
        "decode_tokens_per_second": _rate(len(generation.tokens), seconds["decode"]),
        "anonymous_bytes": anonymous_bytes,
        "file_bytes": file_bytes,
    }


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds else 0.0
