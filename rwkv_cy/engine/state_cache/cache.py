"""StateCache: snapshots of states by the text before them, within a limit of bytes, and a folder for the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.engine.state_cache.disk import DiskLevel, model_identity
from rwkv_cy.engine.state_cache.places import LEAST_GAP
from rwkv_cy.engine.state_cache.radix_tree import Node, RadixTree, Tokens
from rwkv_cy.engine.state_cache.snapshot import Snapshot
from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.records import dataclass, field, replace

__all__ = ["CacheStats", "Found", "Key", "StateCache"]

#: With more snapshots than this, several are evicted at a time.
_MANY = 64

#: Texts with different keys share nothing: the partition, and a digest of the state before the text.
Key = tuple[str, str]


@dataclass
class CacheStats:
    """What a cache did since it was made.

    Attributes
    ----------
    lookups, hits, disk_hits : int
        Prompts that were looked up; that began from a state of the cache; that began from one of the folder.
    prompt_tokens, hit_tokens : int
        Tokens of these prompts, and how many of them were not computed.
    stored : Counter of str
        Snapshots that were stored, by kind of place.
    evicted : Counter of str
        Snapshots that were evicted from memory, by kind of place.
    snapshots, bytes : int
        In memory now.
    disk_files, disk_bytes : int
        In the folder now.
    disk_errors : int
        Files that could not be written or read.
    """

    lookups: int = 0
    hits: int = 0
    disk_hits: int = 0
    prompt_tokens: int = 0
    hit_tokens: int = 0
    stored: Counter[str] = field(default_factory=Counter)
    evicted: Counter[str] = field(default_factory=Counter)
    snapshots: int = 0
    bytes: int = 0
    disk_files: int = 0
    disk_bytes: int = 0
    disk_errors: int = 0


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of a prompt.

    Attributes
    ----------
    snapshot : Snapshot or None
        The longest that the prompt can begin from.
    common : int
        Tokens at the beginning of the prompt that are those of another text.
    """

    snapshot: Snapshot | None
    common: int


