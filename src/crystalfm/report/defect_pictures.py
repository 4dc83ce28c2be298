"""Pictures of designed defects: configurations from above, and targets against what a surrogate says."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Wedge
from matplotlib.ticker import MaxNLocator

from crystalfm.metrics.defects import quarter_score
from crystalfm.metrics.scores import unit_symbol, with_unit
from crystalfm.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, STYLE, VERMILLION, grid, save

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.chem.defects.rules import DefectRule
    from crystalfm.contracts import TargetSpec

_Half = Literal["full", "top", "bottom"]
_COLUMNS = (3, 4)
"""Panels side by side: the first of these that leaves no gap, else the first."""

_PANEL_INCHES = 3.0
_PAD_INCHES = 0.08
_LEGEND_COLUMNS = 3
_RULE_COLOURS = (VERMILLION, BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#F0E442", "#000000")
_HOST_COLOURS = ("#8f9aa3", "#cdd4d9", "#b3a58f", "#e0d8ca")
_BOND_COLOUR = "#dfe4e8"
_SAME_COLUMN_ANGSTROM = 0.2
_BOND_RATIO = 1.15
_LEAST_SPACING = 0.6
_HOST_RADIUS, _DEFECT_RADIUS = 0.19, 0.42
"""Radii of the drawn circles as shares of the distance of neighbouring columns of atoms."""

_HALF_SCALE = 1.25
"""Half circles are drawn this much larger."""

_TOP_DEGREES, _BOTTOM_DEGREES, _ALL_DEGREES = (0.0, 180.0), (180.0, 360.0), (0.0, 360.0)
_JITTER = 0.32
"""How far the points of one target are spread sideways, to be seen."""

_LEAST_OPACITY = 0.12
_LINE_POINTS = 9.5
_SCORES: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 7.5, "color": GREY}
"""Lines between a panel and its title."""


@dataclass(frozen=True, eq=False)
class _TopView:
    """A supercell seen along its third lattice vector.

    Attributes:
        points: (N, 2) place of each site, in angstrom.
        wedges: (N, 2) part of a circle that stands for each site, in degrees: the upper half for the upper of two
            atoms above each other, the lower half for the lower one, all of it where there is only one.
        spacing: smallest distance of two columns of atoms in angstrom, and no less than is good to look at.
        corners: (4, 2) corners of the cell.
        bonds: lines between neighbouring columns within the cell.
    """

    points: NDArray[np.float64]
    wedges: NDArray[np.float64]
    spacing: float
    corners: NDArray[np.float64]
    bonds: list[NDArray[np.float64]]

    @classmethod
    def of(cls, supercell: Supercell) -> _TopView:
        lattice = supercell.lattice
        coords = supercell.frac_coords - np.floor(supercell.frac_coords + 1e-9)
        points = coords[:, :2] @ lattice[:2, :2]
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        same = apart < _SAME_COLUMN_ANGSTROM
        heights = coords[:, 2] * lattice[2, 2]
        lengths = np.where(same, np.inf, np.hypot(apart, heights[:, None] - heights))
        bond = float(lengths.min()) if (~same).any() else 1.0
        spacing = max(float(apart[~same].min(initial=np.inf)), _LEAST_SPACING * bond)
        wedges = np.empty((len(points), 2))
        for site, column in enumerate(same):
            others = coords[column, 2]
            if len(others) == 1:
                wedges[site] = _ALL_DEGREES
            else:
                wedges[site] = _TOP_DEGREES if coords[site, 2] > others.mean() else _BOTTOM_DEGREES
        near = np.argwhere(np.triu(lengths < _BOND_RATIO * bond))
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]) @ lattice[:2, :2]
        return cls(points, wedges, spacing, corners, [points[pair] for pair in near])


def draw_configurations(
    configurations: Sequence[Configuration], supercell: Supercell, path: Path, *, titles: Sequence[str] | None = None
) -> Path:
    """Draw configurations from above, each shifted so that its defects are in the middle, and write a PNG.

    Vacancies are rings, other atoms are discs, each rule in a colour of its own; of two atoms above each other the
    upper one is the upper half.

    Args:
        configurations: at least one, all of this supercell.
        supercell: the supercell.
        path: file to write.
        titles: line above each; the combination of its defects by default.

    Returns:
        ``path``.
    """
    headings = [rule_label(item.type_name(supercell)) for item in configurations] if titles is None else list(titles)
    view = _TopView.of(supercell)
    rules = sorted({rule for item in configurations for rule in item.rules(supercell)})
    colours = {rule: _RULE_COLOURS[place % len(_RULE_COLOURS)] for place, rule in enumerate(rules)}
    most = next((number for number in _COLUMNS if len(configurations) % number == 0), _COLUMNS[0])
    columns = min(most, len(configurations))
    rows = math.ceil(len(configurations) / columns)
    extent = np.ptp(view.corners, axis=0)
    lines = max(heading.count("\n") for heading in headings) + 1
    height = _PANEL_INCHES * float(extent[1] / extent[0]) * 0.94 + 0.2 + 0.17 * lines
    with rc_context(STYLE):
        size = (_PANEL_INCHES * columns, height * rows + 0.75)
        layout = ConstrainedLayoutEngine(h_pad=_PAD_INCHES, w_pad=_PAD_INCHES)
        figure = Figure(figsize=size, layout=layout)
        panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for axes in panels:
            axes.set_axis_off()
        for axes, configuration, heading in zip(panels, configurations, headings, strict=False):
            _draw_panel(axes, centred(configuration, supercell), supercell, view, colours)
            axes.set_title(heading, fontsize=9)
        changed = [site for item in configurations for site, _ in item.defects]
        has_halves = bool((np.diff(view.wedges[changed]) < _ALL_DEGREES[1]).any())
        handles = _legend(supercell, colours, has_halves=has_halves)
        per_row = min(len(handles), _LEGEND_COLUMNS * columns)
        figure.legend(handles=handles, loc="outside lower center", ncols=per_row, fontsize=8)
        return save(figure, path)


def rule_label(text: str) -> str:
    """Return names of rules in a text as Kröger and Vink write them, with the site lowered."""
    return re.sub(r"\b(v|[A-Z][a-z]?)_([A-Z][a-z]?)\b", r"$\\mathrm{\1_{\2}}$", text)


def centred(configuration: Configuration, supercell: Supercell) -> Configuration:
    """Return the configuration translated by whole unit cells so that its defects are around the middle."""
    if not len(configuration):
        return configuration
    places = supercell.places[[site for site, _ in configuration.defects]]
    shifts = []
    for axis, size in ((1, supercell.size[0]), (2, supercell.size[1])):
        # The mean on a circle; where the defects are spread evenly around it there is none, and any shift will do.
        angle = np.angle(np.exp(2j * math.pi * places[:, axis] / size).sum())
        shifts.append(round(size / 2 - 0.5 - angle * size / (2 * math.pi)))
    moved = [
        (supercell.site(int(basis), int(column) + shifts[0], int(row) + shifts[1]), number)
        for (basis, column, row), (_, number) in zip(places, configuration.defects, strict=True)
    ]
    return type(configuration).of(moved)


def _draw_panel(
    axes: Axes,
    configuration: Configuration,
    supercell: Supercell,
    view: _TopView,
    colours: Mapping[DefectRule, str],
) -> None:
    axes.add_collection(LineCollection(view.bonds, colors=_BOND_COLOUR, linewidths=0.9, zorder=1))
    axes.add_patch(Polygon(view.corners, closed=True, fill=False, ec=GREY, lw=0.7, ls=(0, (4, 3)), zorder=1))
    host = _host_colours(supercell)
    changed = dict(configuration.defects)
    for site, (point, degrees) in enumerate(zip(view.points, view.wedges, strict=True)):
        if site not in changed:
            radius = _HOST_RADIUS * view.spacing
            colour = host[int(supercell.numbers[site])]
            axes.add_patch(Wedge(tuple(point), radius, *degrees, fc=colour, ec="none", zorder=2))
    rules = configuration.rules(supercell)
    for (site, _), rule in zip(configuration.defects, rules, strict=True):
        point, degrees, radius = view.points[site], view.wedges[site], _DEFECT_RADIUS * view.spacing
        if degrees[1] - degrees[0] < _ALL_DEGREES[1]:
            radius *= _HALF_SCALE
        axes.add_patch(_mark(tuple(point), radius, degrees, rule, colours[rule]))
    margin = view.spacing * _DEFECT_RADIUS + 0.2
    low, high = view.corners.min(axis=0) - margin, view.corners.max(axis=0) + margin
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")


def _mark(
    point: tuple[float, float], radius: float, degrees: NDArray[np.float64], rule: DefectRule, colour: str
) -> Wedge:
    first, last = degrees.tolist()
    if rule.added:
        return Wedge(point, radius, first, last, fc=colour, ec="black", lw=0.7, zorder=4)
    return Wedge(point, radius, first, last, fc="white", ec=colour, lw=1.7, zorder=4)


def _host_colours(supercell: Supercell) -> dict[int, str]:
    numbers = list(dict.fromkeys(supercell.numbers.tolist()))
    return {number: _HOST_COLOURS[place % len(_HOST_COLOURS)] for place, number in enumerate(numbers)}


def _legend(supercell: Supercell, colours: Mapping[DefectRule, str], *, has_halves: bool) -> list[Line2D]:
    def disc(label: str, face: str, edge: str, size: float, width: float = 0.7, half: _Half = "full") -> Line2D:
        return Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            label=label,
            markersize=size,
            markerfacecolor=face,
            markeredgecolor=edge,
            markeredgewidth=width,
            fillstyle=half,
        )

    names = dict(zip(_host_colours(supercell).values(), supercell.host.elements, strict=True))
    handles = [disc(name, colour, colour, 4.5) for colour, name in names.items()]
    for rule, colour in colours.items():
        label = rule_label(rule.name)
        handles.append(disc(label, colour, "black", 8) if rule.added else disc(label, "white", colour, 8, 1.7))
    if has_halves:
        handles += [disc("upper layer", GREY, GREY, 8, half="top"), disc("lower layer", GREY, GREY, 8, half="bottom")]
    return handles


@dataclass(frozen=True, eq=False)
class DesignedValues:
    """What was asked for and what came out, of one property.

    Attributes:
        target: the property and its unit.
        asked: (N,) value that each generated configuration was asked for.
        generated: (N,) what the surrogate says it has; NaN where it has none.
        random: (M,) the same of random configurations; empty where there are none.
    """

    target: TargetSpec
    asked: NDArray[np.float64]
    generated: NDArray[np.float64]
    random: NDArray[np.float64]


def design_plot(columns: Sequence[DesignedValues], tolerance: float, path: Path, *, title: str = "") -> Path:
    """Draw targets against values by the surrogate, more transparent the larger the error, and write a PNG.

    One panel a property. Where one value was asked for, random configurations stand beside the generated ones, spread
    sideways to be seen; where several were, the values asked for are the horizontal axis. The band is the tolerance.

    Args:
        columns: at least one property.
        tolerance: half the height of the band, in the properties' unit.
        path: PNG to write.
        title: line above the panels.

    Returns:
        ``path``.
    """
    with rc_context(STYLE):
        figure, panels = grid(len(columns), 3.7, 3.7)
        for axes, column in zip(panels, columns, strict=True):
            draw = _targets_panel if len(set(column.asked.tolist())) > 1 else _one_target_panel
            lines = draw(axes, column, tolerance)
            axes.text(0.5, 1.02, "\n".join(lines), transform=axes.transAxes, **_SCORES)
            axes.set_title(column.target.name, fontweight="bold", pad=8 + _LINE_POINTS * len(lines))
        if title:
            figure.suptitle(title, fontsize=10.5)
        return save(figure, path)


def _targets_panel(axes: Axes, column: DesignedValues, tolerance: float) -> list[str]:
    """Draw the talk's plot: what was asked for against what came out; return the lines above it."""
    known = np.isfinite(column.generated)
    asked, values = column.asked[known], column.generated[known]
    both = np.concatenate([column.asked, values])
    margin = 0.06 * float(np.ptp(both)) + tolerance
    limits = np.array([both.min() - margin, both.max() + margin])
    axes.fill_between(limits, limits - tolerance, limits + tolerance, color=GREEN, alpha=0.13, lw=0, zorder=1)
    axes.plot(limits, limits, color=GREY, lw=1.0, ls=(0, (5, 3)), zorder=1)
    axes.scatter(asked, values, s=14, color=_faded(BLUE, np.abs(values - asked)), linewidths=0, zorder=2)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(with_unit("target", column.target.unit))
    axes.set_ylabel(with_unit("surrogate", column.target.unit))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=True)
    return _score_lines(column)


