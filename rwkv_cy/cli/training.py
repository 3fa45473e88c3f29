"""``rwkv-cy train`` and ``rwkv-cy tune``: a new model from a text, or a model changed by one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy import runtime
from rwkv_cy.cli.arguments import common_options, integer, new_file, output_options, real
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import warn_of_threads
from rwkv_cy.cli.output import byte_size, is_quiet, print_fields, print_json
from rwkv_cy.cli.targets import check_model_target
from rwkv_cy.errors import ConfigError, StorageError
from rwkv_cy.units import duration, short_count

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.config import Config
    from rwkv_cy.training.methods import Method
    from rwkv_cy.training.options import TrainingOptions
    from rwkv_cy.training.run import TrainingReport
    from rwkv_cy.training.trainer import Step

__all__ = ["add_parser"]

#: Learning rates at the beginning and the end, where the command line does not give them.
_RATES = {"train": (1e-3, 1e-5), "full": (1e-4, 1e-5), "lora": (5e-4, 5e-5), "state": (1.0, 0.01)}
_DTYPES = ("f32", "f16", "bf16")
#: The options that give the fields of a new model's config, and of TrainingOptions where they are called otherwise.
_OPTION_OF = {"architecture": "--new", "d_att": "--d-model", "d_model": "--d-model", "head_size": "--head-size"}
_RUN_OPTION_OF = {"warmup_steps": "--warmup", "checkpoint_every": "--every", "evaluate_every": "--every"}
_RANK, _ALPHA = 8, 32.0


def add_parser(commands: Subparsers) -> None:
    """Add ``train`` and ``tune`` to the command's parser."""
    _add_train(commands)
    _add_tune(commands)


def _add_train(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "train",
        parents=[common_options()],
        description="Train a new model from initial values, and write a model file. A run that was stopped (Ctrl-C) or "
        "killed goes on when the command is given again.",
        examples=[
            "rwkv-cy train --new rwkv7 --d-model 128 --num-layers 6 book.txt writer.h5 --steps 2000",
            "rwkv-cy train --new rwkv7 --d-model 256 --num-layers 8 examples.jsonl writer.h5 --steps 9000",
        ],
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="a text, or JSONL with a document in each line's text")
    parser.add_argument("target", metavar="MODEL", type=new_file, help="the model file to write")
    parser.add_argument(
        "--new",
        required=True,
        metavar="VERSION",
        help="the version, as in the examples; the error for an unknown one lists them all",
    )
    parser.add_argument("--d-model", type=integer(1), required=True, metavar="N", help="width of the model")
    parser.add_argument("--num-layers", type=integer(1), required=True, metavar="N", help="number of layers")
    parser.add_argument("--d-ffn", type=integer(1), metavar="N", help="width of the channel mix (default: 4 times)")
    parser.add_argument("--head-size", type=integer(1), metavar="N", help="channels of a head (default: 64)")
    parser.add_argument(
        "--tokenizer", default="bytes", metavar="bytes|world|FILE", help="the model's tokenizer (default: bytes)"
    )
    _add_options(parser)
    parser.set_defaults(run=_train)


def _add_tune(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "tune",
        parents=[common_options()],
        description="Change a model by a text. What is learned is written to a file of its own: a state for generate "
        "--state, adapters (LoRA) for merge, or with --method full a model file.",
        examples=[
            "rwkv-cy tune goose.pth examples.jsonl --method state --output tuned.pth --steps 200",
            "rwkv-cy tune model.h5 book.txt --method lora --rank 16 --output adapter.pth --steps 500",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="the model, in any format and precision")
    parser.add_argument("data", metavar="DATA", type=Path, help="a text, or JSONL with a document in each line's text")
    parser.add_argument("--method", choices=("state", "lora", "full"), required=True, help="what is learned")
    parser.add_argument(
        "--output", dest="target", metavar="FILE", type=new_file, required=True, help="the file to write"
    )
    parser.add_argument("--rank", type=integer(1, 4096), metavar="N", help=f"of the adapters (default: {_RANK})")
    parser.add_argument("--alpha", type=real(0), metavar="X", help=f"scale of the adapters (default: {_ALPHA:g})")
    parser.add_argument("--tokenizer", metavar="bytes|world|FILE", help="replaces the model's own")
    _add_options(parser)
    parser.set_defaults(run=_tune)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=integer(1), required=True, metavar="N", help="updates")
    parser.add_argument("--seed", type=integer(0), default=0, metavar="S", help="same seed, same result (default: 0)")
    parser.add_argument("--batch-size", type=integer(1), default=8, metavar="N", help="sequences a step (default: 8)")
    parser.add_argument("--context", type=integer(2), default=512, metavar="N", help="tokens a sequence (default: 512)")
    parser.add_argument(
        "--sampling",
        choices=("windows", "documents"),
        help="sequences are windows from everywhere, or whole documents (default: documents for JSONL, else windows)",
    )
    parser.add_argument("--learning-rate", type=real(0), metavar="X", help="after the warm-up (default: by method)")
    parser.add_argument("--final-learning-rate", type=real(0), metavar="X", help="at the end (default: by method)")
    parser.add_argument("--warmup", type=integer(0), default=10, metavar="N", help="steps of warm-up (default: 10)")
    parser.add_argument("--weight-decay", type=real(0), default=0.01, metavar="X", help="of matrices (default: 0.01)")
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="a text to measure bits per byte on")
    parser.add_argument(
        "--every",
        type=integer(1),
        default=100,
        metavar="N",
        help="steps between checkpoints, and between measurements (default: 100)",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="for log, plot and checkpoint (default: FILE.training)"
    )
    parser.add_argument("--dtype", choices=_DTYPES, help="type of the numbers in the file (default: f32)")
    parser.add_argument(
        "-t",
        "--threads",
        type=integer(1, runtime.MAX_THREADS),
        metavar="N",
        help="threads to use (default: one per core)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print memory and time, from a sample; write nothing")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    output_options(parser)


