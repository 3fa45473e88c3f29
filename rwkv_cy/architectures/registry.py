"""Which version of RWKV a file holds, told from the names and shapes of its tensors alone."""

from __future__ import annotations

from rwkv_cy.architectures.base import Architecture, Shapes
from rwkv_cy.architectures.relatives import RELATIVES, Relative, lines
from rwkv_cy.architectures.rwkv4 import RWKV4
from rwkv_cy.architectures.rwkv5 import RWKV5
from rwkv_cy.architectures.rwkv6 import RWKV6
from rwkv_cy.architectures.rwkv7 import RWKV7
from rwkv_cy.architectures.rwkv7a import RWKV7a
from rwkv_cy.architectures.rwkv8_rc00 import RWKV8rc00
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, SpecError, UnsupportedError
from rwkv_cy.records import replace

__all__ = ["ARCHITECTURES", "architecture_of", "check_parameters", "detect", "register", "version_label"]

#: Every version that this package runs, by name. The last that matches wins.
ARCHITECTURES: dict[str, Architecture] = {}

#: A SpecError names so many tensors of a kind, and counts the rest.
_NAMED = 20
#: A file of one small tensor for each of many layers would take a table many times its own size to be compared with:
#: such a table is made only up to so many lines for each tensor of the file, and some for files of few.
_RICH, _POOR = 4, 10_000


def register(architecture: Architecture) -> None:
    """Add a version, or replace the one of its name: from then on its models are detected, loaded and converted."""
    ARCHITECTURES[architecture.name] = architecture


for _architecture in (
    RWKV4(),
    RWKV5(0, gate=False, by_channel=False),
    RWKV5(1, gate=True, by_channel=False),
    RWKV5(2, gate=True, by_channel=True),
    RWKV6(),
    RWKV7(),
    RWKV7a(),
    RWKV8rc00(),
):
    register(_architecture)


def architecture_of(config: Config) -> Architecture:
    """Return the architecture that the config names.

    Raises
    ------
    ConfigError
        If none of that name is registered.
    """
    try:
        return ARCHITECTURES[config.architecture]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"Config.architecture: expected one of {known}, got {config.architecture!r}") from None


def _find(shapes: Shapes) -> Architecture | Relative | None:
    """Return what the tensors are: a relative, which may vary a supported version, before that version."""
    names = lines(shapes)
    relative = next((relative for relative in RELATIVES if relative.matches(shapes, names)), None)
    supported = reversed(ARCHITECTURES.values())
    return relative or next((architecture for architecture in supported if architecture.matches(shapes)), None)


def version_label(shapes: Shapes) -> str | None:
    """Return the name of what the tensors are, supported or not; None where nothing is recognised."""
    found = _find(shapes)
    return None if found is None else found.label


def detect(shapes: Shapes, where: str) -> Config:
    """Return the Config of the model whose tensors have these names and shapes.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Canonical names and shapes.
    where : str
        The file, for messages.

    Raises
    ------
    UnsupportedError
        If this is a kind of model that the package recognises but does not run, or does not recognise.
    SpecError
        If a tensor that gives a dimension is missing or of the wrong shape.
    """
    supported = ", ".join(architecture.label for architecture in ARCHITECTURES.values())
    found = _find(shapes)
    if found is None:
        some = ", ".join(sorted(shapes)[:3]) or "none"
        raise UnsupportedError(
            f"{where}: expected the parameters of an RWKV model ({supported}), found tensors such as {some}"
        )
    if isinstance(found, Relative):
        raise UnsupportedError(f"{where}: expected a model of {supported}, found {found.label}, {found.reason}")
    return found.config(shapes, where)


def check_parameters(config: Config, shapes: Shapes, where: str) -> None:
    """Hold the tensors of a file against the parameter table of its architecture.

    Raises
    ------
    SpecError
        Naming everything that is missing, unexpected or of the wrong shape, at once.
    """
    architecture = architecture_of(config)
    table = config.num_layers * len(architecture.parameters(replace(config, num_layers=1)))
    if table > _RICH * len(shapes) + _POOR:
        raise SpecError(
            f"{where}: expected about {table} parameters for {config.num_layers} layers, got {len(shapes)}; "
            "the file is not a whole, unchanged model"
        )
    specs = architecture.parameters(config)
    expected = {spec.name: spec.shape for spec in specs}
    optional = {spec.name for spec in specs if spec.optional}
    if shapes.items() <= expected.items() and expected.keys() - shapes.keys() <= optional:
        return
    problems = [
        *(f"missing {name} {shape}" for name, shape in expected.items() if name not in shapes and name not in optional),
        *(f"unexpected {name} {shape}" for name, shape in shapes.items() if name not in expected),
        *(
            f"{name}: expected shape {shape}, got {tuple(shapes[name])}"
            for name, shape in expected.items()
            if name in shapes and tuple(shapes[name]) != tuple(shape)
        ),
    ]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise SpecError(f"{where}: {'; '.join(problems[:_NAMED])}{more}; the file is not a whole, unchanged model")