def _one_target_panel(axes: Axes, column: DesignedValues, tolerance: float) -> list[str]:
    """Draw the values for one target, generated and random ones side by side; return the lines above it."""
    target = float(column.asked[0]) if column.asked.size else math.nan
    axes.axhspan(target - tolerance, target + tolerance, color=GREEN, alpha=0.13, lw=0, zorder=1)
    axes.axhline(target, color=GREY, lw=1.0, ls=(0, (5, 3)), zorder=1)
    groups = {"generated": (column.generated, BLUE), "random": (column.random, ORANGE)}
    shown = {name: group for name, group in groups.items() if len(group[0])}
    for place, (values, colour) in enumerate(shown.values()):
        known = values[np.isfinite(values)]
        faded = _faded(colour, np.abs(known - target))
        axes.scatter(place + _JITTER * _spread(len(known)), known, s=16, color=faded, linewidths=0, zorder=2)
    labels = [f"{name}\n{_hit_text(values, target, tolerance)}" for name, (values, _) in shown.items()]
    axes.set_xticks(range(len(shown)), labels)
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.set_ylabel(with_unit("surrogate", column.target.unit))
    axes.grid(visible=True, axis="y")
    heading = f"target {_number(target)} ± {_number(tolerance)} {unit_symbol(column.target.unit)}".rstrip()
    return [heading, *_score_lines(column)]