class StateCache:
    """Snapshots of the states of one model, by the tokens before them.

    Parameters
    ----------
    max_bytes : int, default 1 GiB
        Limit of the snapshots and of the tokens that lead to them. What is worth least is evicted: that which saves few
        tokens, is used rarely, or not lately; answers before prompts, and these before named places.
    folder : path-like, optional
        Where snapshots go that are evicted, and all of them when the cache is closed. They are found again by a later
        cache of the same model. A file is complete or absent, and its name does not tell the text.
    max_disk_bytes : int, default 4 GiB
        Limit of the folder; the files used least lately are removed.
    answers : bool, default True
        Keep states after answers and in them, from which the next turn of a chat goes on; False: of prompts alone.

    Attributes
    ----------
    answers : bool

    Raises
    ------
    ConfigError
        If a limit is not positive, or `answers` is not a bool.

    Notes
    -----
    One thread at a time may use a cache: that of its engine.
    """

    def __init__(
        self,
        max_bytes: int = 1 << 30,
        *,
        folder: str | os.PathLike[str] | None = None,
        max_disk_bytes: int = 4 << 30,
        answers: bool = True,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("max_disk_bytes", max_disk_bytes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: expected a positive integer, got {value!r}")
        if not isinstance(answers, bool):
            raise ConfigError(f"answers: expected True or False, got {answers!r}")
        self.answers = answers
        self._max_bytes = max_bytes
        self._folder = folder
        self._max_disk_bytes = max_disk_bytes
        self._disk: DiskLevel | None = None
        self._identity = ""
        self._trees: dict[Key, RadixTree[Snapshot]] = {}
        self._bytes = 0
        self._clock = 0
        self._stats = CacheStats()

    def attach(self, model: LanguageModel) -> None:
        """Use the cache for a model; an engine does so.

        Raises
        ------
        ConfigError
            If it is used for another one.
        StorageError
            If the folder cannot be made or read.
        """
        identity = model_identity(model)
        if self._identity not in ("", identity):
            raise ConfigError("StateCache: expected the model that it is used for, got another one; make a new cache")
        if not self._identity and self._folder is not None:
            self._disk = DiskLevel(self._folder, identity, model, self._max_disk_bytes)
        self._identity = identity

    @property
    def stats(self) -> CacheStats:
        """A copy of the figures."""
        disk = self._disk
        return replace(
            self._stats,
            stored=Counter(self._stats.stored),
            evicted=Counter(self._stats.evicted),
            snapshots=sum(1 for _ in self._nodes()),
            bytes=self._bytes + self._token_bytes(),
            disk_files=0 if disk is None else disk.files,
            disk_bytes=0 if disk is None else disk.bytes,
            disk_errors=0 if disk is None else disk.errors,
        )

    def find(self, key: Key, tokens: Tokens) -> Found:
        """Return the longest snapshot that a prompt can begin from: one before its end, or with logits at its end."""
        nodes, common = self._walk(key, tokens)
        best = None
        for node in nodes:
            if node.value is not None and (node.depth < len(tokens) or node.value.logits is not None):
                best = node.value
        if self._disk is not None:
            least = LEAST_GAP + (0 if best is None else best.count)
            state, count = self._disk.load(key, tokens, least)
            if state is not None:
                self._stats.disk_hits += 1
                best = Snapshot(count, state, None, "prompt", self._clock)
                self._insert(key, tokens[:count], best)
                common = max(common, count)
        return Found(best, common)

    def use(self, snapshot: Snapshot | None, prompt_tokens: int) -> None:
        """Take note that a prompt of so many tokens begins from a snapshot, or from none."""
        stats = self._stats
        stats.lookups += 1
        stats.prompt_tokens += prompt_tokens
        self._clock += 1
        if snapshot is not None:
            snapshot.hits += 1
            snapshot.used = self._clock
            stats.hits += 1
            stats.hit_tokens += snapshot.count

    def store(
        self,
        key: Key,
        tokens: Tokens,
        state: npt.NDArray[Any],
        logits: npt.NDArray[np.floating[Any]] | None,
        kind: str,
    ) -> bool:
        """Store the state after `tokens`, at least one, and the logits of the next if they are known, as copies.

        Returns
        -------
        bool
            Whether it is in memory now; not if it is worth less than everything else, or larger than the limit.
        """
        nodes, _ = self._walk(key, tokens)
        known = nodes[-1] if nodes else None
        if known is not None and known.depth == len(tokens) and known.value is not None:
            known.value.used = self._clock
            if known.value.logits is None and logits is not None:
                known.value.logits = logits.copy()
                self._bytes += known.value.logits.nbytes
                self._evict()
            return known.value is not None
        self._stats.stored[kind] += 1
        own = None if logits is None else logits.copy()
        node = self._insert(key, tokens, Snapshot(len(tokens), state.copy(), own, kind, self._clock))
        return node.value is not None

    def drop(self, key: Key, tokens: Tokens) -> None:
        """Remove the snapshot after `tokens` if nobody has used it."""
        nodes, _ = self._walk(key, tokens)
        if nodes and nodes[-1].depth == len(tokens) and nodes[-1].value is not None and not nodes[-1].value.hits:
            self._forget(key, nodes[-1])

    def close(self) -> None:
        """Write all snapshots to the folder, if there is one, and forget them."""
        nodes = [(key, node) for key, node in self._nodes() if node.value is not None]
        for key, node in nodes:
            if self._disk is not None and node.value is not None:
                self._disk.save(key, node.prefix(), node.value.data, wait=True)
        if self._disk is not None:
            self._disk.close()
        self._trees.clear()
        self._bytes = 0

    def _walk(self, key: Key, tokens: Tokens) -> tuple[list[Node[Snapshot]], int]:
        """Follow tokens in the tree of a key, which is not made by being looked up."""
        tree = self._trees.get(key)
        return ([], 0) if tree is None else tree.walk(tokens)

    def _insert(self, key: Key, tokens: Tokens, snapshot: Snapshot) -> Node[Snapshot]:
        """Add a snapshot, and evict others or this one; return its node, which is then without a value."""
        node = self._trees.setdefault(key, RadixTree()).insert(tokens)
        if node.value is not None:
            self._bytes -= node.value.nbytes
        node.value = snapshot
        self._bytes += snapshot.nbytes
        self._evict()
        return node

    def _evict(self) -> None:
        """Evict what is worth least until the limit is kept; of many snapshots a few more, so as to look less often."""
        if self._bytes + self._token_bytes() <= self._max_bytes:
            return
        worth = sorted(((self._value(node), key, node) for key, node in self._nodes()), key=lambda each: each[0])
        target = self._max_bytes - (self._max_bytes // 16 if len(worth) > _MANY else 0)
        for _, key, node in worth:
            if self._bytes + self._token_bytes() <= target:
                break
            snapshot = node.value
            if snapshot is not None:
                self._stats.evicted[snapshot.kind] += 1
                if self._disk is not None:
                    self._disk.save(key, node.prefix(), snapshot.data)
            self._forget(key, node)

    def _forget(self, key: Key, node: Node[Snapshot]) -> None:
        if node.value is not None:
            self._bytes -= node.value.nbytes
        tree = self._trees[key]
        tree.remove(node)
        if not tree.root.children:
            del self._trees[key]

    def _value(self, node: Node[Snapshot]) -> float:
        next_best = next((above.depth for above in node.ancestors() if above.value is not None), 0)
        return 0.0 if node.value is None else node.value.value(node.depth - next_best, self._clock)

    def _token_bytes(self) -> int:
        return sum(tree.tokens for tree in self._trees.values()) * 4

    def _nodes(self) -> Iterator[tuple[Key, Node[Snapshot]]]:
        """Yield every node with a snapshot."""
        for key, tree in self._trees.items():
            open_nodes = [tree.root]
            while open_nodes:
                node = open_nodes.pop()
                open_nodes.extend(node.children.values())
                if node.value is not None:
                    yield key, node
