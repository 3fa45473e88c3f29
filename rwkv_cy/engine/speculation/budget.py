"""Budget: limits what drafts cost in vain, so that speculation is never much slower than none."""

from __future__ import annotations

__all__ = ["Budget"]

#: Of the time of passes without drafts, what may be spent in vain; and what may be at the beginning, in passes.
_SHARE, _START = 0.015, 1.5
#: What drafts have gained counts up to this many passes: a text that stops to repeat itself must not become slow.
_MOST = 4.0


class Budget:
    """What further drafts may cost, in passes. Drafts cost when they are verified, and gain with each right token.

    Attributes
    ----------
    left : float
        A draft that costs more is not made. So all texts of an engine together take at most 1.5 % and 1.5 passes longer
        than without drafts, by the measured costs of passes.
    """

    def __init__(self) -> None:
        self.left = _START

    def note(self, gained: float, cost: float, passes: float) -> None:
        """Take note of a draft: passes that it saved, passes that it cost, and passes that ran meanwhile."""
        self.left = min(_MOST, self.left + gained - cost + _SHARE * passes)
