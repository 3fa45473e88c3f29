"""What a corpus of 10^9 tokens takes by model, precision and cores, simulated from measured figures.

Rates are read from the tables of docs/performance.md. ``--write docs/batch-cost.md`` puts the tables into that page;
``--measure`` measures what a block costs the process that writes it.
"""

from __future__ import annotations

import argparse
import heapq
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.sparse import LARGE_SHAPES
from rwkv_cy import Config
from rwkv_cy.architectures import architecture_of
from rwkv_cy.batch.folder import Folder
from rwkv_cy.batch.records import Block, Done, Record

__all__ = ["Cluster", "Corpus", "Outcome", "Rates", "simulate", "tables"]

ROOT = Path(__file__).resolve().parent.parent
PERFORMANCE = ROOT / "docs" / "performance.md"
SHAPES = {
    "0.1B": (768, 12, (64, 64, 32, 128)),
    "0.4B": (1024, 24, (64, 64, 32, 128)),
    "1.5B": (2048, 24, (96, 96, 64, 256)),
    "2.9B": (2560, 32, (96, 96, 64, 320)),
    "7.2B": (4096, 32, (128, 128, 96, 480)),
    "13.3B": None,  # of benchmarks.sparse
}
#: Bits of an element in memory.
BITS = {"f32": 32.0, "bf16": 16.0, "q8": 8.5, "q4": 4.5}
#: The two models of the table of rates, and the one of the tables of batches: RWKV-4 169M.
MEASURED = ("0.1B", "0.4B")
SMALL = Config(d_model=768, num_layers=12, vocab_size=50277)
CORES = (2, 16, 64, 256, 1024, 4096, 16384)
SLOTS = 16
#: Of a worker: the cores of a NUMA node, or all there are.
WORKER_CORES = 16
#: Speed that is left of each doubling of the threads: 1 to 2 was measured, and more are assumed to be alike.
DOUBLING = 0.97
#: Seconds for the answers of a block to be written, as ``--measure`` found them: 256 answers of 500 characters.
WRITE_SECONDS = 0.0054
#: What rows of performance.md look like.
_RATE = re.compile(r"\| RWKV-7 (0\.[14]B), (\w+) +\| 2 +\|(?:[^|]*\|){4} +(\d+) +\| (\d+)")
_BATCH = re.compile(r"\| (\w+) +\| 2 +\| \d+ +\|(?:[^|]*\|){5} [\d.]+ +\((\d+)\) +\|")
_PROMPT = re.compile(r"\| rwkv_cy, resident, (\w+) +\|(?:[^|]*\|){5} (\d+) +\|")


def config_of(size: str) -> Config:
    """Return the Config of a released shape of RWKV-7."""
    shape = SHAPES[size]
    if shape is None:
        return LARGE_SHAPES["7-13b"]
    d_model, num_layers, ranks = shape
    named = dict(zip("wavg", ranks, strict=True))
    return Config(
        architecture="rwkv7", d_model=d_model, num_layers=num_layers, vocab_size=65536, head_size=64, ranks=named
    )


def elements_of(config: Config) -> tuple[int, int]:
    """Return the elements of matrices that every token is multiplied with: those of the layers, and the head."""
    specs = architecture_of(config).parameters(config)
    layers = [spec for spec in specs if len(spec.shape) == 2 and spec.name.startswith("blocks.")]
    return sum(int(np.prod(spec.shape)) for spec in layers if 1 not in spec.shape), config.d_model * config.vocab_size


