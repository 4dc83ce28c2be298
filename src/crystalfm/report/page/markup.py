"""Small pieces of HTML, every text in them escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["Cell", "definitions", "escape", "section", "sortable_table", "table"]

Cell = str | int | float | None
"""What stands in a table: numbers are set to the right and sorted as such."""

_LONG = 40


def section(identifier: str, title: str, *parts: str) -> str:
    """Return a section, or nothing where all its parts are empty."""
    body = "".join(parts)
    return f'<section id="{identifier}"><h2>{escape(title)}</h2>{body}</section>' if body else ""


def definitions(values: Mapping[str, str]) -> str:
    """Return names and values as a list, long values over its whole width; nothing where there are none."""
    if not values:
        return ""
    rows = []
    for name, value in values.items():
        mark = ' class="wide"' if len(value) > _LONG else ""
        rows.append(f"<div{mark}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>")
    return f"<dl>{''.join(rows)}</dl>"


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, strong: Iterable[int] = ()) -> str:
    """Return a table in a frame that scrolls by itself on a narrow screen.

    Args:
        headings: heading of each column.
        rows: cells of each row.
        strong: rows, from 0, that are set off.
    """
    return _table(headings, rows, set(strong), "")


def sortable_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table that is sorted by a click on a heading."""
    return _table(headings, rows, set(), ' class="sortable"')


def _table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], strong: set[int], mark: str) -> str:
    rows = list(rows)
    numbers = [place for place in range(len(headings)) if any(isinstance(row[place], int | float) for row in rows)]
    body = []
    for number, row in enumerate(rows):
        cells = "".join(cell(value) for value in row)
        body.append(f'<tr class="strong">{cells}</tr>' if number in strong else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table{mark}>{head(headings, numbers)}<tbody>{"".join(body)}</tbody></table></div>'


def head(headings: Sequence[str], numbers: Collection[int] = ()) -> str:
    """Return the head of a table whose columns ``numbers``, from 0, hold numbers."""
    marks = [' class="number"' if place in numbers else "" for place in range(len(headings))]
    cells = "".join(f'<th scope="col"{mark}>{escape(name)}</th>' for mark, name in zip(marks, headings, strict=True))
    return f"<thead><tr>{cells}</tr></thead>"


def cell(value: Cell) -> str:
    """Return a cell; numbers carry their exact value for sorting."""
    if value is None:
        return "<td>&ndash;</td>"
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td class="number" data-value="{value!r}">{shown}</td>'
