"""Forward and backward pass of RWKV-7 of 0.1B: share of the float32 peak, memory, and torch on the same equations."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import limits
from benchmarks.bench_speed import weights
from benchmarks.checkpoints import FOLDER, SHAPES, cached_model
from benchmarks.report import Report, median, ratio
from rwkv_cy import LanguageModel, TrainingOptions, load
from rwkv_cy.training.data import TokenSet
from rwkv_cy.training.methods import FullMethod
from rwkv_cy.training.trainer import Trainer

Step = Callable[[], float]

#: Tokens a second at which upstream (nlpodyssey/rwkv) trained the 169M model of version 4, measured once.
UPSTREAM = 26


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


def training_step(model: LanguageModel, tokens: np.ndarray, folder: Path, threads: int) -> Step:
    """Return a function that runs a whole step of training, with its update; the log goes into a folder."""
    data = TokenSet(tokens.reshape(-1), np.array([tokens.size]), tokens.size, "random")
    options = TrainingOptions(
        steps=10**6, batch_size=tokens.shape[0], context=tokens.shape[1], learning_rate=1e-6, checkpoint_every=10**6
    )
    steps = Trainer(FullMethod(model), data, options, folder, num_threads=threads).run()
    return lambda: next(steps).loss


def _memory(field: str) -> int:
    """Return a field of this process in bytes: VmRSS, its resident memory, or VmHWM, the most of it."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        sys.exit(f"bench_training: expected {field} in /proc/self/status; run it on Linux")
    return int(found[1]) * 1024


def peak_memory(step: Step) -> tuple[int, float]:
    """Return by how much the resident memory grows at most during a step, and the step's loss."""
    Path("/proc/self/clear_refs").write_text("5")  # begin a new VmHWM
    before = _memory("VmRSS")
    loss = step()
    return _memory("VmHWM") - before, loss


def timed(step: Step) -> float:
    """Return the seconds of a step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_training", description=__doc__)
    parser.add_argument("--shape", choices=[name for name in SHAPES if name.startswith("7-")], default="7-0.1b")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of each sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="do not run torch")
    parser.add_argument("--no-upstream", dest="upstream", action="store_false", help="do not run RWKV-4 169M")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    program = limits.build(options.folder)
    rng = np.random.default_rng(0)
    count = options.batch * options.tokens

    def loaded(shape: str) -> tuple[LanguageModel, np.ndarray, np.ndarray]:
        model = load(cached_model(shape, "f32", options.folder), mmap=False)
        return (model, *rng.integers(0, model.vocab_size, (2, options.batch, options.tokens)))

    model, tokens, targets = loaded(options.shape)
    own = own_step(model, tokens, targets, options.threads)
    memory, loss = peak_memory(own)
    steps: dict[str, tuple[Step, LanguageModel]] = {"rwkv_cy": (own, model)}
    losses = {"rwkv_cy": loss}
    if options.torch and (other := torch_step(model, tokens, targets, options.threads)):
        steps["torch"] = other, model
        losses["torch"] = other()
        if abs(losses["torch"] - losses["rwkv_cy"]) > 1e-3:
            sys.exit(f"the losses differ: {losses}")
    log = TemporaryDirectory()
    steps["rwkv_cy, step of training"] = training_step(model, tokens, Path(log.name), options.threads), model
    if options.upstream:
        version4, *batch = loaded("169m")
        steps["rwkv_cy, RWKV-4 169M"] = own_step(version4, *batch, options.threads), version4
    for name, (step, _) in steps.items():
        if name not in losses:
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks = []
    for _ in range(options.rounds):
        peaks.append(limits.flops(program, options.threads))
        for name, (step, _) in steps.items():
            seconds[name].append(timed(step))
    report = Report(
        f"Forward and backward pass, {options.shape}, {options.batch} x {options.tokens} tokens",
        ("", "seconds", "tokens/s", "% of f32 peak", "times torch"),
        notes=[
            f"Medians of {options.rounds} rounds in turn, {options.threads} threads; all gradients.",
            "A step of training also builds the model of the present weights, and updates them by AdamW.",
            "Peak: fused multiply-adds in float32, measured before each round. Only products with matrices count.",
            f"Memory beyond the weights, with {model_bytes(model) / 1e6:.0f} MB of gradients: {memory / 1e6:.0f} MB.",
        ],
        values={"memory": memory, "peak": median(peaks), "seconds": seconds, "losses": losses},
    )
    for name, (_, trained) in steps.items():
        own_seconds = seconds[name]
        # A product of the forward pass, and two of the same size of the backward pass.
        work = 3 * 2 * count * sum(weights(trained.config).values())
        share = median([work / peak / one for peak, one in zip(peaks, own_seconds, strict=True)])
        times = f"{ratio(seconds['torch'], own_seconds):.1f}" if "torch" in seconds and trained is model else ""
        middle = median(own_seconds)
        report.rows.append((name, f"{middle:.2f}", f"{count / middle:.0f}", f"{share:.0%}", times))
    if options.upstream:
        report.rows.append(("upstream, RWKV-4 169M, measured once", "", f"{UPSTREAM}", "", ""))
    report.print(as_json=options.json)
    log.cleanup()


def model_bytes(model: LanguageModel) -> int:
    """Return the bytes of all parameters in float32."""
    return 4 * sum(int(np.prod(value.shape)) for value in model.parameters.values())


if __name__ == "__main__":
    main()
