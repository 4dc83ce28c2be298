"""Validity against uniqueness: a table and a picture of several runs of generate.py, such as a sweep over temperatures.

usage: python benchmarks/crystal_sweep.py OUT.png RUN [RUN ...]

  for t in 0.5 0.7 0.9 1.0; do python generate.py ckpt=CKPT n=1000 temperature=$t name=sweep; done
  python benchmarks/crystal_sweep.py sweep.png runs/sweep/*

Every share is of all samples of a run; what is unique is counted by pymatgen's StructureMatcher.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("temperature", "top_p", "samples", "struct. valid", "comp. valid", "valid", "valid and unique", "of valid")


@dataclass(frozen=True)
class Point:
    """What a run of generate.py says of itself.

    Attributes:
        temperature: temperature of the sampling.
        top_p: probability of the tokens drawn from.
        num_samples: samples.
        structural: structurally valid ones, as a share of all.
        compositional: compositionally valid ones, as a share of all.
        valid: both.
        unique: valid ones without those that repeat another, as a share of all.
    """

    temperature: float
    top_p: float
    num_samples: int
    structural: float
    compositional: float
    valid: float
    unique: float

    @property
    def unique_among_valid(self) -> float:
        """Share of the valid samples that repeat no other."""
        return self.unique / self.valid if self.valid else float("nan")


def read_point(run: Path) -> Point:
    """Return what ``report.json`` of a run says."""
    found: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    names = ("structural_valid", "compositional_valid", "valid", "valid_unique")
    shares = [found[name]["count"] / found["num_samples"] for name in names]
    return Point(found["sampling"]["temperature"], found["sampling"]["top_p"], found["num_samples"], *shares)


def table(points: Sequence[Point]) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---:|" * len(COLUMNS)]
    for point in points:
        shares = (point.structural, point.compositional, point.valid, point.unique, point.unique_among_valid)
        cells = [f"{point.temperature:g}", f"{point.top_p:g}", f"{point.num_samples:,}"]
        lines.append("| " + " | ".join([*cells, *(f"{share:.1%}" for share in shares)]) + " |")
    return "\n".join(lines)


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw valid samples against unique ones among them."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from crystalfm.report.figures import BLUE, ORANGE, STYLE, save

    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.0), layout="constrained")
        axes = figure.subplots()
        for whole, colour, label in ((True, BLUE, "top-p 1"), (False, ORANGE, "top-p below 1")):
            chosen = [point for point in points if (point.top_p >= 1.0) == whole]
            if chosen:
                shares = [(point.unique_among_valid, point.valid) for point in chosen]
                axes.scatter(*zip(*shares, strict=True), color=colour, label=label, zorder=3)
        for point in points:
            text = f"T {point.temperature:g}" + (f", p {point.top_p:g}" if point.top_p < 1.0 else "")
            place = (point.unique_among_valid, point.valid)
            axes.annotate(text, place, xytext=(-6, 5), textcoords="offset points", ha="right", fontsize=8)
        axes.set_xlabel("unique among the valid")
        axes.set_ylabel("valid among all samples")
        axes.margins(0.25, 0.15)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="lower left")
        save(figure, path)


def main() -> None:
    """Read the runs, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of generate.py")
    arguments = parser.parse_args()
    points = sorted((read_point(run) for run in arguments.runs), key=lambda point: (point.temperature, point.top_p))
    draw(points, arguments.out)
    print(table(points))


if __name__ == "__main__":
    main()
