"""Stop strings: text that may be the beginning of one is held back until that is decided."""

from __future__ import annotations

from collections.abc import Iterable

from rwkv_cy.errors import GenerationError

__all__ = ["StopStrings"]


class StopStrings:
    """Filters pieces of text: passes on what comes before the first complete stop string.

    Parameters
    ----------
    stops : str or iterable of str
        The strings.

    Raises
    ------
    GenerationError
        If one is empty or not a str.

    Attributes
    ----------
    stopped : bool
        Whether a stop string was found; nothing is passed on after it.
    matched : str or None
        The one that was found.
    """

    def __init__(self, stops: str | Iterable[str]) -> None:
        try:
            self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        except TypeError:
            raise GenerationError(f"stop: expected strings, got {stops!r}") from None
        for stop in self._stops:
            if not isinstance(stop, str) or not stop:
                raise GenerationError(f"stop: expected strings of at least one character, got {stop!r}")
        self._held = ""
        self.stopped = False
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take a piece; return the text that is certain to come before any stop string."""
        if self.stopped:
            return ""
        held = self._held + text
        # The stop string that ends first, and of those the one that starts first, so that the result does not depend on
        # how the text is split into pieces.
        ends = [(held.index(stop) + len(stop), held.index(stop), stop) for stop in self._stops if stop in held]
        self.stopped = bool(ends)
        if ends:
            _, end, self.matched = min(ends)
        else:
            end = len(held) - self._open_end(held)
        self._held = "" if self.stopped else held[end:]
        return held[:end]

    def finish(self) -> str:
        """Return the text that was held back, at the end of the input."""
        held, self._held = self._held, ""
        return held

    def _open_end(self, held: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(held)), 0, -1):
            if any(stop.startswith(held[-size:]) for stop in self._stops):
                return size
        return 0