@dataclass(frozen=True)
class Rates:
    """What was measured, for each type.

    Attributes
    ----------
    flops : dict of str to float
        Multiplications and additions of a core in a second, in prompts.
    deviation : float
        The largest relative difference between the models that were measured.
    generation : dict of str to float
        The same of many sequences that get a token each, relative to prompts.
    bandwidth : float
        Bytes that a core reads in a second, with its neighbour.
    """

    flops: dict[str, float]
    deviation: float
    generation: dict[str, float]
    bandwidth: float

    @classmethod
    def of(cls, page: str) -> Rates:
        """Read the rates of a page."""
        found: dict[str, list[float]] = {name: [] for name in BITS}
        bandwidths = []
        for size, dtype, speed, bandwidth in _RATE.findall(page):
            found[dtype].append(2 * elements_of(config_of(size))[0] * int(speed) / 2)
            bandwidths.append(int(bandwidth) * 1e9 / 2)
        if {len(values) for values in found.values()} != {len(MEASURED)}:
            raise ValueError(f"{PERFORMANCE}: expected a rate of {MEASURED} in each of {list(BITS)}, got {found}")
        batches = {dtype: int(speed) for dtype, speed in _BATCH.findall(page)}
        two_threads = page.index("Two threads; the float32 peak")
        prompts = dict(reversed([(dtype, int(speed)) for dtype, speed in _PROMPT.findall(page[two_threads:])]))
        layers, head = elements_of(SMALL)
        generation = {name: batches[name] * (layers + head) / (prompts[name] * layers) for name in BITS}
        flops = {name: float(np.mean(values)) for name, values in found.items()}
        deviation = max(max(values) / min(values) - 1 for values in found.values())
        return cls(flops, deviation, generation, float(np.median(bandwidths)))

    def tokens_per_second(self, config: Config, dtype: str, cores: int, *, generates: bool) -> float:
        """Return the speed of a worker that scores texts, or generates with 16 slots."""
        layers, head = elements_of(config)
        scaling = cores * DOUBLING ** np.log2(cores)
        arithmetic = 2 * (layers + head) / (self.flops[dtype] * (self.generation[dtype] if generates else 1) * scaling)
        reading = (layers + head) * BITS[dtype] / 8 / (self.bandwidth * scaling) / SLOTS if generates else 0
        return float(1 / max(arithmetic, reading))


@dataclass(frozen=True)
class Corpus:
    """Records by the number of their tokens: log-normal.

    Attributes
    ----------
    tokens : float
    record_tokens : float
        Mean.
    sigma : float
        Of the logarithm.
    block : int
        Records of a block.
    """

    tokens: float = 1e9
    record_tokens: float = 500
    sigma: float = 1.0
    block: int = 256

    def blocks(self, rng: np.random.Generator) -> np.ndarray:
        """Return the tokens of each block."""
        count = max(1, round(self.tokens / self.record_tokens))
        records = rng.lognormal(-(self.sigma**2) / 2, self.sigma, count) * self.record_tokens
        records *= self.tokens / records.sum()
        return np.add.reduceat(records, np.arange(0, count, self.block))


@dataclass(frozen=True)
class Cluster:
    """Workers, and what they share.

    Attributes
    ----------
    workers : int
    spread : float
        Standard deviation of the logarithm of their speeds.
    slow : float
        Share of workers at half speed: a neighbour, a hot node.
    load_seconds : float
        Time until the first has its model, if it were alone.
    storage : float
        Bytes a second that all read together.
    write_seconds : float
        Of a block, in the one process that writes.
    """

    workers: int
    spread: float = 0.05
    slow: float = 0.02
    load_seconds: float = 5.0
    storage: float = 2e9
    write_seconds: float = WRITE_SECONDS


@dataclass(frozen=True)
class Outcome:
    """How a run went.

    Attributes
    ----------
    seconds : float
    efficiency : float
        Part of the time of all workers that went into tokens at full speed.
    lost : dict of str to float
        Parts of it that did not, by where they went.
    """

    seconds: float
    efficiency: float
    lost: dict[str, float]

    @property
    def limit(self) -> str:
        """Where most was lost."""
        return max(self.lost, key=self.lost.__getitem__)


def simulate(corpus: Corpus, cluster: Cluster, speed: float, model_bytes: float, seed: int = 0) -> Outcome:
    """Give the blocks of a corpus, one by one, to the worker that is free first.

    Parameters
    ----------
    corpus : Corpus
    cluster : Cluster
    speed : float
        Tokens a second of a worker.
    model_bytes : float
        That each worker reads before.
    seed : int
    """
    rng = np.random.default_rng(seed)
    factors = np.exp(rng.normal(0, cluster.spread, cluster.workers))
    factors[rng.random(cluster.workers) < cluster.slow] *= 0.5
    start = cluster.load_seconds + model_bytes * cluster.workers / cluster.storage
    free = [(start, worker) for worker in range(cluster.workers)]
    ends = []
    busy = full = 0.0
    for tokens in corpus.blocks(rng):
        now, worker = heapq.heappop(free)
        took = tokens / (speed * factors[worker])
        busy += took
        full += tokens / speed
        ends.append(now + took)
        heapq.heappush(free, (now + took, worker))
    computed = max(ends)
    written = 0.0
    for end in sorted(ends):
        written = max(written, end) + cluster.write_seconds
    total = written * cluster.workers
    lost = {
        "loading": start * cluster.workers / total,
        "slow workers": max(0.0, busy - full) / total,
        "last blocks": (computed - start - busy / cluster.workers) * cluster.workers / total,
        "writing": (written - computed) * cluster.workers / total,
    }
    return Outcome(written, full / total, lost)