def _hit_text(values: NDArray[np.float64], target: float, tolerance: float) -> str:
    num_hits = int((np.abs(values - target) <= tolerance).sum())
    return f"{num_hits:,} of {len(values):,} within"


def _score_lines(column: DesignedValues) -> list[str]:
    """Return the scores of the generated configurations in full, and those of the best quarter."""
    score = quarter_score(column.asked, column.generated)
    symbol = unit_symbol(column.target.unit)
    full = f"all {score.num:,}: RMSE {_number(score.rmse)} {symbol}".rstrip()
    quarter = f"best quarter: RMSE25 {_number(score.rmse_25)} {symbol}".rstrip()
    if math.isfinite(score.r2):
        full += f", R² {score.r2:.3f}"
    if math.isfinite(score.r2_25):
        quarter += f", R²25 {score.r2_25:.3f}"
    return [full, quarter]


def _spread(count: int) -> NDArray[np.float64]:
    """Return (N,) places from -1 to 1 in a fixed order, so that the same samples give the same picture."""
    places: NDArray[np.float64] = np.random.default_rng(0).permutation(count) / max(count - 1, 1) * 2 - 1
    return places


def _faded(colour: str, errors: NDArray[np.float64]) -> list[tuple[float, float, float, float]]:
    """Return a colour for each error, opaque without an error, faintest at the largest one."""
    largest = float(errors.max(initial=0.0)) or 1.0
    opacities = 1.0 - (1.0 - _LEAST_OPACITY) * np.sqrt(errors / largest)
    return [to_rgba(colour, alpha) for alpha in opacities.tolist()]


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"
