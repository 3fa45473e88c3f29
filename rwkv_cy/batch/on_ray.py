"""Ray: blocks are read by tasks and answered by a pool of actors, one a node; alone in knowing Ray."""

from __future__ import annotations

import os
import pickle
import platform
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rwkv_cy import runtime
from rwkv_cy.batch.inputs import Input
from rwkv_cy.batch.records import Block, Done, read_block
from rwkv_cy.batch.workers import Count, ModelPath, Work
from rwkv_cy.errors import ConfigError, MissingDependencyError, RWKVError, StorageError
from rwkv_cy.records import dataclass

__all__ = ["Pool", "RayActors", "pool_of"]

#: Blocks of a call: the engine's slots are filled from one to the next; and so few that each actor gets many calls.
_MOST_BLOCKS, _CALLS = 4, 4
#: Calls that an actor has: the one that it works on, and the next.
_IN_FLIGHT = 2
#: Blocks that were in progress in so many actors when they died are what they died of.
_MOST_DEATHS = 4
#: The most that a cluster takes to tell its actors.
_END_SECONDS = 10
_MOST_ACTORS = 1 << 16


@dataclass(frozen=True)
class Pool:
    """The actors of a cluster.

    Attributes
    ----------
    actors : int
    cpus : float
        That Ray reserves for each.
    a_node : int
        Most actors of a node, which share its cores.
    """

    actors: int
    cpus: float
    a_node: int


