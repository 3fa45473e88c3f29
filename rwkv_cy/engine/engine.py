"""Engine: runs many requests side by side, a step at a time, on one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.engine.arena import Arena
from rwkv_cy.engine.events import Event
from rwkv_cy.engine.job import Job
from rwkv_cy.engine.prefixes import Prefixes, cache_key
from rwkv_cy.engine.request import Request
from rwkv_cy.engine.schedule import FIRST_TOKENS, prompt_shares
from rwkv_cy.engine.speculation import Speculation
from rwkv_cy.engine.state_cache import StateCache
from rwkv_cy.errors import BusyError, ConfigError, GenerationError, NumericalError
from rwkv_cy.model.encoder import CHUNK_TOKENS
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.passes import Part
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.text.sampling import Candidates, NucleusSearch, Search, find_candidates
from rwkv_cy.text.score import check_logits
from rwkv_cy.text.start import prompt_tokens, resolve_tokenizer, start_sequence
from rwkv_cy.text.tokens import check_argument, require_model

__all__ = ["Engine"]

#: Stands for a new Speculation of each engine, since costs are those of a model.
_DEFAULT = Speculation()


class Engine:
    """Runs requests side by side, one pass over the weights a step.

    A pass reads the next tokens of all requests or, at most every second time, the ends of prompts alone. A request
    gets the same tokens, log-probabilities and state as alone, to the last bit, whatever runs beside it (except in a
    model with ``activations="bf16"``).

    Parameters
    ----------
    model : LanguageModel
    slots : int, default 16
        Requests in progress at once, each with a state.
    queue : int, default 64
        Requests that wait for a slot, beside those that get a free one in the next step.
    prompt_tokens : int, default 128
        Tokens of prompts in a step while other requests generate: more reads prompts faster, fewer makes steps
        shorter. A step without generation reads up to 512.
    cache : StateCache, optional
        Keeps states, so that prompts are read from where earlier ones left off.
    speculation : Speculation or None
        How tokens are drafted, which makes text that repeats itself faster; None: not at all. By default
        ``Speculation()``. A model with ``activations="bf16"`` does not speculate.
    num_threads : int, optional
        Threads to use; the result is the same for every number.

    Attributes
    ----------
    model : LanguageModel
    cache : StateCache or None
    capacity : int
        Requests that it takes at once: those in slots and in the queue.

    Raises
    ------
    ConfigError
        If a number is not positive, or `model`, `cache` or `speculation` is something else.

    Notes
    -----
    :meth:`submit` and :meth:`cancel` may be called by any thread, :meth:`step` by one at a time.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        slots: int = 16,
        queue: int = 64,
        prompt_tokens: int = 128,
        cache: StateCache | None = None,
        speculation: Speculation | None = _DEFAULT,
        num_threads: int | None = None,
    ) -> None:
        for name, value in (("slots", slots), ("queue", queue), ("prompt_tokens", prompt_tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: expected a positive integer, got {value!r}")
        require_model(model)
        if cache is not None:
            check_argument("cache", cache, "a StateCache", attribute="attach")
            cache.attach(model)
        if speculation is _DEFAULT:
            speculation = Speculation()
        if speculation is not None:
            check_argument("speculation", speculation, "a Speculation or None", attribute="longest")
        if speculation is not None and speculation.model is not None:
            _check_same_vocabulary(speculation.model, model)
        state = model.encoder.numbers(None)
        longest = 0 if speculation is None else speculation.longest(slots, state.nbytes)
        self.model = model
        self.cache = cache
        self._prefixes = Prefixes(cache)
        self.capacity = slots + queue
        self._most_queued = queue
        self._prompt_tokens = prompt_tokens
        self._num_threads = num_threads
        # Drafts are verified many tokens at a time, which must give the bits of one at a time.
        self._speculation = speculation if longest > 0 and model.activations == "f32" else None
        self._arena = Arena(slots, 1 + (0 if self._speculation is None else longest), state)
        self._nuclei = NucleusSearch()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._events: list[Event] = []  # that no step has returned yet
        self._lock = Lock()  # guards what submit, cancel and step share: the names, the queue and what is cancelled
        self._names: set[str] = set()
        self._cancelled: set[str] = set()
        self._count = 0
        self._only_prompts = False  # whether the last pass left out those who generate
        self._stepping = Lock()

    def __repr__(self) -> str:
        return f"Engine({self.running} running, {self.waiting} waiting, {self.model!r})"

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether no request is in progress, so that a step would do nothing."""
        return not self._names and not self._events

    def submit(self, request: Request) -> str:
        """Add a request to the queue; steps run it.

        Parameters
        ----------
        request : Request

        Returns
        -------
        str
            Its name in events.

        Raises
        ------
        BusyError
            If the queue is full.
        GenerationError, TokenizerError, TokenError, StateError
            If the request cannot be run: see :func:`rwkv_cy.text.generate`.
        """
        self._check_queue()
        job = self._job(request)
        with self._lock:
            self._check_queue()
            if not job.name:
                self._count += 1
                job.name = f"request-{self._count}"
            if job.name in self._names:
                raise GenerationError(f"id: expected one that is not in progress, got {job.name!r}; leave it out")
            self._names.add(job.name)
            self._waiting.append(job)
        return job.name

    def cancel(self, name: str) -> bool:
        """End a request before the next step, wherever it is; its last event has the reason ``"cancelled"``.

        Parameters
        ----------
        name : str
            As :meth:`submit` returned it.

        Returns
        -------
        bool
            Whether it was in progress.
        """
        with self._lock:
            if name not in self._names:
                return False
            self._cancelled.add(name)
            return True

    def cancel_all(self) -> None:
        """End every request before the next step."""
        with self._lock:
            self._cancelled |= self._names

    def step(self) -> list[Event]:
        """Run one pass over the weights for the requests in progress.

        Returns
        -------
        list of Event
            In the order of the requests; empty if there was nothing to say. After an interrupt, those of the step
            that it has ended come first.

        Raises
        ------
        ConfigError
            If another thread is in this method, or the model is closed.
        """
        if not self._stepping.acquire(blocking=False):
            raise ConfigError("step: expected one thread at a time, got two; submit requests from other threads")
        try:
            self._end_cancelled()
            self._admit()
            self._run()
            events, self._events = self._events, []
            return events
        finally:
            self._stepping.release()

    def run(self, requests: Iterable[Request] = ()) -> Iterator[Event]:
        """Submit requests as the queue takes them, and yield the events of steps until all are complete.

        Parameters
        ----------
        requests : iterable of Request
        """
        rest = deque(requests)
        while rest or not self.idle:
            while rest and self._queued < self._most_queued:
                self.submit(rest.popleft())
            yield from self.step()

    @property
    def _queued(self) -> int:
        """Requests that will still wait when the next step has given the free slots away."""
        return len(self._waiting) - len(self._arena)

    def _check_queue(self) -> None:
        if self._queued >= self._most_queued:
            raise BusyError(
                f"engine: expected fewer than {self._most_queued} waiting requests, got {self._queued}; try again later"
            )

    def _job(self, request: Request) -> Job:
        """Check a request, and return a job that has no slot yet."""
        model = self.model
        if not isinstance(request, Request):
            raise GenerationError(f"request: expected a Request, got {type(request).__name__}")
        base = model.encoder.numbers(request.state)
        if request.logits is not None:
            check_logits(request.logits, model.vocab_size)
        if request.logprobs is not None and request.logprobs > model.vocab_size:
            raise GenerationError(f"logprobs: expected at most {model.vocab_size}, got {request.logprobs}")
        sequence = start_sequence(
            model,
            request.prompt,
            has_state=request.state is not None,
            has_logits=request.logits is not None,
            max_tokens=request.max_tokens,
            options=request.options,
            logits_processors=request.constraints,
            seed=request.seed,
            stop=request.stop,
            stop_tokens=request.stop_tokens,
        )
        for name in ("breakpoints", "message_ends"):
            last = max(getattr(request, name), default=0)
            if last > len(sequence.prompt):
                raise GenerationError(f"{name}: expected places in the {len(sequence.prompt)} tokens, got {last}")
        key = cache_key(request.cache_key, None if request.state is None or self.cache is None else base)
        prediction = prompt_tokens(request.prediction, resolve_tokenizer(model, None), model.vocab_size)
        drafts = None
        if self._speculation is not None and request.speculate:
            drafts = self._speculation.drafts(sequence.prompt, prediction, request.constraints)
        return Job(request, request.id, sequence, base, model.initial_state, key, drafts)

    def _end_cancelled(self) -> None:
        with self._lock:
            jobs = [job for job in (*self._waiting, *self._running) if job.name in self._cancelled]
        for job in jobs:
            event = job.final(reason="cancelled")
            self._leave(job)
            self._events.append(event)

    def _admit(self) -> None:
        """Give free slots to waiting requests, in the order of their submission."""
        while len(self._arena):
            with self._lock:
                if not self._waiting:
                    break
                job = self._waiting.popleft()
            job.enter(*self._arena.take())
            others = tuple(self._running)
            self._running.append(job)  # first, since the cache may read a file, and that be interrupted
            self._prefixes.enter(job, others)

    def _run(self) -> None:
        """Run the next tokens of all requests in one pass."""
        ready = [job for job in self._running if self._prefixes.ready(job)]
        for job in ready:
            if job.known_logits is not None and not job.unread:
                self._guarded(job, None, job.known_logits[np.newaxis])
        work = self._work([job for job in ready if job.unread and job.slot >= 0])
        if not work:
            return
        try:
            self._pass(work)
        except BaseException:  # an interrupt: states may be ahead of their texts, or undefined
            for job, _ in work:
                job.rewind()
            raise

    def _pass(self, work: Sequence[tuple[Job, int]]) -> None:
        """Run tokens of jobs, and let each job choose its next token."""
        tokens = sum(count for _, count in work)
        texts = sum(count == job.unread for job, count in work)
        jobs: list[Job] = []
        parts: list[Part] = []
        for job, count in work:
            try:
                draft = job.draft(tokens, texts)
            except Exception as error:  # of a constraint
                self._events.append(self._failed(job, error))
                continue
            jobs.append(job)
            parts.append(job.part(count, draft))
            tokens += len(draft)
        decoding = all(job.decodes for job in jobs)
        start = perf_counter()
        try:
            rows = self.model.passes.run(parts, self._num_threads)
            seconds = perf_counter() - start
            found = self._find(jobs, parts, rows)
        except Exception as error:
            for job in jobs:
                self._events.append(self._failed(job, error))
            return
        if self._speculation is not None and decoding and jobs:
            self._speculation.costs.observe(tokens, seconds)
        for job, part, logits, candidates in zip(jobs, parts, rows, found, strict=True):
            self._guarded(job, part, logits, candidates)

    def _find(
        self, jobs: Sequence[Job], parts: Sequence[Part], rows: Sequence[npt.NDArray[Any]]
    ) -> list[Candidates | Exception | None]:
        """Return the candidates of jobs whose text was read without a draft, or the error of a job that has none."""
        found: list[Candidates | Exception | None] = [None] * len(jobs)
        searches: dict[int, Search] = {}
        for place, (job, part, logits) in enumerate(zip(jobs, parts, rows, strict=True)):
            try:
                search = None if part.each_token else job.search(logits)
            except Exception as error:
                found[place] = error
            else:
                if search is not None:
                    searches[place] = search
        threads = resolve_num_threads(self._num_threads)
        candidates = find_candidates(list(searches.values()), self._nuclei, threads)
        for place, result in zip(searches, candidates, strict=True):
            found[place] = result
        return found

    def _work(self, jobs: Sequence[Job]) -> Sequence[tuple[Job, int]]:
        """Return who runs in this step, with how many tokens."""
        decoding = [job for job in jobs if job.decodes]
        reading = [job for job in jobs if not job.decodes]
        budget = self._prompt_tokens if decoding else CHUNK_TOKENS
        shares = prompt_shares([self._prefixes.next_stop(job) for job in reading], budget)
        reads = list(zip(reading, shares, strict=True))
        ends = [(job, count) for job, count in reads if count == job.unread]
        tokens = sum(count for _, count in ends)
        self._only_prompts = bool(decoding) and not self._only_prompts and tokens >= FIRST_TOKENS
        return ends if self._only_prompts else [*((job, job.unread) for job in decoding), *reads]

    def _guarded(
        self,
        job: Job,
        part: Part | None,
        rows: npt.NDArray[Any],
        found: Candidates | Exception | None = None,
    ) -> None:
        """Let a job take note of its logits; if that fails, it ends with an error, and nobody else does."""
        events: list[Event] = []
        try:
            self._choose(job, part, rows, found, events)
            if job.slot >= 0 and events and events[-1].finish_reason is not None:
                self._leave(job)
        except BaseException:  # an interrupt: what was chosen is said, and the last event made anew
            job.drafts = None
            self._events += [event for event in events if event.finish_reason is None]
            raise
        self._events += events

    def _choose(
        self,
        job: Job,
        part: Part | None,
        rows: npt.NDArray[Any],
        found: Candidates | Exception | None,
        events: list[Event],
    ) -> None:
        """Let a job choose tokens, and add its events."""
        try:
            if part is not None and part.each_token:
                job.verify(part, rows, events)
                self._prefixes.note(job, None)
            elif part is not None:
                job.advance(part)
                self._prefixes.note(job, rows[-1] if len(rows) else None)
                if isinstance(found, Exception):
                    raise found
                job.choose(rows, events, found)
            else:
                job.choose(rows, events)
        except Exception as error:
            if part is None or np.isfinite(rows).all():
                events.append(self._failed(job, error))
                return
            where = self.model.passes.describe(part, self._num_threads)
            events.append(self._failed(job, NumericalError(f"{job.name}: {where}")))

    def _failed(self, job: Job, error: Exception) -> Event:
        event = job.final(reason="error", error=error)
        self._leave(job, complete=False)
        return event

    def _leave(self, job: Job, *, complete: bool = True) -> None:
        """Free what a job holds; its text may go on from its state if it is `complete`."""
        self._prefixes.leave(job, complete=complete)
        if job.slot >= 0:
            self._arena.give_back(job.slot)
            self._running.remove(job)
            job.slot = -1
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
            self._names.discard(job.name)
            self._cancelled.discard(job.name)


def _check_same_vocabulary(small: LanguageModel, model: LanguageModel) -> None:
    """Raise ConfigError if the model that drafts has tokens of another vocabulary."""
    if small.vocab_size != model.vocab_size:
        raise ConfigError(
            f"speculation: expected a model with the same vocabulary, {model.vocab_size} tokens, got one with "
            f"{small.vocab_size}"
        )
