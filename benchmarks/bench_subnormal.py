"""Subnormal weights: decode and prefill of a model where a tenth of the weights is near 1e-40, relative to zeros there.

Training with weight decay leaves such weights behind, in float32 and in bfloat16. Their values change no logit, which
is checked; a CPU that computes with them takes many times as long.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.report import Report, median, ratio
from rwkv_cy import Config, LanguageModel
from rwkv_cy.architectures import architecture_of
from rwkv_cy.dtypes import to_storage
from rwkv_cy.tensors.tensor import Parameter

_CONFIG = Config(d_model=512, num_layers=6, vocab_size=4096)
_SHARE, _SUBNORMAL = 0.1, np.float32(1e-40)
_PROMPT, _DECODED = 64, 8


def models(dtype: str) -> tuple[LanguageModel, LanguageModel]:
    """Return the model with subnormal weights, and the same with zeros in their places."""
    rng = np.random.default_rng(0)
    with_subnormals, with_zeros = {}, {}
    for spec in architecture_of(_CONFIG).parameters(_CONFIG):
        numbers = spec.initialise(rng).astype(np.float32)
        kind = "f32"
        chosen = np.zeros(spec.shape, np.bool_)
        if spec.kind not in ("vector", "state"):
            numbers += rng.standard_normal(spec.shape, np.float32) * np.float32(0.02)
            chosen, kind = rng.random(spec.shape) < _SHARE, dtype
        for parameters, value in ((with_subnormals, _SUBNORMAL), (with_zeros, np.float32(0))):
            array = to_storage(np.where(chosen, value, numbers), "f32", kind)
            parameters[spec.name] = Parameter(array, kind)
    return LanguageModel(_CONFIG, with_subnormals), LanguageModel(_CONFIG, with_zeros)


def seconds(model: LanguageModel, threads: int) -> tuple[float, float, bytes]:
    """Return the seconds of a prompt, those of a token after it, and the last logits."""
    start = time.perf_counter()
    logits, state = model.forward(list(range(_PROMPT)), num_threads=threads)
    prefill = time.perf_counter() - start
    taken = []
    for token in range(_DECODED):
        start = time.perf_counter()
        logits, state = model.forward([token], state, num_threads=threads)
        taken.append(time.perf_counter() - start)
    return prefill, median(taken), logits.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_subnormal", description=__doc__)
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report = Report(
        f"A tenth of the weights near {_SUBNORMAL:.0e}: time relative to zeros in their places",
        ("", "threads", f"prefill of {_PROMPT}", "decode"),
        notes=[f"Medians of {arguments.rounds} rounds, alternating; the logits are equal."],
        values={"rows": []},
    )
    for dtype in ("f32", "bf16"):
        pair = models(dtype)
        for threads in arguments.threads:
            prefill: tuple[list[float], list[float]] = ([], [])
            decode: tuple[list[float], list[float]] = ([], [])
            for model in pair:
                seconds(model, threads)
            for _ in range(arguments.rounds):
                logits = set()
                for place, model in enumerate(pair):
                    first, next_, last = seconds(model, threads)
                    prefill[place].append(first)
                    decode[place].append(next_)
                    logits.add(last)
                if len(logits) != 1:
                    raise SystemExit("bench_subnormal: the two models disagree")
            found = {"prefill": ratio(*prefill), "decode": ratio(*decode)}
            report.rows.append((dtype, str(threads), *(f"{value:.2f}" for value in found.values())))
            report.values["rows"].append({"dtype": dtype, "threads": threads, **found})
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
