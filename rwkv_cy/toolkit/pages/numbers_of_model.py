"""Sections of a model's page that draw its numbers: decay, other curves, histograms, sizes of weights, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures.curves import Role
from rwkv_cy.toolkit.pages.axes import NAMES, channel_labels, layer_labels, name_labels, thinned
from rwkv_cy.toolkit.pages.charts import Colours, band, bar, colours_of, heat_map, histogram, layer_line
from rwkv_cy.toolkit.pages.markup import Child, Markup, element
from rwkv_cy.toolkit.pages.numbers import count, number, percent, plural
from rwkv_cy.toolkit.pages.skeleton import Table, section
from rwkv_cy.toolkit.pages.svg import figure
from rwkv_cy.toolkit.survey import COLUMNS, Group, LayerMap, Survey

__all__ = [
    "curve_picture",
    "curves",
    "decay",
    "half_life_picture",
    "histogram_picture",
    "histograms",
    "ranks",
    "size_picture",
    "sizes",
]

Array = npt.NDArray[np.float64]

#: Headings of the curves by their role, but for decays, and what they mean.
_ROLES: dict[Role, tuple[str, str]] = {
    "mix": (
        "Token shift",
        "What part of each input comes from the token before: 0 is the current token alone, 1 the previous one alone.",
    ),
    "bonus": ("Bonus of the current token", "How much the current token counts beside the state."),
    "rate": ("Rates by channel", "Other factors of the time mix, by channel or head."),
    "other": ("Normalisation and other vectors", "As the file has them."),
}
#: Shares are drawn with the same colours everywhere.
_SHARES = Colours(0.0, 1.0, "s")
#: Half-lives that are shown, in tokens.
_SHORTEST, _LONGEST = 0.1, 1e6
_BINS = 61
#: Histograms reach so far that this share of the numbers is within them.
_WITHIN = 0.999


def curve_picture(curve_map: LayerMap) -> Markup:
    """Return the heat map of a vector by layer and channel."""
    values = curve_map.values
    rows = layer_labels(curve_map.layers, values.shape[0])
    if len(curve_map.quantiles) == 1:  # a vector of one layer alone, as ln0
        values = values[~np.isnan(values).all(axis=1)]
        rows = [(0.5, str(*curve_map.quantiles))]
    shares = curve_map.curve.role == "mix"
    return heat_map(
        values,
        _SHARES if shares else colours_of(values),
        f"{curve_map.curve.name} by layer and channel",
        f"{curve_map.curve.meaning}; {plural(curve_map.layers, 'layer')} from top to bottom, "
        f"{plural(curve_map.channels, curve_map.curve.element)} from left to right, from {number(curve_map.low)} to "
        f"{number(curve_map.high)}.",
        rows=rows,
        columns=channel_labels(curve_map.channels, values.shape[1]),
        below=curve_map.curve.element,
    )


def _curve_figure(curve_map: LayerMap) -> Markup:
    curve = curve_map.curve
    missing = f"; {plural(curve_map.skipped, 'layer')} of another length left out" if curve_map.skipped else ""
    caption = f"{_with_signs(curve.meaning)}; {number(curve_map.low)} to {number(curve_map.high)}{missing}"
    return figure(curve.name, caption, curve_picture(curve_map))


def _with_signs(formula: str) -> str:
    """Return a text whose formulas have minus signs, after which no line ends, in place of hyphens."""
    return formula.replace("(-", "(\N{MINUS SIGN}").replace(" - ", " \N{MINUS SIGN} ")


def decay(survey: Survey) -> Markup | None:
    """Return the section of decays: their curves, and half-lives by layer."""
    maps = [found for found in survey.maps.values() if found.curve.role == "decay" and found.quantiles]
    if not maps:
        return None
    pictures: list[Child] = []
    for found in maps:
        pictures.append(_curve_figure(found))
        lives = half_life_picture(found)
        if lives is not None:
            caption = "tokens until half of a channel's state has decayed: median, and middle 50 % and 90 % of channels"
            pictures.append(figure("Half-life by layer", caption, lives))
    text = (
        "At each token a channel of the state is multiplied by its decay. Channels near 1 remember long, "
        "channels near 0 see little but the current token."
    )
    return section("Decay", element("p", text), element("div", *pictures, class_="pictures"))


def half_life_picture(curve_map: LayerMap) -> Markup | None:
    """Return the half-lives of the channels by layer; None if no layer has decays."""
    rows = []
    for layer, quantiles in thinned(curve_map.quantiles, curve_map.layers):
        rows.append((layer, [_half_life(value) for value in quantiles]))
    if not rows:
        return None
    medians = [values[2] for _, values in rows]
    description = (
        f"Tokens until half of a channel's state has decayed, by layer: medians from {number(min(medians))} to "
        f"{number(max(medians))} tokens, with bands of the middle 50 and 90 percent of the channels."
    )
    return band(rows, curve_map.layers, "Half-life by layer", description, "tokens")


def _half_life(factor: float) -> float:
    """Return after how many tokens half of the state is left, within the bounds of the picture."""
    if factor >= 1:
        return _LONGEST
    if factor <= 0:
        return _SHORTEST
    return min(max(math.log(0.5) / math.log(factor), _SHORTEST), _LONGEST)


def curves(survey: Survey) -> list[Markup]:
    """Return a section for each role of curves but decays."""
    sections = []
    for role, (title, text) in _ROLES.items():
        maps = [found for found in survey.maps.values() if found.curve.role == role and found.quantiles]
        if maps:
            pictures = element("div", *map(_curve_figure, maps), class_="pictures")
            sections.append(section(title, element("p", text), pictures))
    return sections


def histograms(survey: Survey) -> Markup | None:
    """Return the section of histograms of the weights, one for each group."""
    pictures = []
    for name, group in survey.groups.items():
        numbers = group.histogram
        if numbers.size <= numbers.zeros:
            continue
        zeros = f"; {percent(numbers.zeros / numbers.size)} are zero" if numbers.zeros else ""
        reach = numbers.reach(_WITHIN)
        caption = (
            f"{count(group.parameters)} numbers; {percent(_WITHIN)} within \N{PLUS-MINUS SIGN}{number(reach, 2)}, "
            f"the largest {number(numbers.largest)}{zeros}"
        )
        pictures.append(figure(name, caption, histogram_picture(name, group)))
    if not pictures:
        return None
    text = f"Distribution of the numbers in each group, up to the magnitude that {percent(_WITHIN)} do not exceed."
    return section("Weights", element("p", text), element("div", *pictures, class_="pictures"))


def histogram_picture(name: str, group: Group) -> Markup:
    """Return the histogram of a group of tensors."""
    reach = group.histogram.reach(_WITHIN)
    counts = group.histogram.counts(np.linspace(-reach, reach, _BINS + 1))
    half = group.histogram.reach(0.5)
    description = (
        f"Distribution of {count(group.parameters)} numbers; half of them are within plus or minus {number(half)}, "
        f"{percent(_WITHIN)} within {number(reach)}."
    )
    return histogram(counts, reach, f"Histogram of {name}", description)


def sizes(survey: Survey) -> Markup | None:
    """Return the section of the sizes of weights by layer: one line for each matrix."""
    parts: list[Child] = []
    for kind, title in (("matrix", "Matrices"), ("low_rank", "Low-rank factors")):
        kinds = {place.member: place.kind for place in survey.places.values()}
        members = {name: by_layer for name, by_layer in survey.sizes.items() if kinds[name] == kind}
        high = max((value for by_layer in members.values() for value in by_layer.values()), default=0.0)
        if not high > 0:
            continue
        pictures = [
            figure(name, _range(by_layer), size_picture(name, by_layer, survey.layers, high * 1.05))
            for name, by_layer in members.items()
        ]
        parts += [element("h3", title), element("div", *pictures, class_="pictures small")]
    if not parts:
        return None
    text = "Root mean square of the numbers of each matrix, by layer; the charts of a group share one scale."
    return section("Size of weights by layer", element("p", text), *parts)


def _range(by_layer: Mapping[int, float]) -> str:
    return f"{number(min(by_layer.values()))} to {number(max(by_layer.values()))}"


def size_picture(name: str, by_layer: Mapping[int, float], layers: int, high: float | None = None) -> Markup:
    """Return the root mean square of a matrix by layer, on a scale up to `high`, or up to a bit above the largest."""
    points = {layer: values[0] for layer, values in thinned({i: (v,) for i, v in by_layer.items()}, layers)}
    top = 1.05 * max(by_layer.values()) if high is None else high
    description = f"Root mean square by layer, {_range(by_layer)}."
    return layer_line(points, layers, top, f"Size of {name} by layer", description)


def ranks(survey: Survey) -> Markup | None:
    """Return the section of the effective ranks of low-rank factors."""
    if not survey.ranks:
        return None
    names = list(survey.ranks)
    columns = min(survey.layers, COLUMNS)
    sums, counts = np.zeros((len(names), columns)), np.zeros((len(names), columns))
    rows: list[Sequence[Child]] = []
    for row, by_layer in enumerate(survey.ranks.values()):
        for layer, (effective, nominal) in by_layer.items():
            column = layer * columns // survey.layers
            sums[row, column] += effective / nominal
            counts[row, column] += 1
        effectives = [effective for effective, _ in by_layer.values()]
        shares = [effective / nominal for effective, nominal in by_layer.values()]
        nominals = sorted({round(nominal) for _, nominal in by_layer.values()})
        mean = sum(shares) / len(shares)
        rows.append(
            (
                element("code", names[row]),
                ", ".join(map(str, nominals[:3])),
                *(f"{value:.1f}" for value in (min(effectives), sum(effectives) / len(effectives), max(effectives))),
                percent(mean),
                bar(mean),
            )
        )
    with np.errstate(invalid="ignore"):
        values = sums / counts
    picture = heat_map(
        values,
        _SHARES,
        "Effective rank of low-rank factors by layer",
        f"Effective rank as a share of the nominal one; {plural(len(names), 'factor')} from top to bottom, "
        f"{plural(survey.layers, 'layer')} from left to right.",
        rows=name_labels(names),
        columns=layer_labels(survey.layers, columns),
        below="layer",
        left=NAMES,
        beside="",
    )
    header = ("factor", "rank", "least", "mean", "largest", "share", "")
    numeric = frozenset(header[1:6])
    table = Table(header, numeric, frozenset(header[6:])).render("Effective ranks", rows)
    text = (
        "Effective rank: the exponential of the entropy of the energies of the singular values. It is the nominal rank "
        "where all singular values are equal, and near 1 where one of them dominates."
    )
    shown = figure("Effective rank as a share of the nominal one", None, picture, "wide")
    return section("Low ranks", element("p", text), element("div", shown, class_="pictures"), table)
