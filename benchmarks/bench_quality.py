"""The cost of a precision: perplexity of the demo model, and errors of the logits on random weights.

Perplexity is that of the demo model's held-out text, with its change beside float32. Errors are those of the logits
after each of some random tokens, on a synthetic checkpoint of an official shape, beside float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints import FOLDER, SHAPES, cached_checkpoint, cached_model, name_of
from benchmarks.foreign_files import RWKVCPP_TYPES, cached_rwkvcpp
from benchmarks.report import Report
from benchmarks.rwkvcpp import Library, Model, library_argument
from rwkv_cy import load
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.demo import demo_model_path
from rwkv_cy.dtypes import MATRIX_TYPES, STORAGE_TYPES
from rwkv_cy.runtime import get_num_threads
from rwkv_cy.text import ScoringModel
from rwkv_cy.toolkit.perplexity import PerplexityReport, perplexity

#: Every storage type, except the one that errors are measured against.
_STORED = tuple(name for name in (*STORAGE_TYPES, *MATRIX_TYPES) if name != "f64")
#: A plus stands for activations rounded to the same type.
TYPES = (*_STORED, "bf16+")
_TEXT = Path("data") / "kjv-heldout.txt"
#: Tokens whose logits are in memory at a time.
_CHUNK = 64


class GivesLogits(Protocol):
    """The part of a model's interface that this benchmark uses."""

    def forward(
        self,
        tokens: Any,
        state: Any = None,
        *,
        all_logits: bool = False,
        in_place: bool = False,
        num_threads: Any = None,
    ) -> tuple[npt.NDArray[Any], Any]:
        """Return the logits of each token for ``all_logits=True``, and the state."""


class RwkvCppModel:
    """A model of rwkv.cpp with the interface of LanguageModel; it computes the logits of one token at a time."""

    tokenizer = None
    #: Perplexity is measured with the demo model, whose tokens are bytes.
    vocab_size = 256

    def __init__(self, model: Model) -> None:
        self._model = model

    def forward(
        self,
        tokens: Any,
        state: Any = None,
        *,
        all_logits: bool = False,
        in_place: bool = False,
        num_threads: Any = None,
    ) -> tuple[npt.NDArray[Any], Any]:
        """Return the logits of each token, and the state, which is updated in place."""
        rows = []
        for token in tokens:
            row, state = self._model.forward([int(token)], state)
            rows.append(row)
        return np.stack(rows), state


@dataclass(frozen=True)
class Errors:
    """Errors of logits.

    Attributes
    ----------
    largest, mean : float
        Of the absolute differences.
    relative_rms : float
        Root of the mean square of the differences, over that of the exact logits.
    """

    largest: float
    mean: float
    relative_rms: float


@dataclass(frozen=True)
class Quality:
    """Results for one precision.

    Attributes
    ----------
    label, dtype : str
    bits : float
        A weight of the large model's matrices, on the average of its file.
    text : PerplexityReport
        Of the demo model.
    errors : Errors
        Of the large model.
    """

    label: str
    dtype: str
    bits: float
    text: PerplexityReport
    errors: Errors


def logits_of(model: GivesLogits, tokens: Sequence[int], threads: int) -> Iterator[npt.NDArray[Any]]:
    """Yield the logits after each token, in chunks."""
    state = None
    for start in range(0, len(tokens), _CHUNK):
        some = tokens[start : start + _CHUNK]
        logits, state = model.forward(some, state, all_logits=True, in_place=True, num_threads=threads)
        yield logits


def errors_of(chunks: Iterator[npt.NDArray[Any]], exact: Sequence[npt.NDArray[Any]]) -> Errors:
    """Return the errors over all chunks."""
    largest = total = square = scale = 0.0
    count = 0
    for own, true in zip(chunks, exact, strict=True):
        difference = np.abs(own - true)
        largest = max(largest, float(difference.max()))
        total += float(difference.sum())
        square += float((difference**2).sum())
        scale += float((true**2).sum())
        count += difference.size
    return Errors(largest, total / count, (square / scale) ** 0.5)


def matrix_bits(path: Path) -> float:
    """Return the bits per weight, averaged over a file's matrices."""
    with open_source(path) as source:
        config = Checkpoint(source).config
        specs = architecture_of(config).parameters(config)
        infos = [source.info(spec.name) for spec in specs if spec.quantizable]
    return 8 * sum(info.source_nbytes for info in infos) / sum(info.size for info in infos)