def tables(page: str) -> dict[str, str]:
    """Return the tables of the page, in Markdown, by their names."""
    rates = Rates.of(page)
    return {
        "rates": _rates_table(rates),
        "memory": _memory_table(),
        "score": _time_table(rates, generates=False),
        "generate": _time_table(rates, generates=True),
        "limits": _limits_table(rates),
    }


def outcome(rates: Rates, size: str, dtype: str, cores: int, corpus: Corpus, *, generates: bool) -> Outcome:
    """Simulate a model on as many cores."""
    config = config_of(size)
    own = min(cores, WORKER_CORES)
    speed = rates.tokens_per_second(config, dtype, own, generates=generates)
    return simulate(corpus, Cluster(cores // own), speed, bytes_of(config, dtype))


def bytes_of(config: Config, dtype: str) -> float:
    """Return the bytes of a model: matrices and embedding."""
    layers, head = elements_of(config)
    return layers * BITS[dtype] / 8 + head * BITS[dtype] / 8 + head * min(BITS[dtype], 16.0) / 8


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rates_table(rates: Rates) -> str:
    rows = [
        (name, f"{rates.flops[name] / 1e9:.0f}", f"{rates.generation[name]:.2f}", f"{rates.bandwidth / 1e9:.0f}")
        for name in BITS
    ]
    head = ("", "GFLOP/s of a core, prompts", "16 sequences, times prompts", "bandwidth of a core, GB/s")
    return _table(head, rows)


def _memory_table() -> str:
    rows = []
    for size in SHAPES:
        config = config_of(size)
        state = 4.0 * config.num_layers * (config.d_model * 64 + 2 * config.d_model) * SLOTS
        rows.append((size, *(f"{bytes_of(config, name) / 1e9:.1f}" for name in BITS), f"{state / 1e9:.2f}"))
    return _table(("", *(f"{name}, GB" for name in BITS), f"{SLOTS} states, GB"), rows)


def _time_table(rates: Rates, *, generates: bool) -> str:
    rows = []
    for size in SHAPES:
        for dtype in ("bf16", "q8", "q4"):
            cells = [
                _hours(outcome(rates, size, dtype, cores, Corpus(), generates=generates).seconds) for cores in CORES
            ]
            rows.append((f"{size}, {dtype}", *cells))
    return _table(("", *(f"{cores:,} cores" for cores in CORES)), rows)


def _hours(seconds: float) -> str:
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if seconds / size >= 10 else f"{seconds / size:.1f} {unit}"
    days = seconds / 86400
    return f"{days:,.1f} days" if days < 10 else f"{days:,.0f} days" if days < 1000 else f"{days / 365.25:.1f} years"


def _limits_table(rates: Rates) -> str:
    rows = []
    for size in SHAPES:
        for block in (256, 32):
            corpus = replace(Corpus(), block=block)
            cells = []
            for cores in CORES[3:]:
                found = outcome(rates, size, "q8", cores, corpus, generates=False)
                cells.append(f"{found.efficiency:.0%}, {found.limit}")
            rows.append((f"{size}, blocks of {block}", *cells))
    return _table(("scored in q8", *(f"{cores:,} cores" for cores in CORES[3:])), rows)


def measure() -> float:
    """Return the seconds that writing a block takes."""
    rows = [Record(str(place), place, {}) for place in range(1, 257)]
    with TemporaryDirectory() as name:
        folder = Folder(Path(name))
        with folder.locked("measure"):
            taken = []
            for number in range(50):
                done = Done(Block(number, rows, []), {one.place: {"id": one.id, "text": "x" * 500} for one in rows})
                start = time.perf_counter()
                folder.write(done.finish())
                taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate_corpus", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page of the documentation")
    parser.add_argument("--measure", action="store_true", help="measure the time to write a block, and end")
    arguments = parser.parse_args()
    if arguments.measure:
        print(f"{measure():.4f} s a block")
        return
    found = tables(PERFORMANCE.read_text("utf-8"))
    if arguments.write:
        text = arguments.write.read_text("utf-8")
        for name, table in found.items():
            pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            text = pattern.sub(lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", text)
        arguments.write.write_text(text, "utf-8")
    for name, table in found.items():
        print(f"{name}\n\n{table}\n")


if __name__ == "__main__":
    main()
