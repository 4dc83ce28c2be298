"""What the pages of generators share: figures from reports, samples from tables, crystals while there is room."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from crystalfm.metrics.crystals.counts import Share
from crystalfm.report.page.content import Figure, FigureGroup
from crystalfm.report.page.structures import crystal_structure, structures_within

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from crystalfm.report.page.markup import Cell
    from crystalfm.report.page.structures import Structure

MAX_ROWS = 2_000
"""Samples in a page's table; the others are in the folder's own tables."""

NUM_CARDS = 12

WRONG = "What was wrong"
NOT_READ = "it could not be read"
NO_ROOM = "its structure is left out for the size of the page"

Report = dict[str, Any]
Row = dict[str, Any]


def read_report(folder: Path) -> Report:
    """Return the content of ``report.json``."""
    found: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a Parquet file."""
    import pyarrow.parquet as pq

    found: list[Row] = pq.read_table(path).to_pylist()
    return found


def share_figure(name: str, share: Mapping[str, Any], of: str = "") -> Figure:
    """Return a share from a report.

    Args:
        name: what it is.
        share: its count, total and fraction.
        of: what the total counts, such as ``samples``.
    """
    taken = f"{share['count']:,} of {share['total']:,} {of}".rstrip()
    fraction = share["fraction"]
    return Figure(name, "\N{EN DASH}" if fraction is None else f"{fraction:.1%}", taken, fraction or 0.0)


def share_group(title: str, report: Mapping[str, Any], names: Mapping[str, tuple[str, str]]) -> FigureGroup:
    """Return the shares that a report has, each of ``names`` with its wording and with what its total counts."""
    found = [share_figure(name, report[key], of) for key, (name, of) in names.items() if report.get(key)]
    return FigureGroup(title, found)


def number_figure(name: str, value: float | None, of: str = "") -> Figure:
    """Return a quantity that is no share."""
    if value is None:
        return Figure(name, "\N{EN DASH}", of)
    return Figure(name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("-", "\N{MINUS SIGN}"), of)


def counts_group(title: str, counts: Mapping[str, int], total: int) -> FigureGroup:
    """Return how many of ``total`` samples are of which kind."""
    return FigureGroup(
        title, [share_figure(name, Share(count, total).as_dict(), "samples") for name, count in counts.items()]
    )


def filled(groups: Iterable[FigureGroup]) -> list[FigureGroup]:
    """Return the groups with figures."""
    return [group for group in groups if group.figures]


def yes_no(value: bool | None) -> Cell:
    """Return a flag as a cell."""
    return None if value is None else ("no", "yes")[value]


def first_rows(rows: Sequence[Row], files: str) -> tuple[list[Row], str]:
    """Return the rows that are listed, and a note where there are more."""
    shown = list(rows[:MAX_ROWS])
    left = len(rows) - len(shown)
    return shown, f"{left:,} further samples are in {files}." if left else ""


def crystals_of(texts: Mapping[str, tuple[str | None, str | None]]) -> tuple[dict[str, Structure], int]:
    """Return crystals for the 3D view while there is room for them, and how many there was none for.

    Args:
        texts: by id, the crystal as JSON and the same after its relaxation; ``None`` where there is none.

    Raises:
        ValueError: a text is no crystal.
    """
    from crystalfm.chem.crystals import Crystal

    crystals = {
        name: crystal_structure(Crystal.from_json(text), None if relaxed is None else Crystal.from_json(relaxed))
        for name, (text, relaxed) in texts.items()
        if text is not None
    }
    return structures_within(crystals)


def different(rows: Iterable[Row]) -> list[Row]:
    """Return a few rows of different formulas where there are enough, in their order."""
    by_formula: dict[str, list[Row]] = {}
    for row in rows:
        by_formula.setdefault(row["formula"], []).append(row)
    firsts = [found[0] for found in by_formula.values()]
    others = [row for found in by_formula.values() for row in found[1:]]
    return (firsts + others)[:NUM_CARDS]
