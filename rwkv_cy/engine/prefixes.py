"""What requests take from the cache of states, and what they leave there; equal prompts in progress run once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from rwkv_cy.engine.job import Job
from rwkv_cy.engine.state_cache.cache import Key, StateCache
from rwkv_cy.engine.state_cache.places import LEAST_GAP, STEP, ladder, places_of_prompt
from rwkv_cy.engine.state_cache.radix_tree import Tokens, common_length

__all__ = ["Prefix", "Prefixes", "cache_key"]


def cache_key(partition: str, state: npt.NDArray[np.floating] | None) -> Key:
    """Return the key of texts that begin from a state (None: the initial one)."""
    return partition, "" if state is None else blake2b(state.tobytes(), digest_size=16).hexdigest()


class Prefix:
    """What the cache needs to know of a job.

    Attributes
    ----------
    places : dict of int to str
        Where the prompt stops to have its state stored, with the kind of the place.
    leader : Job or None
        A job that reads the same tokens; the prompt waits until it has read `shared` of them.
    """

    def __init__(self, key: Key, prompt: Tokens) -> None:
        self.key = key
        self.prompt = prompt
        self.places: dict[int, str] = {}
        self.leader: Job | None = None
        self.shared = 0
        self.ladder: set[int] = set()

    @property
    def last_step(self) -> int:
        """The step of the ladder's last place, or of the end of the prompt."""
        return max(self.ladder, default=len(self.prompt)) // STEP


class Prefixes:
    """The jobs that use the cache, and what they need of it.

    Parameters
    ----------
    cache : StateCache or None
        None: every job reads its whole prompt.
    """

    def __init__(self, cache: StateCache | None) -> None:
        self._cache = cache
        self._of: dict[Job, Prefix] = {}

    def enter(self, job: Job, running: Sequence[Job]) -> None:
        """Let a job begin from the longest known prefix of its prompt, or wait for another that reads the same."""
        cache = self._cache
        if cache is None or not job.request.cache or not job.sequence.prompt:
            return
        prefix = Prefix(job.cache_key, np.array(job.sequence.prompt, np.int32))
        self._of[job] = prefix
        common = cache.find(prefix.key, prefix.prompt).common
        least = max(common, LEAST_GAP)
        for other in running:
            theirs = self._of.get(other)
            if theirs is None or theirs.key != prefix.key or other.decodes:
                continue
            shared = common_length(prefix.prompt, theirs.prompt)
            if shared > least and shared > other.position:
                least, prefix.leader, prefix.shared = shared, other, shared
        if prefix.leader is None:
            self._begin(cache, job, prefix)
        else:
            self._of[prefix.leader].places.setdefault(prefix.shared, "branch")

    def ready(self, job: Job) -> bool:
        """Return whether a job may run; if its wait has ended, it begins from what is known by now."""
        prefix = self._of.get(job)
        if self._cache is None or prefix is None or prefix.leader is None:
            return True
        leader = prefix.leader
        if leader in self._of and leader.position < prefix.shared:
            return False
        prefix.leader = None
        self._begin(self._cache, job, prefix)
        return True

    def next_stop(self, job: Job) -> int:
        """Return how many tokens of its prompt a job may read in a step."""
        prefix = self._of.get(job)
        if prefix is None:
            return job.unread
        return min((place - job.position for place in prefix.places if place > job.position), default=job.unread)

    def note(self, job: Job, logits: npt.NDArray[np.floating] | None) -> None:
        """Store the state of a job if it has come to a place; `logits` are those of the next token, if known."""
        cache, prefix = self._cache, self._of.get(job)
        if cache is None or prefix is None:
            return
        kind = prefix.places.pop(job.position, None)
        if kind is not None:
            text = prefix.prompt[: job.position]
            if cache.store(prefix.key, text, job.source, logits, kind):
                job.usage.cache_write_tokens = job.position - job.usage.cached_tokens
        elif cache.answers and job.decodes and job.position // STEP > prefix.last_step:
            self._climb(cache, job, prefix)

    def leave(self, job: Job, *, complete: bool) -> None:
        """Forget a job; if its text is complete, store the state after it."""
        cache, prefix = self._cache, self._of.pop(job, None)
        if cache is None or prefix is None or not cache.answers or not complete:
            return
        if job.position > len(prefix.prompt):
            cache.store(prefix.key, job.read_tokens(), job.source, None, "answer")

    def _begin(self, cache: StateCache, job: Job, prefix: Prefix) -> None:
        found = cache.find(prefix.key, prefix.prompt)
        cache.use(found.snapshot, len(prefix.prompt))
        if found.snapshot is not None:
            job.begin_from(found.snapshot.count, found.snapshot.data, found.snapshot.logits)
        request = job.request
        prefix.places |= places_of_prompt(
            len(prefix.prompt),
            job.position,
            breakpoints=request.breakpoints,
            message_ends=request.message_ends,
            branch=found.common,
        )

    def _climb(self, cache: StateCache, job: Job, prefix: Prefix) -> None:
        """Store the state of a text that is generated, and drop earlier ones of it that the ladder skips."""
        text = job.read_tokens()
        cache.store(prefix.key, text, job.source, None, "ladder")
        prefix.ladder.add(job.position)
        kept = {place // STEP for place in ladder(job.position + 1)}
        for place in sorted(prefix.ladder - {job.position}):
            if place // STEP not in kept:
                prefix.ladder.discard(place)
                cache.drop(prefix.key, text[:place])
