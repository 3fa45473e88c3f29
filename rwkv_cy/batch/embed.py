"""Embedding: a vector for each text, several texts side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.batch import openai_format
from rwkv_cy.batch.records import Bad, Block, Done, Record
from rwkv_cy.batch.task import Note, check_url, tokens_of
from rwkv_cy.errors import NumericalError, RWKVError
from rwkv_cy.model.hidden import check_pooling
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.records import asdict, dataclass

__all__ = ["EmbedTask"]

#: Texts in a call of the model.
_GROUP = 64

_Texts = list[tuple[Record, npt.NDArray[np.int64]]]


@dataclass(frozen=True)
class EmbedTask:
    """Computes vectors of texts.

    Parameters
    ----------
    pooling : {"mean", "last"}, default "mean"
    normalize : bool, default False
        Scale each vector to length 1.

    Raises
    ------
    ConfigError
        If `pooling` is unknown.
    """

    pooling: str = "mean"
    normalize: bool = False

    name = "embed"
    text_field = "text"
    optional_fields = ()

    def __post_init__(self) -> None:
        check_pooling(self.pooling)

    def settings(self) -> Mapping[str, Any]:
        """Return what the answers depend on."""
        return asdict(self)

    def run(
        self, model: LanguageModel, blocks: Iterable[Block], *, created: int, note: Note, path: Path | None = None
    ) -> Iterator[Done]:
        """Work on blocks, and yield each when it is complete."""
        for block in blocks:
            done = Done(block)
            texts: _Texts = []
            for record in block.records:
                try:
                    check_url(record, openai_format.EMBEDDINGS)
                    texts.append((record, tokens_of(model, record, "input" if record.url else self.text_field)))
                except RWKVError as error:
                    done.bad.append(Bad.of(record, error))
            texts.sort(key=lambda one: -len(one[1]))
            for start in range(0, len(texts), _GROUP):
                for record, tokens, vector in self._vectors(model, texts[start : start + _GROUP]):
                    if isinstance(vector, NumericalError):
                        done.bad.append(Bad.of(record, vector))
                    else:
                        done.answers[record.place] = _answer(record, vector, len(tokens))
                        done.totals.read_tokens += len(tokens)
                    note(len(tokens))
            yield done.finish()

    def _vectors(
        self, model: LanguageModel, texts: _Texts
    ) -> Iterator[tuple[Record, npt.NDArray[np.int64], npt.NDArray[Any] | NumericalError]]:
        """Yield the vectors of texts; if a text has none, each runs alone, to learn which."""
        try:
            vectors = model.embed(
                [tokens.tolist() for _, tokens in texts], pooling=self.pooling, normalize=self.normalize
            )
            yield from ((record, tokens, vector) for (record, tokens), vector in zip(texts, vectors, strict=True))
        except NumericalError as error:
            if len(texts) == 1:
                yield (*texts[0], error)
            else:
                for one in texts:
                    yield from self._vectors(model, [one])


def _answer(record: Record, vector: npt.NDArray[Any], tokens: int) -> Mapping[str, Any]:
    numbers = [float(str(value)) for value in vector]  # the shortest decimals of a float32
    if not record.url:
        return {"id": record.id, "embedding": numbers, "tokens": tokens}
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": numbers}],
        "model": str(record.fields.get("model", "")),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return openai_format.response(record.id, record.place, body)