class RayActors:
    """Actors of a Ray cluster that share a batch.

    Each actor loads the model from a path, so that the file has to be on every node; the input too. Answers come back
    to this process, which writes them.

    Parameters
    ----------
    path : path-like
        The model.
    address : str, optional
        Of a cluster, or ``"auto"`` for the one that this machine belongs to. By default Ray is started on this machine
        alone, for as long as the run takes. If this process is connected to a cluster already, that one is used.
    actors : int, optional
        By default one a node.
    threads : int, optional
        Of each actor; by default the physical cores of its node, divided by the actors there.
    **options
        Of :func:`rwkv_cy.load`.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    ConfigError
        If there are less than 1 or more than 65,536 actors.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        address: str | None = None,
        actors: int | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        if actors is not None and not 1 <= actors <= _MOST_ACTORS:
            raise ConfigError(f"actors: expected from 1 to {_MOST_ACTORS}, got {actors}")
        self._ray = _import_ray()
        self._model = ModelPath(Path(path).absolute(), options)
        self._address = address
        self._actors = actors
        self._threads = threads

    def run(self, work: Work, count: Count) -> Generator[Done, None, None]:
        """Work on blocks, and yield each when it is complete, in any order.

        Raises
        ------
        StorageError
            If there is no cluster at the address, or its nodes and actors die again and again.
        RWKVError
            As :meth:`ModelPath.load`.
        """
        if not work.numbers:
            return
        with _errors(), _connected(self._ray, self._address):
            pool = pool_of([node["Resources"] for node in self._ray.nodes() if node["Alive"]], self._actors)
            ledger = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ledger).remote()
            try:
                answers = self._answers(work, pool, ledger)
                for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for data in batch["done"].to_pylist():
                        done: Done = pickle.loads(data)
                        count(done.totals.answers, done.totals.read_tokens + done.totals.generated_tokens)
                        yield done
            finally:
                self._end(ledger)

    def _end(self, ledger: Any) -> None:
        """End the actors: Ray does when nothing refers to them, as the traceback of an error does."""
        with suppress(Exception):  # the cluster may be gone
            for actor in self._ray.get(ledger.actors.remote(), timeout=_END_SECONDS):
                self._ray.kill(actor)
            self._ray.kill(ledger)

    def _answers(self, work: Work, pool: Pool, ledger: Any) -> Any:
        """Return the dataset of answered blocks; nothing runs before it is iterated."""
        from ray.data import ActorPoolStrategy

        size = max(1, min(_MOST_BLOCKS, len(work.numbers) // (_CALLS * pool.actors)))
        groups = [work.numbers[start : start + size] for start in range(0, len(work.numbers), size)]
        blocks = self._ray.data.range(len(groups), override_num_blocks=len(groups)).map_batches(
            _read, batch_size=1, batch_format="pyarrow", fn_args=(work.rows, groups, str(Path.cwd()))
        )
        return blocks.map_batches(
            _Actor,
            fn_constructor_args=(self._model, work, self._threads or 0, pool.a_node, str(Path.cwd()), ledger),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=_IN_FLIGHT),
            num_cpus=pool.cpus,
        )


def pool_of(nodes: Sequence[Mapping[str, float]], actors: int | None = None) -> Pool:
    """Return the actors of a cluster: one a node, unless their number is given, with a CPU of each left for reading.

    Without a CPU left, the tasks that read would never start (https://github.com/ray-project/ray/issues/44687). It is
    left for Ray to count with: reading takes a small part of it, and the actor's threads use the others and this one.

    Parameters
    ----------
    nodes : sequence of mapping
        Resources of each node.
    actors : int, optional

    Raises
    ------
    StorageError
        If no node has a CPU.
    """
    cpus = [node["CPU"] for node in nodes if node.get("CPU", 0) > 0]
    if not cpus:
        raise StorageError("Ray: expected a cluster whose nodes have CPUs, got one without; add nodes to it")
    actors = actors or len(cpus)
    a_node = -(-actors // len(cpus))
    own = min(cpus) - 1 if min(cpus) > 1 else min(cpus) / 2
    share = own / a_node
    return Pool(actors, float(int(share)) if share >= 1 else share, a_node)


def _go_to(folder: str) -> None:
    """Let relative paths mean what they mean where the job was started, if the folder is on this node too."""
    with suppress(OSError):
        os.chdir(folder)


def _read(batch: Any, rows: Input, groups: Sequence[Sequence[int]], folder: str) -> Any:
    """Return the blocks of a group, whose number is a row of the batch."""
    import pyarrow

    _go_to(folder)
    (group,) = batch["id"].to_pylist()
    blocks = [pickle.dumps(read_block(number, rows.read(number))) for number in groups[group]]
    return pyarrow.table({"block": pyarrow.array(blocks, pyarrow.large_binary())})


class _Ledger:
    """What is known of a run: how often each call was begun, which Ray repeats without an end, and the actors."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()
        self._actors: list[Any] = []

    def begin(self, block: int) -> int:
        """Count a call by its first block, and return the number of its attempts."""
        self._begun[block] += 1
        return self._begun[block]

    def join(self, actor: Any) -> None:
        """Note an actor."""
        self._actors.append(actor)

    def actors(self) -> list[Any]:
        """Return the actors."""
        return self._actors


class _Actor:
    """Loads a model, and answers the blocks of each call."""

    def __init__(self, model: ModelPath, work: Work, threads: int, neighbours: int, folder: str, ledger: Any) -> None:
        import ray

        ledger.join.remote(ray.get_runtime_context().current_actor)
        _go_to(folder)
        runtime.set_num_threads(threads or max(1, runtime.available_cpus() // neighbours))
        self._path = Path(model.path)
        self._work = work
        self._ledger = ledger
        self._problem: RWKVError | None = None
        try:
            self._model = model.load(work.identity, f"an actor on {platform.node()}")
        except RWKVError as error:  # of an error here, Ray returns the text alone
            self._problem = error

    def __call__(self, batch: Any) -> Iterator[Any]:
        import pyarrow
        import ray

        if self._problem is not None:
            raise self._problem
        blocks: list[Block] = [pickle.loads(block) for block in batch["block"].to_pylist()]
        first, last = blocks[0].number, blocks[-1].number
        if ray.get(self._ledger.begin.remote(first)) > _MOST_DEATHS:
            raise StorageError(
                f"{self._work.rows.path}: expected an answer to each record of the blocks {first} to {last}, got "
                f"{_MOST_DEATHS} actors that died of them; look for a lack of memory, and for their records"
            )
        options: dict[str, Any] = {"created": self._work.created, "note": lambda _: None, "path": self._path}
        for done in self._work.task.run(self._model, blocks, **options):
            yield pyarrow.table({"done": pyarrow.array([pickle.dumps(done)], pyarrow.large_binary())})


def _import_ray() -> Any:
    # Ray reports the use of a cluster that it starts to its makers, unless this is set before.
    runtime.default_setting("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError("batches on Ray need it; run: pip install 'rwkv-cy[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, unless this process is; without an address, start one of this machine."""
    import logging

    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    level = logger.level
    ours = not ray.is_initialized()
    try:
        if ours:
            quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
            if address is None:  # one more CPU than cores: the one for reading
                quiet |= {"num_cpus": runtime.available_cpus() + 1, "include_dashboard": False}
            try:
                ray.init(address=address or "local", **quiet)
            except Exception as error:
                where, remedy = (
                    (f"a cluster at {address}", "start one with ray start --head, or leave the address out")
                    if address
                    else ("Ray to start on this machine", "leave Ray out: local processes do the same")
                )
                raise StorageError(
                    f"Ray: expected {where}, got {type(error).__name__}: {str(error)[:300]}; {remedy}"
                ) from error
        logger.setLevel(logging.CRITICAL)  # errors are raised
        yield
    finally:
        logger.setLevel(level)
        context.enable_progress_bars = shown
        if ours:
            ray.shutdown()


@contextmanager
def _errors() -> Iterator[None]:
    """Turn errors of Ray into those of this package: the actor's own, if it is one."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RWKVError) and not hasattr(error, "cause"):
            raise
        inner: BaseException | None = error
        while inner is not None:
            cause = getattr(inner, "cause", None)  # of Ray's copies of errors in actors
            if isinstance(cause, RWKVError):
                raise cause from None
            inner = inner.__cause__ or inner.__context__
        raise StorageError(
            f"Ray: expected a cluster that completes the batch, got {type(error).__name__}: {str(error)[:500]}; run "
            "the same command again, which goes on"
        ) from error
