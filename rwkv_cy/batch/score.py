"""Scoring: the log-probability of each token of each text, short texts side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.batch.records import Bad, Block, Done, Record
from rwkv_cy.batch.task import Note, check_url, tokens_of
from rwkv_cy.errors import ConfigError, NumericalError, RWKVError
from rwkv_cy.model.encoder import CHUNK_TOKENS
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.passes import Part
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.text.score import log_softmax, score_chunks

__all__ = ["ScoreTask"]

#: Texts that run in a pass, each with a state, and the rows of logits in memory.
_MOST_TEXTS, _MOST_ROWS = 16, 256

_Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Piece:
    """A window of a text: where it is, and its tokens."""

    record: Record
    start: int
    tokens: _Tokens


@dataclass(frozen=True)
class ScoreTask:
    """Scores texts.

    Parameters
    ----------
    window : int, optional
        Restart from the initial state after this many tokens of a text.
    logprobs : bool, default True
        Return the log-probability of each token; otherwise the sums only.

    Raises
    ------
    ConfigError
        If `window` is below 2.
    """

    window: int | None = None
    logprobs: bool = True

    name = "score"
    text_field = "text"
    optional_fields = ()

    def __post_init__(self) -> None:
        if self.window is not None and (not isinstance(self.window, int) or self.window < 2):
            raise ConfigError(f"window: expected at least 2 tokens, got {self.window!r}")

    def settings(self) -> Mapping[str, Any]:
        """Return what the answers depend on."""
        return asdict(self)

    def run(
        self, model: LanguageModel, blocks: Iterable[Block], *, created: int, note: Note, path: Path | None = None
    ) -> Iterator[Done]:
        """Work on blocks, and yield each when it is complete."""
        for block in blocks:
            done, texts = Done(block), {}
            for record in block.records:
                try:
                    check_url(record)
                    texts[record.place] = tokens_of(model, record, self.text_field)
                except RWKVError as error:
                    done.bad.append(Bad.of(record, error))
            scores = {place: np.full(len(tokens), np.nan) for place, tokens in texts.items()}
            left = {place: -(-len(tokens) // (self.window or len(tokens))) for place, tokens in texts.items()}
            failed: set[int] = set()
            for group in _groups(self._pieces(block, texts)):
                for piece, values in zip(group, _score(model, group), strict=True):
                    place = piece.record.place
                    left[place] -= 1
                    if isinstance(values, NumericalError):
                        if place not in failed:
                            done.bad.append(Bad.of(piece.record, values))
                        failed.add(place)
                    else:
                        scores[place][piece.start + 1 : piece.start + len(piece.tokens)] = values
                    if not left[place] and place not in failed:
                        done.answers[place] = self._answer(model, piece.record, texts[place], scores[place], done)
                    if not left[place]:
                        note(len(texts[place]))
            yield done.finish()

    def _pieces(self, block: Block, texts: Mapping[int, _Tokens]) -> list[_Piece]:
        """Return the windows of all texts, the longest first."""
        pieces = []
        for record in block.records:
            if record.place not in texts:
                continue
            tokens = texts[record.place]
            step = self.window or len(tokens)
            pieces += [_Piece(record, start, tokens[start : start + step]) for start in range(0, len(tokens), step)]
        return sorted(pieces, key=lambda piece: -len(piece.tokens))

    def _answer(
        self, model: LanguageModel, record: Record, tokens: _Tokens, scores: npt.NDArray[np.float64], done: Done
    ) -> dict[str, Any]:
        known = ~np.isnan(scores)
        total = math.fsum(scores[known])
        length = len(model.tokenizer.decode_bytes(tokens[known].tolist())) if model.tokenizer is not None else 0
        done.totals.read_tokens += len(tokens)
        done.totals.predicted_tokens += int(known.sum())
        done.totals.text_bytes += length
        done.totals.nats -= total
        answer: dict[str, Any] = {
            "id": record.id,
            "logprob": total,
            "tokens": len(tokens),
            "predicted": int(known.sum()),
        }
        if self.logprobs:
            answer["logprobs"] = [None if math.isnan(value) else value for value in scores.tolist()]
        return answer


def _groups(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Divide windows into those that run in one pass; a long one runs alone."""
    group: list[_Piece] = []
    rows = 0
    for piece in pieces:
        if group and (len(group) == _MOST_TEXTS or rows + len(piece.tokens) > _MOST_ROWS):
            yield group
            group, rows = [], 0
        group.append(piece)
        rows += len(piece.tokens)
    if group:
        yield group


def _score(model: LanguageModel, group: Sequence[_Piece]) -> list[npt.NDArray[np.float64] | NumericalError]:
    """Return the log-probabilities of all tokens but the first of each window, or why there are none."""
    if len(group) == 1 and len(group[0].tokens) > min(CHUNK_TOKENS, _MOST_ROWS):
        try:
            return [np.concatenate(list(score_chunks(model, group[0].tokens)))]
        except NumericalError as error:
            return [error]
    before = model.encoder.numbers(None)
    long = [piece.tokens for piece in group if len(piece.tokens) > 1]
    parts = [Part(tokens[:-1], before, np.empty_like(before), wanted=len(tokens) - 1) for tokens in long]
    rows = iter(model.passes.run(parts))
    results: list[npt.NDArray[np.float64] | NumericalError] = []
    for piece in group:
        logits = next(rows) if len(piece.tokens) > 1 else np.empty((0, model.vocab_size))
        if np.isfinite(logits).all():
            pairs = zip(logits, piece.tokens[1:], strict=True)
            results.append(np.array([log_softmax(row)[token] for row, token in pairs]))
        else:
            results.append(
                NumericalError("logits: expected finite numbers, got NaN or infinity; verify the model file")
            )
    return results
