"""The other end of a local process: asks for blocks, works on them, and sends what became of them."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rwkv_cy import runtime
from rwkv_cy.batch.records import Block, read_block
from rwkv_cy.batch.workers import ModelPath, Work

__all__ = ["ASK", "COUNT", "DONE", "ERROR", "WAIT", "serve"]

#: What a child sends: for a block or None at once; for a block, as soon as there is one, or None at the end; records
#: and tokens; a block that is complete; an exception that ends the job.
ASK, WAIT, COUNT, DONE, ERROR = range(5)
_COUNT_SECONDS = 0.2


def serve(messages: int, life: int) -> None:
    """Work until there are no more blocks.

    Parameters
    ----------
    messages : int
        Descriptor of a connection. It receives the work, the model and the number of threads, and answers to requests.
    life : int
        Descriptor of a pipe that ends when the parent process does; so does this process.
    """
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    with Connection(messages) as connection:
        work, model, threads = connection.recv()
        try:
            _Child(connection, work, model, threads).run()
        except Exception as error:
            error.add_note(f"in a process of the batch:\n{traceback.format_exc()}")
            connection.send((ERROR, error))


def _end_with(life: int) -> None:
    """End this process when the pipe ends."""
    os.read(life, 1)
    os._exit(1)


class _Child:
    def __init__(self, connection: Connection, work: Work, model: ModelPath, threads: int) -> None:
        runtime.set_num_threads(threads)
        self._connection = connection
        self._work = work
        self._path = Path(model.path)
        self._model = model.load(work.identity, f"process {os.getpid()}")
        self._counted = time.monotonic()
        self._records = self._tokens = 0

    def run(self) -> None:
        while (number := self._ask(WAIT)) is not None:
            blocks = self._blocks(number)
            options: dict[str, Any] = {"created": self._work.created, "note": self._note, "path": self._path}
            for done in self._work.task.run(self._model, blocks, **options):
                self._send_count()
                self._connection.send((DONE, done))

    def _blocks(self, first: int) -> Iterator[Block]:
        """Read blocks as long as there is one at once: what waits for the next one does not hold up these."""
        number: int | None = first
        while number is not None:
            yield read_block(number, self._work.rows.read(number))
            number = self._ask(ASK)

    def _ask(self, kind: int) -> int | None:
        self._connection.send((kind, None))
        number: int | None = self._connection.recv()
        return number

    def _note(self, tokens: int) -> None:
        self._records += 1
        self._tokens += tokens
        if time.monotonic() - self._counted >= _COUNT_SECONDS:
            self._send_count()

    def _send_count(self) -> None:
        self._connection.send((COUNT, (self._records, self._tokens)))
        self._records = self._tokens = 0
        self._counted = time.monotonic()
