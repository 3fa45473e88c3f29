"""Progress and report of a batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rwkv_cy.batch.records import Totals
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.toolkit.schema_names import named

__all__ = ["BatchReport", "Progress"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    rows, total_rows : int
        Rows of the input that are done, those of earlier runs included, and all of them.
    records, tokens : int
        Of this run.
    seconds : float
        Since it began.
    """

    rows: int
    total_rows: int
    records: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens that were read and generated."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class BatchReport:
    """What is in a folder after a run.

    Attributes
    ----------
    task : str
    folder : Path
    blocks, total_blocks : int
        Those that are complete, and those of the input.
    totals : Totals
        Of all complete blocks, those of earlier runs included.
    run_records, run_tokens : int
        Of this run.
    seconds : float
        That it took.
    """

    task: str
    folder: Path
    blocks: int
    total_blocks: int
    totals: Totals
    run_records: int
    run_tokens: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every block of the input is complete."""
        return self.blocks == self.total_blocks

    @property
    def perplexity(self) -> float | None:
        """The exponential of the mean of -ln p; None if nothing was scored, or it is too large for a float."""
        if not self.totals.predicted_tokens:
            return None
        try:
            return math.exp(self.totals.nats / self.totals.predicted_tokens)
        except OverflowError:
            return None

    @property
    def bits_per_byte(self) -> float | None:
        """Mean of -log2 p per byte of text; None if nothing was scored."""
        return self.totals.nats / math.log(2) / self.totals.text_bytes if self.totals.text_bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        own = {
            "task": self.task,
            "folder": str(self.folder),
            "complete": self.complete,
            "blocks": self.blocks,
            "total_blocks": self.total_blocks,
            **asdict(self.totals),
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "run_records": self.run_records,
            "run_tokens": self.run_tokens,
            "seconds": self.seconds,
        }
        return named("batch", own)
