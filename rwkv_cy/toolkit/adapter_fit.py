"""Fitting an adapter to a model: what each of its tensors changes, told from names and shapes.

The names are those of RWKV-PEFT (merge/*.py of its repository, before and after DiSHA) and of web-rwkv.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.errors import ConfigError, SpecError
from rwkv_cy.records import dataclass
from rwkv_cy.toolkit.adapters import AdapterFile, AdapterTensor, Bat, Bone, Change, Factors, LowRank, Whole

__all__ = ["AdapterOptions", "Shapes", "fit"]

Shapes = Mapping[str, tuple[int, ...]]

#: An error names so many tensors, and counts the rest.
_NAMED = 20
#: What is wrong with a whole tensor of a file.
_EXPECTED: Mapping[AdapterFile, str] = {
    "adapter": "fits no parameter of the model",
    "initial": "expected factors init_lora_A and init_lora_B",
    "state": "expected states of the model (att.time_state)",
}
_SUFFIX = re.compile(
    r"(?P<module>.+)\.(?:(?P<init>init_)?lora_(?P<factor>[AB])(?:\.default)?(?:\.weight)?|lora\.(?P<number>[01])"
    r"|(?P<blocks>disha|bone))"
)


@dataclass(frozen=True)
class AdapterOptions:
    """What an adapter's file does not tell.

    Attributes
    ----------
    alpha : float or None
        LoRA's product is scaled by ``alpha / rank``; None for PiSSA, and without such factors.
    weight : float
        Share of whole tensors: 1 replaces those of the base.
    bone_blocks : {"rows", "columns"} or None
        Which blocks the matrices of older bone files belong to, where their shapes do not tell.
    """

    alpha: float | None = None
    weight: float = 1.0
    bone_blocks: Literal["rows", "columns"] | None = None


def fit(
    specs: Mapping[str, ParameterSpec],
    files: Mapping[AdapterFile, Shapes],
    options: AdapterOptions,
    where: str,
) -> dict[str, Change]:
    """Return what the adapter changes in each parameter, by canonical name.

    Parameters
    ----------
    specs : mapping of str to ParameterSpec
        All parameters that the model's version has, whether the model has them or not.
    files : mapping of str to (mapping of str to tuple of int)
        Names and shapes in the adapter's files, by what they are.
    options : AdapterOptions
    where : str
        The adapter's file, for messages.

    Raises
    ------
    SpecError
        Naming every tensor that fits nowhere, fits in two ways, or lacks its other factor, at once.
    ConfigError
        If `alpha` is missing for LoRA factors, or given where nothing is scaled.
    """
    return _Fitting(specs, options, "initial" in files).fit(files, where)


class _Fitting:
    """Assigns the tensors of an adapter to parameters, and collects what is wrong."""

    def __init__(self, specs: Mapping[str, ParameterSpec], options: AdapterOptions, pissa: bool) -> None:
        self._specs, self._options, self._pissa = specs, options, pissa
        self._changes: dict[str, Change] = {}
        self._factors: dict[tuple[str, bool], dict[str, tuple[AdapterTensor, tuple[int, ...]]]] = {}
        self._stored_transposed: set[str] = set()
        self._problems: list[str] = []

    def fit(self, files: Mapping[AdapterFile, Shapes], where: str) -> dict[str, Change]:
        """Return the changes by parameter."""
        for file, shapes in files.items():
            for name, shape in shapes.items():
                self._place(AdapterTensor(name, file), shape)
        self._pair()
        if self._problems:
            more = f"; and {len(self._problems) - _NAMED} more" if len(self._problems) > _NAMED else ""
            raise SpecError(
                f"{where}: {'; '.join(self._problems[:_NAMED])}{more}; "
                "expected an adapter of this model's version and size"
            )
        self._check_alpha(any(isinstance(change, LowRank) for change in self._changes.values()))
        return self._changes

    def _place(self, tensor: AdapterTensor, shape: tuple[int, ...]) -> None:
        match = _SUFFIX.fullmatch(tensor.name)
        if match is None or tensor.file == "state":
            self._whole(tensor, shape)
            return
        initial = tensor.file == "initial"
        spec = self._matrix(match["module"])
        if spec is None or initial != bool(match["init"]):
            self._problems.append(f"{tensor.name} {shape}: {_EXPECTED[tensor.file] if initial else 'fits no matrix'}")
        elif match["blocks"]:
            self._blocks(spec, tensor, shape, match["blocks"])
        else:
            factor = match["factor"] or "AB"[int(match["number"])]
            if match["number"]:
                self._stored_transposed.add(spec.name)
            pair = self._factors.setdefault((spec.name, initial), {})
            if factor in pair:
                self._problems.append(
                    f"{tensor.name} and {pair[factor][0].name}: both are factor {factor} of {spec.name}"
                )
            pair[factor] = (tensor, shape)

    def _matrix(self, module: str) -> ParameterSpec | None:
        """Return the matrix that an adapter's module stands for: its name with ``.weight`` or without."""
        found = self._specs.get(f"{module}.weight", self._specs.get(module))
        usable = found is not None and len(found.shape) == 2 and found.orientation == "out_in"
        return found if usable else None

    def _add(self, parameter: str, change: Change) -> None:
        if parameter in self._changes:
            names = ", ".join(tensor.name for each in (self._changes[parameter], change) for tensor in each.tensors)
            self._problems.append(f"{names}: change {parameter} in two ways")
        self._changes[parameter] = change

    def _whole(self, tensor: AdapterTensor, shape: tuple[int, ...]) -> None:
        spec = self._specs.get(tensor.name)
        if spec is None or tensor.file == "initial" or (tensor.file == "state" and spec.kind != "state"):
            self._problems.append(f"{tensor.name} {shape}: {_EXPECTED[tensor.file]}")
        elif spec.shape != shape:
            self._problems.append(f"{tensor.name}: expected shape {spec.shape}, got {shape}")
        else:
            # A state has no counterpart in most models: nothing to interpolate with.
            weight = 1.0 if spec.kind == "state" else self._options.weight
            self._add(spec.name, Whole(tensor, shape, weight))

    def _blocks(self, spec: ParameterSpec, tensor: AdapterTensor, shape: tuple[int, ...], suffix: str) -> None:
        """Add DiSHA (modes bone and bat), or one of the forms that came before it."""
        rows, columns = spec.shape
        forms: dict[str, Change] = {}
        if len(shape) == 2 and shape[1] == rows and shape[0] <= columns:
            forms["bone"] = Bone(tensor, f"{suffix} (bone)")
        square = len(shape) == 3 and shape[1] == shape[2] and not (rows % shape[1] or columns % shape[1])
        if square and shape[0] * shape[1] == columns:
            forms["columns"] = Bat(tensor, shape[1], False, f"{suffix} (bat)")
        if suffix == "bone":
            if square and shape[0] * shape[1] == rows:
                forms["rows"] = Bat(tensor, shape[1], True, "bone (bat by rows)")
            if len(shape) == 2 and shape[0] == rows and not (rows % shape[1] or columns % shape[1]):
                forms["rows"] = Bat(tensor, shape[1], True, "bone (bat by rows)")
        chosen = self._options.bone_blocks
        if len(forms) > 1 and chosen in forms:
            forms = {chosen: forms[chosen]}
        if len(forms) == 1:
            self._add(spec.name, next(iter(forms.values())))
        elif forms:
            self._problems.append(
                f"{tensor.name} {shape}: ambiguous for {spec.name} {spec.shape}: its blocks may be those of rows or of "
                "columns; choose with bone_blocks= (--bone-blocks rows or columns)"
            )
        else:
            self._problems.append(f"{tensor.name} {shape}: does not fit {spec.name} {spec.shape}")

    def _pair(self) -> None:
        """Make changes of the pairs of factors."""
        trained = {parameter: None for parameter, initial in self._factors if not initial}
        for parameter in trained:
            products = [self._product(parameter, initial=False)]
            if self._pissa:
                products.append(self._product(parameter, initial=True))
            usable = tuple(product for product in products if product is not None)
            if usable:
                self._add(parameter, LowRank(usable, "PiSSA" if self._pissa else "LoRA"))
        for parameter, initial in self._factors:
            if initial and parameter not in trained:
                self._problems.append(f"{parameter}: initial factors without trained ones in the adapter")

    def _check_alpha(self, trained: bool) -> None:
        alpha = self._options.alpha
        if alpha is not None and (self._pissa or not trained):
            reason = "PiSSA is not scaled" if self._pissa else "the adapter has no LoRA factors"
            raise ConfigError(f"alpha: expected none, since {reason}; leave it out")
        if trained and alpha is None and not self._pissa:
            raise ConfigError(
                "alpha: expected the lora_alpha of the training, which a LoRA file does not hold; pass alpha= "
                "(--alpha; 32 unless it was chosen), or, for a PiSSA adapter, its initial factors with init= (--init)"
            )

    def _product(self, parameter: str, initial: bool) -> Factors | None:
        """Return the product of a pair of factors; a problem where they do not fit."""
        pair = self._factors.get((parameter, initial), {})
        rows, columns = self._specs[parameter].shape
        missing = [factor for factor in "AB" if factor not in pair]
        kind = "initial factor" if initial else "factor"
        if missing:
            self._problems.append(f"{parameter}: {kind} {' and '.join(missing)} missing")
            return None
        (a, a_shape), (b, b_shape) = pair["A"], pair["B"]
        rank = b_shape[-1] if b_shape else 0
        fits = {False: a_shape == (rank, columns), True: a_shape == (columns, rank)}
        if parameter not in self._stored_transposed:
            fits[True] = False
        if b_shape != (rows, rank) or not any(fits.values()):
            self._problems.append(
                f"{a.name} {a_shape} and {b.name} {b_shape}: do not fit {parameter} {(rows, columns)}"
            )
            return None
        if all(fits.values()):
            self._problems.append(f"{a.name} {a_shape}: ambiguous, since its rank is its number of inputs")
            return None
        alpha = self._options.alpha
        scale = -1.0 if initial else 1.0 if alpha is None else alpha / rank
        return Factors(a, b, scale, fits[True])