def _options(arguments: argparse.Namespace, method: str) -> TrainingOptions:
    from rwkv_cy.training.data import RECORDS
    from rwkv_cy.training.options import TrainingOptions

    first, last = _RATES[method]
    first = first if arguments.learning_rate is None else arguments.learning_rate
    last = min(first, last) if arguments.final_learning_rate is None else arguments.final_learning_rate
    try:
        return TrainingOptions(
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            context=arguments.context,
            learning_rate=first,
            final_learning_rate=last,
            warmup_steps=arguments.warmup,
            weight_decay=arguments.weight_decay,
            sampling=arguments.sampling or ("documents" if arguments.data.suffix.lower() in RECORDS else "windows"),
            seed=arguments.seed,
            checkpoint_every=arguments.every,
            evaluate_every=arguments.every,
        )
    except ConfigError as error:
        name, _, rest = str(error).partition(":")
        raise ConfigError(f"{_RUN_OPTION_OF.get(name, '--' + name.replace('_', '-'))}:{rest}") from None


def _train(arguments: argparse.Namespace) -> int:
    from rwkv_cy.training import run
    from rwkv_cy.training.files import check_files
    from rwkv_cy.training.methods import FullMethod

    options = _options(arguments, "train")
    config = _new_config(arguments)
    check_model_target(
        arguments.data, arguments.target, force=arguments.force, dry_run=arguments.dry_run, names="DATA and MODEL"
    )
    check_files(
        "full",
        [arguments.data],
        arguments.target,
        held_out=arguments.held_out,
        overwrite=arguments.force or arguments.dry_run,
    )
    _set_threads(arguments)
    if arguments.dry_run:
        return _estimate(FullMethod(run.new_model(config, arguments.tokenizer, options.seed)), options, arguments)
    return _run(arguments, partial(run.train, config), options, tokenizer=arguments.tokenizer)


def _new_config(arguments: argparse.Namespace) -> Config:
    """Return the config of a new model; errors name the options."""
    from rwkv_cy.architectures import architecture_of
    from rwkv_cy.config import Config

    try:
        config = Config(
            arguments.d_model,
            arguments.num_layers,
            architecture=arguments.new,
            d_ffn=arguments.d_ffn or 0,
            head_size=arguments.head_size or 0,
        )
        architecture_of(config).complete(config)
    except ConfigError as error:
        message = str(error)
        for name, option in _OPTION_OF.items():
            message = message.replace(f"Config.{name}:", f"{option}:").replace(f" {name} ", f" {option} ")
        raise ConfigError(message) from None
    return config


def _tune(arguments: argparse.Namespace) -> int:
    from rwkv_cy.model.language_model import load
    from rwkv_cy.training import run
    from rwkv_cy.training.files import check_apart, check_files

    if arguments.target.exists() and not (arguments.force or arguments.dry_run):
        raise StorageError(f"{arguments.target} already exists; choose another name or pass --force")
    options = _options(arguments, arguments.method)
    adapter = _adapter(arguments)
    check_apart(arguments.target, [arguments.model])
    check_files(
        arguments.method,
        [arguments.data],
        arguments.target,
        held_out=arguments.held_out,
        overwrite=arguments.force or arguments.dry_run,
    )
    if arguments.method == "full":
        check_model_target(
            arguments.model,
            arguments.target,
            force=arguments.force,
            dry_run=arguments.dry_run,
            names="MODEL and --output",
        )
    _set_threads(arguments)
    if arguments.dry_run:
        with load(arguments.model, tokenizer=arguments.tokenizer) as model:
            return _estimate(run.prepare(model, arguments.method, **adapter, seed=options.seed), options, arguments)
    work = partial(run.tune, arguments.model, tokenizer=arguments.tokenizer)
    return _run(arguments, work, options, method=arguments.method, **adapter)


