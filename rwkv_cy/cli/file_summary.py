"""The summary of a model file: what it is, its tensors by kind, and what to expect of it, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rwkv_cy.cli.output import byte_size, print_fields, printable, stacked, table
from rwkv_cy.cli.tables import terminal_width, wrapped

if TYPE_CHECKING:
    from rwkv_cy.config import Config
    from rwkv_cy.toolkit.file_report import Expectation, FileReport, GroupReport

__all__ = ["print_summary"]

_KINDS = {
    "embedding": "embedding",
    "matrix": "matrices",
    "low_rank": "low-rank",
    "vector": "vectors",
    "table": "tables",
    "state": "states",
    "head": "head",
    "other": "other",
}
#: The usual epsilons, which are not worth a line.
_LAYER_NORM_EPS, _GROUP_NORM_EPS = 1e-5, 64e-5
_GROUP_COLUMNS = ("group", "tensors", "parameters", "on disk", "types")
_NUMBERS = _GROUP_COLUMNS[1:4]
#: Digits of a SHA-256 and of a fingerprint that are shown; JSON has all.
_DIGITS = 12
#: Digits of a size that no file reaches.
_LONGEST_SIZE = 20
#: Values of metadata that are shown without --metadata.
_SHOWN_METADATA = ("general.name",)


def print_summary(report: FileReport) -> None:
    """Print the summary, at most 23 lines for a model that can be loaded."""
    print_fields(dict(_fields(report)))
    width = terminal_width()
    if report.groups:
        _print_table(_GROUP_COLUMNS, [_group(group) for group in report.groups], _NUMBERS, width)
    if report.expected:
        _print_expected(report, width)


def _fields(report: FileReport) -> Iterator[tuple[str, str]]:
    yield "file", f"{report.path} ({report.format}, {_sizes(report)})"
    yield "model", _model(report)
    if report.config is not None:
        yield "dimensions", _dimensions(report.config)
    yield "tokenizer", report.tokenizer or "none"
    if report.state_bytes is not None:
        yield "state", f"{byte_size(report.state_bytes)} a sequence"
    if report.table_bytes:
        yield "tables", f"{byte_size(report.table_bytes)}, read from the file row by row"
    if report.source:
        yield "source", _source(report.source)
    if report.created_by is not None:
        yield "written by", f"{report.created_by}, fingerprint {(report.fingerprint or '')[:_DIGITS]}"
    if report.metadata:
        yield "metadata", _metadata(report.metadata)
    if report.left_out:
        yield "left out", f"{len(report.left_out)} tensors that no model can have"
    if report.problems:
        yield "problems", f"{len(report.problems)}: it cannot be loaded"


def _sizes(report: FileReport) -> str:
    size = byte_size(report.bytes_on_disk)
    return size if report.files == 1 else f"{size} in {report.files} files"


def _model(report: FileReport) -> str:
    config = report.config
    name = report.architecture or "unknown"
    size = "" if config is None else f" {report.size_name} (L{config.num_layers}-D{config.d_model})"
    count = f"{report.num_parameters:,} parameters in {report.num_tensors:,} tensor{'s' * (report.num_tensors != 1)}"
    return f"{name}{size}, {count}"


def _dimensions(config: Config) -> str:
    parts = [f"{config.num_layers} layers", f"d_model {config.d_model}"]
    if config.d_att != config.d_model:
        parts.append(f"d_att {config.d_att}")
    parts.append(f"d_ffn {config.d_ffn}")
    if config.head_size:
        heads = config.d_att // config.head_size
        parts.append(f"{heads} head{'' if heads == 1 else 's'} of {config.head_size}")
    if config.ranks:
        parts.append("ranks " + " ".join(f"{name}={rank}" for name, rank in config.ranks.items()))
    parts.append(f"vocabulary {config.vocab_size:,}")
    if config.layer_norm_eps != _LAYER_NORM_EPS:
        parts.append(f"layer norm eps {config.layer_norm_eps:g}")
    if config.head_size and config.group_norm_eps != _GROUP_NORM_EPS:
        parts.append(f"group norm eps {config.group_norm_eps:g}")
    if config.rescale_layer:
        parts.append(f"rescaled every {config.rescale_layer} layers")
    if config.compute_dtype != "f32":
        parts.append(f"computes in {config.compute_dtype}")
    return ", ".join(parts)


def _source(source: dict[str, str]) -> str:
    size = source.get("size", "")
    details = [
        source.get("format"),
        byte_size(int(size)) if size.isdecimal() and len(size) < _LONGEST_SIZE else None,
        f"sha256 {source['sha256'][:_DIGITS]}" if "sha256" in source else None,
    ]
    known = ", ".join(filter(None, details))
    return source.get("name", "unknown") + (f" ({known})" if known else "")


def _metadata(metadata: dict[str, str]) -> str:
    shown = [f"{key} {metadata[key][:60]!r}; " for key in _SHOWN_METADATA if key in metadata]
    return f"{''.join(shown)}{len(metadata)} {'entry' if len(metadata) == 1 else 'entries'}: --metadata"


def _group(group: GroupReport) -> tuple[str, ...]:
    counts = (f"{group.tensors:,}", f"{group.parameters:,}", byte_size(group.nbytes))
    return (_KINDS[group.kind], *counts, " ".join(sorted(group.dtypes)))


def _print_expected(report: FileReport, width: int) -> None:
    """Print memory and speed by type: a column for each type, or a row on a narrow terminal."""
    speeds = report.machine.read_bandwidth is not None
    names = [one.dtype or "as it is" for one in report.expected]
    memory = [byte_size(one.memory_bytes) for one in report.expected]
    speed = [_speed(one) for one in report.expected]
    header = ("loaded as", *names)
    rows = [("memory", *memory), *([("tokens/s", *speed)] if speeds else [])]
    lines = table(header, rows, names)
    if width and max(map(len, lines)) > width:
        header, right = ("loaded as", "memory", "tokens/s"), ("memory", "tokens/s")
        lines = table(header, list(zip(names, memory, speed, strict=True)), right)
    del lines[1]
    print("\n" + "\n".join(lines))
    note = _note(report)
    if note:
        print("\n".join(wrapped(note, width)))


def _speed(one: Expectation) -> str:
    value = one.tokens_per_second
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.2g}" if value < 9.95 else f"{value:.1f}"


def _note(report: FileReport) -> str:
    machine = report.machine
    if machine.read_bandwidth is None:
        return ""
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    bandwidth = byte_size(int(machine.read_bandwidth))
    speed = f"tokens/s: at most, by the {bandwidth}/s that {threads} read from memory just now"
    free = machine.available_memory
    return speed if free is None else f"{speed}; {byte_size(free)} of memory is available"


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[str, ...], width: int) -> None:
    """Print a table without a rule, after an empty line; on a narrow terminal one row below the other."""
    lines = table(header, rows, right)
    if width and max(map(len, lines)) > width:
        lines = stacked(header, rows, width)
    else:
        del lines[1]
    print("\n" + "\n".join(map(printable, lines)))
