"""Figures of judged crystals: shares, distributions beside the reference's, energies above the hull."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from crystalfm.metrics.crystals.histograms import density_histogram, num_elements_histogram
from crystalfm.metrics.crystals.symmetry import CRYSTAL_SYSTEMS
from crystalfm.metrics.stability.sun import METASTABLE_EV_PER_ATOM
from crystalfm.report.figures import BLUE, GREEN, GREY, ORANGE, STYLE, VERMILLION, grid, save

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal
    from crystalfm.metrics.crystals.counts import Share
    from crystalfm.metrics.crystals.symmetry import SymmetryHistogram

HULL_EDGES: Sequence[float] = tuple(round(0.05 * place, 2) for place in range(-12, 25))
"""Borders of the bins of energies above the hull, in eV/atom."""

_ROOM_FOR_LABELS = 1.28


def shares_plot(groups: Sequence[Mapping[str, Share]], path: Path, *, title: str = "") -> Path:
    """Draw shares as bars, each labelled with its counts, and write a PNG.

    Args:
        groups: shares by name, in groups of one colour.
        path: PNG to write.
        title: line above the bars.

    Returns:
        ``path``.
    """
    bars = [
        (name, share, colour)
        for group, colour in zip(groups, (BLUE, GREEN, ORANGE), strict=False)
        for name, share in group.items()
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.3 * len(bars)), layout="constrained")
        axes = figure.subplots()
        positions = np.arange(len(bars))[::-1]
        fractions = [share.fraction if share.total else 0.0 for _, share, _ in bars]
        axes.barh(positions, fractions, height=0.7, color=[colour for _, _, colour in bars])
        for position, fraction, (_, share, _) in zip(positions, fractions, bars, strict=True):
            axes.annotate(
                f"{fraction:.1%}  ({share.count:,} of {share.total:,})",
                (fraction, position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(positions, [name for name, _, _ in bars])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, _ROOM_FOR_LABELS)
        axes.set_ylim(-0.6, len(bars) - 0.4)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(visible=True, axis="x")
        if title:
            axes.set_title(title)
        return save(figure, path)


def distributions_plot(
    samples: Sequence[Crystal],
    reference: Sequence[Crystal],
    symmetry: SymmetryHistogram,
    reference_symmetry: SymmetryHistogram,
    path: Path,
    *,
    title: str = "",
) -> Path:
    """Draw densities, numbers of elements and crystal systems of samples beside those of the reference.

    Args:
        samples: valid samples.
        reference: reference crystals.
        symmetry: crystal systems of the structurally valid samples.
        reference_symmetry: those of the reference.
        path: PNG to write.
        title: line above the panels.

    Returns:
        ``path``.
    """
    with rc_context(STYLE):
        figure, panels = grid(3, 3.2, 2.9)
        _density_panel(panels[0], samples, reference)
        _elements_panel(panels[1], samples, reference)
        _symmetry_panel(panels[2], symmetry, reference_symmetry)
        handles, labels = panels[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        if title:
            figure.suptitle(title, fontsize=10.5)
        return save(figure, path)


def _density_panel(axes: Axes, samples: Sequence[Crystal], reference: Sequence[Crystal]) -> None:
    found = density_histogram(samples, reference)
    for counts, filled in ((found.reference, True), (found.samples, False)):
        if sum(counts):
            shares = np.array(counts) / sum(counts)
            axes.stairs(
                shares, found.edges, fill=filled, color=GREY if filled else BLUE, alpha=0.35 if filled else 1.0, lw=1.6
            )
    axes.set_title("density", fontweight="bold")
    axes.set_xlabel("g/cm³ (the last bin holds what is above)")
    axes.set_ylabel("share of crystals")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y")


def _elements_panel(axes: Axes, samples: Sequence[Crystal], reference: Sequence[Crystal]) -> None:
    found = num_elements_histogram(samples, reference)
    shares = [np.array(counts) / max(sum(counts), 1) for counts in (found.samples, found.reference)]
    _paired_bars(axes, [str(number) for number in range(1, len(found.samples) + 1)], *shares)
    axes.set_title("number of elements", fontweight="bold")


def _symmetry_panel(axes: Axes, ours: SymmetryHistogram, theirs: SymmetryHistogram) -> None:
    shares = [
        np.array([found.systems.get(name, 0) for name in CRYSTAL_SYSTEMS]) / max(found.num_known, 1)
        for found in (ours, theirs)
    ]
    _paired_bars(axes, list(CRYSTAL_SYSTEMS), *shares)
    axes.set_title(f"crystal system (within {ours.symprec_angstrom:g} Å)", fontweight="bold")
    axes.tick_params(axis="x", labelrotation=45)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")


def _paired_bars(axes: Axes, names: Sequence[str], ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> None:
    positions = np.arange(len(names))
    axes.bar(positions - 0.2, ours, width=0.4, color=BLUE, label="samples")
    axes.bar(positions + 0.2, theirs, width=0.4, color=GREY, alpha=0.5, label="reference")
    axes.set_xticks(positions, names)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=True, axis="y")


def hull_plot(energies: Sequence[float], num_judged: int, path: Path, *, title: str = "") -> Path:
    """Draw a histogram of energies above the hull and write a PNG.

    Args:
        energies: eV/atom of the samples that have one.
        num_judged: all samples judged, those without an energy too.
        path: PNG to write.
        title: line above the panel.

    Returns:
        ``path``.
    """
    bins = np.array(HULL_EDGES)
    values = np.clip(np.asarray(energies, dtype=np.float64), bins[0] + 1e-9, bins[-1] - 1e-9)
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        middles = (bins[:-1] + bins[1:]) / 2
        colours = [_colour(middle) for middle in middles.tolist()]
        axes.bar(middles, np.histogram(values, bins)[0], width=np.diff(bins), color=colours, edgecolor="white", lw=0.4)
        axes.axvline(0.0, color=GREY, linewidth=1.0)
        axes.axvline(METASTABLE_EV_PER_ATOM, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        stable = sum(energy <= 0 for energy in energies)
        metastable = sum(energy < METASTABLE_EV_PER_ATOM for energy in energies)
        counts = [
            (f"stable: {stable} of {num_judged}", GREEN),
            (f"below {METASTABLE_EV_PER_ATOM:g}: {metastable - stable}", ORANGE),
            (f"above: {len(energies) - metastable}", VERMILLION),
            (f"no energy: {num_judged - len(energies)}", "white"),
        ]
        handles = [Patch(color=colour, label=text) for text, colour in counts]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        axes.set_xlabel("energy above the hull, relaxed (eV/atom; ends hold what is beyond)")
        axes.set_ylabel("samples")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, axis="y")
        if title:
            axes.set_title(title)
        return save(figure, path)


def _colour(energy: float) -> str:
    """Return the colour of a bin by its middle."""
    if energy <= 0.0:
        return GREEN
    return ORANGE if energy < METASTABLE_EV_PER_ATOM else VERMILLION