def _adapter(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return rank and alpha, which are for adapters only."""
    for name, value in (("--rank", arguments.rank), ("--alpha", arguments.alpha)):
        if value is not None and arguments.method != "lora":
            raise ConfigError(f"{name}: expected --method lora, got --method {arguments.method}; leave it out")
    return {
        "rank": _RANK if arguments.rank is None else arguments.rank,
        "alpha": _ALPHA if arguments.alpha is None else arguments.alpha,
    }


def _run(
    arguments: argparse.Namespace, work: Callable[..., TrainingReport], options: TrainingOptions, **own: Any
) -> int:
    """Run `work` on the texts with what both commands have, and report."""
    from rwkv_cy.training.checkpoint import OtherRunError

    with _progress(arguments, options.steps) as progress:
        try:
            report = work(
                arguments.data,
                arguments.target,
                options,
                **own,
                dtype=arguments.dtype,
                held_out=arguments.held_out,
                folder=arguments.folder,
                overwrite=arguments.force,
                progress=progress,
            )
        except OtherRunError as error:
            raise OtherRunError(error.path, error.differences, _names_of_settings(arguments)) from None
    return _report(report, arguments)


def _names_of_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what the command line calls each setting that it gives."""
    given = vars(arguments)
    options = {name: "--" + name.replace("_", "-") for name in given}
    version = {"architecture": "--new"} if "new" in given else {"model": "MODEL"}
    return {**options, **_RUN_OPTION_OF, **version, "data": "DATA"}


def _set_threads(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        warn_of_threads(arguments.threads)
        runtime.set_num_threads(arguments.threads)


@contextmanager
def _progress(arguments: argparse.Namespace, steps: int) -> Iterator[Callable[[Step], None] | None]:
    """Yield what shows each step: a bar with loss, tokens a second and time left; None where nothing is shown."""
    if arguments.no_progress or is_quiet() or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=steps, unit=" steps", file=sys.stderr, leave=False) as bar:

        def show(step: Step) -> None:
            bar.initial = bar.initial or step.step - 1
            bar.n = step.step
            shown = {"loss": f"{step.loss:.3f}", "tokens/s": f"{step.tokens / step.seconds:,.0f}"}
            if step.held_out is not None:
                bar.write(f"step {step.step}: {step.held_out:.4f} bits per byte of the held-out text", file=sys.stderr)
            bar.set_postfix(shown, refresh=False)
            bar.refresh()

        yield show


def _estimate(method: Method, options: TrainingOptions, arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.schema_names import named
    from rwkv_cy.training.estimate import estimate

    found = estimate(method, options, data=[arguments.data])
    if arguments.json:
        print_json(named("train-estimate", found.to_dict()))
        return ExitCode.OK
    total = found.weights + found.optimiser + found.activations
    frozen = f"frozen weights {byte_size(found.weights)}, " if found.weights else ""
    print_fields(
        {
            "learned": f"{short_count(found.learned)} of {short_count(_size(method))} parameters",
            "memory": f"{byte_size(total)}: {frozen}learned numbers with their gradients and means "
            f"{byte_size(found.optimiser)}, activations at most {byte_size(found.activations)}",
            "speed": f"{found.tokens_per_second:,.0f} tokens/s in a sample",
            "time": f"{duration(found.seconds)} for {options.steps:,} steps of {options.batch_size} sequences of "
            f"{found.sequence:,.0f} tokens{'' if options.sampling == 'windows' else ' (mean)'}",
        }
    )
    return ExitCode.OK


def _size(method: Method) -> int:
    from math import prod

    sizes = {name: prod(parameter.shape) for name, parameter in method.kept.items()}
    return sum({**sizes, **{name: array.size for name, array in method.values.items()}}.values())


def _report(report: TrainingReport, arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.loss_plot import write_loss_plot
    from rwkv_cy.toolkit.schema_names import named

    plot = write_loss_plot(report.folder)
    if arguments.json:
        print_json(named("train", {**report.to_dict(), "plot": None if plot is None else str(plot)}))
    elif not arguments.quiet:
        fields = {
            "result": str(report.path) if report.finished else "stopped; give the command again to go on",
            "steps": f"{report.steps:,} of {arguments.steps:,}",
        }
        if report.loss is not None:
            fields["loss"] = f"{report.loss:.4f} nats a token"
            fields["speed"] = f"{report.tokens / report.seconds:,.0f} tokens/s"
        if report.held_out is not None:
            fields["held-out text"] = f"{report.held_out:.4f} bits per byte"
        print_fields({**fields, "log" if plot is None else "log and plot": f"{report.folder}"})
    return ExitCode.OK if report.finished else ExitCode.INTERRUPTED
