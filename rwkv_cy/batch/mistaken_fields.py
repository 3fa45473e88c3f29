"""Fields of records that have no effect, and whose names are almost those of fields that have one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from rwkv_cy.batch.records import Record

__all__ = ["MistakenFields"]

#: Records may have fields of the user's own: ``prompt_id`` is not meant to be ``prompt``.
_SIMILARITY = 0.85
#: Fields of OpenAI's bodies that have no effect, and are not mistaken for others.
_KNOWN = frozenset({"top_logprobs", "stream_options", "tool_choice", "function_call", "model", "user", "metadata"})


class MistakenFields:
    """Warns of such fields, of each once.

    Parameters
    ----------
    fields : sequence of str
        Those that have an effect.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields
        self._seen = set(fields) | _KNOWN

    def look(self, records: Iterable[Record]) -> None:
        """Look at records: a field is mistaken if it is similar to one that the record does not have."""
        for record in records:
            for name in record.fields.keys() - self._seen:
                meant = _meant(name, [field for field in self._fields if field not in record.fields])
                if meant is not None:
                    warnings.warn(
                        f"line {record.place}: the field {name!r} has no effect; did you mean {meant!r}?",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                self._seen.add(name)


def _meant(name: str, fields: Sequence[str]) -> str | None:
    from difflib import get_close_matches  # which few runs need

    return next(iter(get_close_matches(name.lower().replace("-", "_"), fields, 1, _SIMILARITY)), None)
