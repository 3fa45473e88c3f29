"""Forward and backward pass of RWKV-7 of 0.1B: share of the float32 peak, and torch on the same equations and cores."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import limits
from benchmarks.bench_speed import weights
from benchmarks.checkpoints import FOLDER, SHAPES, cached_model
from benchmarks.report import Report, median
from rwkv_cy import LanguageModel, load

Step = Callable[[], float]


def own_step(model: LanguageModel, tokens: np.ndarray, targets: np.ndarray, threads: int) -> Step:
    """Return a function that computes all gradients of a batch, and returns the loss."""
    gradients = None

    def step() -> float:
        nonlocal gradients
        _, _, tape = model.record(list(tokens), logits=False, num_threads=threads)
        parameters = None if gradients is None else gradients.parameters
        losses, gradients = tape.cross_entropy(list(targets), parameters=parameters, num_threads=threads)
        return float(np.mean(losses))

    return step


def torch_step(model: LanguageModel, tokens: np.ndarray, targets: np.ndarray, threads: int) -> Step | None:
    """Return the same in torch; None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    from benchmarks.torch_rwkv7 import loss

    torch.set_num_threads(threads)
    parameters = {
        name: torch.tensor(np.ascontiguousarray(value.array.T if value.transposed else value.array), requires_grad=True)
        for name, value in model.parameters.items()
        if not name.endswith("time_state")
    }
    ids, right = torch.as_tensor(tokens), torch.as_tensor(targets)

    def step() -> float:
        result = loss(parameters, model.config, ids, right)
        result.backward()
        return float(result.item())

    return step


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_training", description=__doc__)
    parser.add_argument("--shape", choices=[name for name in SHAPES if name.startswith("7-")], default="7-0.1b")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of each sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="do not run torch")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    program = limits.build(options.folder)
    model = load(cached_model(options.shape, "f32", options.folder), mmap=False)
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, model.vocab_size, (2, options.batch, options.tokens))
    count = options.batch * options.tokens
    before = peak_bytes()
    steps: dict[str, Step] = {"rwkv_cy": own_step(model, tokens, targets, options.threads)}
    losses = {name: step() for name, step in steps.items()}
    memory = peak_bytes() - before
    if options.torch and (other := torch_step(model, tokens, targets, options.threads)):
        steps["torch"] = other
        losses["torch"] = other()
        if abs(losses["torch"] - losses["rwkv_cy"]) > 1e-3:
            sys.exit(f"the losses differ: {losses}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks = []
    for _ in range(options.rounds):
        peaks.append(limits.flops(program, options.threads))
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    # A product of the forward pass, and two of the same size of the backward pass.
    work = 3 * 2 * count * sum(weights(model.config).values())
    report = Report(
        f"Forward and backward pass, {options.shape}, {options.batch} x {options.tokens} tokens",
        ("", "seconds", "tokens/s", "% of f32 peak", "times torch"),
        notes=[
            f"Medians of {options.rounds} rounds in turn, {options.threads} threads; all gradients, no optimizer.",
            "Peak: fused multiply-adds in float32, measured before each round. Only products with matrices count.",
            f"Memory beyond the weights, with {model_bytes(model) / 1e6:.0f} MB of gradients: {memory / 1e6:.0f} MB.",
        ],
        values={"memory": memory, "peak": median(peaks), "seconds": seconds, "losses": losses},
    )
    for name, own in seconds.items():
        share = median([work / peak / one for peak, one in zip(peaks, own, strict=True)])
        times = f"{median(seconds['torch']) / median(own):.1f}" if "torch" in seconds else ""
        report.rows.append((name, f"{median(own):.2f}", f"{count / median(own):.0f}", f"{share:.0%}", times))
    report.print(as_json=options.json)


def model_bytes(model: LanguageModel) -> int:
    """Return the bytes of all parameters in float32."""
    return 4 * sum(int(np.prod(value.shape)) for value in model.parameters.values())


if __name__ == "__main__":
    main()
