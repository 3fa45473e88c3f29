"""What an inspection reports of a model file: plain values, under the names that they have in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy.config import Config
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.toolkit.schema_names import named

if TYPE_CHECKING:
    from rwkv_cy.tensors.statistics import TensorStatistics

__all__ = ["Expectation", "FileReport", "GroupReport", "Machine", "TensorReport"]


@dataclass(frozen=True)
class TensorReport:
    """One tensor of a file.

    Attributes
    ----------
    name : str
        Canonical name.
    shape : tuple of int
        Canonical shape.
    dtype : str
        Type in the file (``"bf16"``, ``"q5_1"``).
    nbytes : int
        Bytes in the file.
    source_name : str
        The name in the file.
    statistics : TensorStatistics or None
        Statistics of its numbers, if requested.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    source_name: str
    statistics: TensorStatistics | None


@dataclass(frozen=True)
class GroupReport:
    """All tensors of one kind.

    Attributes
    ----------
    kind : str
        ``"embedding"``, ``"matrix"``, ``"low_rank"``, ``"vector"``, ``"table"``, ``"state"`` or ``"head"``, as the
        architecture has them; ``"other"`` for tensors that it does not have, and in files that are not a whole model.
    tensors : int
        Number of tensors.
    parameters : int
        Numbers in them.
    nbytes : int
        Bytes in the file.
    dtypes : dict of str to int
        How many tensors there are of each type in the file.
    """

    kind: str
    tensors: int
    parameters: int
    nbytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True)
class Expectation:
    """What a model needs, and how fast it can be, when it is loaded in one type.

    Attributes
    ----------
    dtype : str or None
        The type of the matrices; None if it is loaded without naming a type.
    memory_bytes : int
        Of the parameters in memory, without tables.
    token_bytes : int
        Memory that decode reads and writes for a token: matrices and low-rank factors once, the state twice.
    fits : bool or None
        Whether the machine has that much memory available; None if the system does not report it.
    tokens_per_second : float or None
        The most that decode can reach: the read bandwidth over `token_bytes`. None if the bandwidth is not known, or
        the model does not fit.
    """

    dtype: str | None
    memory_bytes: int
    token_bytes: int
    fits: bool | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class Machine:
    """The machine that a report is made on.

    Attributes
    ----------
    threads : int
        The default number of threads.
    available_memory : int or None
        Bytes available without swapping; None if the system does not report them.
    read_bandwidth : float or None
        Bytes a second that these threads read from memory, from a quick sample; None if there was none.
    """

    threads: int
    available_memory: int | None
    read_bandwidth: float | None


@dataclass(frozen=True)
class FileReport:
    """Description of a model file.

    Attributes
    ----------
    path : Path
    format : str
        ``"hdf5"``, ``"pth"``, ``"safetensors"``, ...
    files : int
        Number of files with the weights.
    architecture : str or None
        Label of the version of RWKV, whether it is supported or not; None if unknown.
    size_name : str
        The number of parameters, for people: ``"13.3B"``, ``"169M"``.
    config : Config or None
        Dimensions; None if they cannot be determined, or the version is not supported.
    num_parameters : int
        Numbers in all tensors.
    num_tensors : int
    dtypes : dict of str to int
        How many tensors there are of each type.
    groups : tuple of GroupReport
        The tensors by kind.
    bytes_on_disk : int
        Size of the file, or of all shards.
    bytes_in_memory : int
        Of the parameters when loaded without another type, without tables.
    table_bytes : int
        Of tables in which layers look tokens up. They stay in the file, and a token reads one row of each.
    state_bytes : int or None
        Of the state of one sequence; None if `config` is None.
    expected : tuple of Expectation
        Memory and speed when loaded as the file is, and as f32, bf16, q8, q6 and q4; empty if the file cannot be
        loaded.
    machine : Machine
        The machine for which `expected` is.
    tokenizer : str or None
        The tokenizer in a model file; for other formats, the one that loading would use.
    fingerprint : str or None
        Of a model file, which its states carry.
    created_by : str or None
        The program that wrote a model file.
    source : dict of str to str
        The checkpoint that a model file was converted from: name, format, sha256, size.
    metadata : dict of str to str
        Other metadata of a foreign file.
    tensors : tuple of TensorReport
        Those requested, in the file's order.
    left_out : dict of str to str
        Other tensors of the file, which no model can have, by name: type and shape.
    warnings : tuple of str
        What a user should know of the file, one sentence each.
    problems : tuple of str
        Reasons why it cannot be loaded, one sentence each; empty for a valid model.
    """

    path: Path
    format: str
    files: int
    architecture: str | None
    size_name: str
    config: Config | None
    num_parameters: int
    num_tensors: int
    dtypes: dict[str, int]
    groups: tuple[GroupReport, ...]
    bytes_on_disk: int
    bytes_in_memory: int
    table_bytes: int
    state_bytes: int | None
    expected: tuple[Expectation, ...]
    machine: Machine
    tokenizer: str | None
    fingerprint: str | None
    created_by: str | None
    source: dict[str, str]
    metadata: dict[str, str]
    tensors: tuple[TensorReport, ...]
    left_out: dict[str, str]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of the parameters when loaded in each type, by its name."""
        return {one.dtype: one.memory_bytes for one in self.expected if one.dtype is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON, as docs/json.md describes them."""
        return named("inspect", {**asdict(self), "path": str(self.path)})
