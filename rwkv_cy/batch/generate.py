"""Generation: the slots of an engine are filled from block to block, the longest records of each first."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.batch.records import Bad, Block, Done, Record
from rwkv_cy.batch.requests import OPTIONAL_FIELDS, Answering, Defaults
from rwkv_cy.batch.task import Note
from rwkv_cy.engine import Engine, Event, StateCache
from rwkv_cy.errors import ConfigError, RWKVError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.records import asdict, dataclass, field

__all__ = ["GenerateTask"]

#: Blocks that records of are in progress at once: one record that takes long holds up neither the others nor memory.
_MOST_BLOCKS = 4


@dataclass(frozen=True)
class GenerateTask:
    """Continues prompts, and answers chats.

    Parameters
    ----------
    max_tokens : int, default 256
        Most tokens of an answer, where a record does not have a number of its own.
    stop : sequence of str
        The same for stop strings.
    sampling : mapping
        The same for fields of :class:`rwkv_cy.SamplingOptions`.
    seed : int, default 0
        A record without seed gets one that depends on this number and its id.
    format : str, default "auto"
        Prompt format of chats, as for :func:`rwkv_cy.chat.choose_format`.
    slots : int, default 16
        Texts at once.
    cache_bytes : int, default 256 MiB
        Memory for states of prompts with the same beginning; 0 for none.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    format: str = "auto"
    slots: int = 16
    cache_bytes: int = 256 << 20

    name = "generate"
    text_field = "prompt"
    optional_fields = OPTIONAL_FIELDS

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 0), ("seed", 0), ("slots", 1), ("cache_bytes", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name}: expected an integer of at least {least}, got {value!r}")

    def settings(self) -> Mapping[str, Any]:
        """Return what the answers depend on: slots and memory do not change them."""
        values = asdict(self)
        return {name: values[name] for name in ("max_tokens", "stop", "sampling", "seed", "format")}

    def run(
        self, model: LanguageModel, blocks: Iterable[Block], *, created: int, note: Note, path: Path | None = None
    ) -> Iterator[Done]:
        """Work on blocks, and yield each when it is complete."""
        # No record goes on from the answer to another.
        cache = StateCache(self.cache_bytes, answers=False) if self.cache_bytes else None
        engine = Engine(model, slots=self.slots, queue=self.slots, cache=cache)
        defaults = Defaults(self.max_tokens, self.stop, self.sampling, self.format, path, created)
        return _Run(self, model, engine, defaults, note).blocks(iter(blocks))


class _Run:
    """The records of open blocks, on their way through the engine."""

    def __init__(
        self, task: GenerateTask, model: LanguageModel, engine: Engine, defaults: Defaults, note: Note
    ) -> None:
        self._task = task
        self._model = model
        self._engine = engine
        self._defaults = defaults
        self._note = note
        self._open: list[Done] = []
        self._queue: deque[tuple[Done, Answering]] = deque()
        self._running: dict[str, tuple[Done, Answering]] = {}

    def blocks(self, source: Iterator[Block]) -> Iterator[Done]:
        ended = False
        while True:
            while not ended and len(self._queue) < self._task.slots and len(self._open) < _MOST_BLOCKS:
                block = next(source, None)
                if block is None:
                    ended = True
                else:
                    self._begin(block)
            self._submit()
            for event in self._engine.step():
                self._take(event)
            for one in [one for one in self._open if one.complete]:
                self._open.remove(one)
                yield one.finish()
            if ended and not self._open:
                return

    def _begin(self, block: Block) -> None:
        """Open a block: the requests of its records join the queue, the longest first."""
        opened = Done(block)
        self._open.append(opened)
        ready = []
        for record in block.records:
            try:
                ready.append(Answering.of(self._model, record, self._defaults, self._seed(record)))
            except RWKVError as error:
                opened.bad.append(Bad.of(record, error))
        ready.sort(key=lambda one: -(len(one.request.prompt) + (one.request.max_tokens or 0)))
        self._queue.extend((opened, one) for one in ready)

    def _submit(self) -> None:
        while self._queue and self._engine.waiting < self._task.slots:
            opened, answering = self._queue.popleft()
            try:
                self._running[self._engine.submit(answering.request)] = opened, answering
            except RWKVError as error:
                opened.bad.append(Bad.of(answering.record, error))

    def _take(self, event: Event) -> None:
        done, answering = self._running[event.request_id]
        answering.push(event)
        if event.finish_reason is None:
            return
        del self._running[event.request_id]
        usage = event.usage
        if event.error is not None:
            if not isinstance(event.error, RWKVError):
                raise event.error
            done.bad.append(Bad.of(answering.record, event.error))
        else:
            done.answers[answering.record.place] = answering.answer()
            done.totals.read_tokens += usage.prompt_tokens if usage else 0
            done.totals.generated_tokens += usage.completion_tokens if usage else 0
        self._note(usage.total_tokens if usage else 0)

    def _seed(self, record: Record) -> int:
        """Return the seed of a record without one: another for each id, the same in every run."""
        digest = hashlib.sha256(f"{self._task.seed} {record.id!r}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "little") >> 1