def text_quality(model: ScoringModel[Any], text: bytes, threads: int) -> PerplexityReport:
    """Return the perplexity of a text for a model whose tokens are bytes."""
    report = perplexity(model, np.frombuffer(text, np.uint8), num_threads=threads)
    return PerplexityReport(report.tokens, report.nats, report.tokens)


def measure(
    shape: str, dtypes: Sequence[str], text: bytes, count: int, threads: int, folder: Path, library: Path | None
) -> list[Quality]:
    """Measure each storage type, and rwkv.cpp's types if its library is given."""
    checkpoint = cached_checkpoint(shape, "f32", folder)
    tokens = np.random.default_rng(0).integers(0, SHAPES[shape].vocab_size, count).tolist()
    exact = list(logits_of(load(checkpoint, dtype="f64"), tokens, threads))
    found = []
    for dtype in dtypes:
        stored = dtype.removesuffix("+")
        activations = "f32" if stored == dtype else "bf16"
        path = cached_model(shape, stored, folder)
        words = text_quality(load(demo_model_path(), dtype=stored, activations=activations), text, threads)
        errors = errors_of(logits_of(load(path, activations=activations), tokens, threads), exact)
        found.append(Quality("rwkv_cy", dtype, matrix_bits(path), words, errors))
    if library is None:
        return found
    functions = Library(library)
    for dtype in RWKVCPP_TYPES:
        demo = cached_rwkvcpp("demo", demo_model_path, dtype, folder, library)
        # One thread: this is not timed, and spinning threads are slow if another process runs.
        with Model(functions, demo, threads=1) as model:
            words = text_quality(RwkvCppModel(model), text, 1)
        path = cached_rwkvcpp(shape, lambda: checkpoint, dtype, folder, library)
        with Model(functions, path, threads=1) as model:
            errors = errors_of(logits_of(RwkvCppModel(model), tokens, threads), exact)
        found.append(Quality("rwkv.cpp", dtype, matrix_bits(path), words, errors))
    return found


def report_of(shape: str, count: int, found: Sequence[Quality]) -> Report:
    """Return the table."""
    report = Report(
        "What a precision costs: perplexity of the demo model, and errors of the logits on random weights",
        (
            "",
            "bits a weight",
            "perplexity",
            "change, %",
            "bits a byte",
            "largest error of a logit",
            "mean error",
            "relative rms",
        ),
        notes=[
            f"Perplexity: the demo model over {found[0].text.tokens + 1:,} bytes of held-out text; change beside f32.",
            "The demo model's checkpoint is in bf16, which f32 and bf16 hold exactly. bf16+: activations in bf16, too.",
            f"Errors: {name_of(shape)} of random weights in f32, after each of {count} random tokens, beside f64.",
            "Bits a weight: the matrices of that file, with the steps of blocks; rwkv.cpp leaves the head in 16 bits.",
        ],
        values={"shape": shape, "tokens": count, "rows": [asdict(one) for one in found]},
    )
    base = next(one.text.perplexity for one in found if (one.label, one.dtype) == ("rwkv_cy", "f32"))
    for one in found:
        report.rows.append(
            (
                f"{one.label}, {one.dtype}",
                f"{one.bits:.2f}",
                f"{one.text.perplexity:.5f}",
                f"{100 * (one.text.perplexity / base - 1):+.3f}",
                f"{one.text.bits_per_byte:.5f}",
                f"{one.errors.largest:.1e}",
                f"{one.errors.mean:.1e}",
                f"{one.errors.relative_rms:.1e}",
            )
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_quality", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtypes", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--bytes", type=int, help="of the held-out text (default: all)")
    parser.add_argument("--tokens", type=int, default=256, help="whose logits are compared")
    parser.add_argument("--threads", type=int, default=get_num_threads())
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    library_argument(parser)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "f32" not in arguments.dtypes:
        parser.error("--dtypes: expected f32 among them, which the others are held against")
    library = arguments.rwkvcpp_library
    found = measure(
        arguments.shape,
        arguments.dtypes,
        _TEXT.read_bytes()[: arguments.bytes],
        arguments.tokens,
        arguments.threads,
        arguments.folder,
        library,
    )
    report = report_of(arguments.shape, arguments.tokens, found)
    if library is None:
        report.notes.append("rwkv.cpp: not measured; name its library with --rwkvcpp-library.")
    else:
        report.notes.append(f"rwkv.cpp: a library that says of itself {Library(library).system}.")
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
