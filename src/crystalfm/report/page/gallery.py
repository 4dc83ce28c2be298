"""Generated samples on the page: figures with what they are taken over, pictures of crystals, a table, a 3D view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.report.page.markup import cell, escape, head, section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.report.page.content import Figure, FigureGroup, Gallery, GalleryRow
    from crystalfm.report.page.structures import Structure

VIEW = (
    '<figure id="view"><figcaption></figcaption><div id="crystal" hidden></div><div id="molecule" hidden></div>'
    '<button type="button" id="state" hidden></button><p class="legend"></p></figure>'
)
"""Where the script shows a structure."""


_SHADE = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><radialGradient id="shade" cx="0.35" '
    'cy="0.3" r="0.75"><stop offset="0" stop-color="#fff" stop-opacity="0.75"/><stop offset="0.45" stop-color="#fff" '
    'stop-opacity="0"/><stop offset="1" stop-color="#000" stop-opacity="0.35"/></radialGradient></svg>'
)
"""What makes discs look like balls in the pictures."""


def headline_section(figures: Sequence[Figure]) -> str:
    """Return the figures that matter most, large."""
    tiles = "".join(
        f"<div><dt>{escape(one.name)}</dt><dd>{escape(one.value)}</dd><dd>{escape(one.of)}</dd></div>"
        for one in figures
    )
    return section("figures", "In short", f'<dl class="headline">{tiles}</dl>' if tiles else "")


def figures_section(groups: Sequence[FigureGroup]) -> str:
    """Return all figures of generated samples, each with what it was taken over."""
    drawn = "".join(_group(group) for group in groups)
    return section("all-figures", "All figures", f'<div class="groups">{drawn}</div>' if drawn else "")


def _group(group: FigureGroup) -> str:
    rows = "".join(_figure(one) for one in group.figures)
    note = f'<p class="note">{escape(group.note)}</p>' if group.note else ""
    return f'<figure class="barchart"><figcaption>{escape(group.title)}</figcaption>{rows}{note}</figure>'


def _figure(figure: Figure) -> str:
    parts = f'<span>{escape(figure.name)}</span><span class="number">{escape(figure.value)}</span>'
    parts += "" if figure.share is None else f'<b class="track" style="--share:{figure.share:.4f}"></b>'
    parts += f"<small>{escape(figure.of)}</small>" if figure.of else ""
    return f'<div class="bar figure">{parts}</div>'


def gallery_section(gallery: Gallery | None, structures: Mapping[str, Structure], left_out: int) -> str:
    """Return the table of samples with pictures and the 3D view.

    Args:
        gallery: samples.
        structures: their crystals, by id.
        left_out: how many crystals had no room.
    """
    if gallery is None or not gallery.rows:
        return ""
    cards = "".join(
        f'<button type="button" class="crystal" data-id="{escape(card.id)}"><span class="picture"></span>'
        f"<span>{escape(structures[card.id].label)}</span><small>{escape(card.told)}</small></button>"
        for card in gallery.cards
        if card.id in structures
    )
    notes = [gallery.note]
    notes.append(f"{left_out:,} crystals are left out for the size of the page." if left_out else "")
    text = " ".join(escape(note) for note in notes if note)
    return section(
        "gallery",
        gallery.title,
        f'<div id="cards">{cards}</div>{_SHADE}' if cards else "",
        controls(gallery.groups, "every sample"),
        f'<div class="pair">{VIEW if structures else ""}{_listed(gallery, structures)}</div>',
        f'<p class="note">{text}</p>' if text else "",
    )


def controls(groups: Mapping[str, str], every: str) -> str:
    """Return the field that filters the table with id ``rows``, and a choice of groups where there are several.

    Args:
        groups: what is shown of each group, by its key.
        every: what is shown for all of them.
    """
    choices = "".join(f'<option value="{escape(key)}">{escape(name)}</option>' for key, name in groups.items())
    chosen = f'<select id="group" aria-label="which"><option value="">{escape(every)}</option>{choices}</select>'
    return (
        '<div class="controls"><input id="filter" type="search" placeholder="filter by id, formula, …" '
        f'aria-label="filter">{chosen if len(groups) > 1 else ""}<span id="count" class="note"></span></div>'
    )


def listed_row(row: GalleryRow, structures: Mapping[str, Structure]) -> str:
    """Return a row of the table with id ``rows``: its cells, and for the script what belongs to it."""
    marks = f'data-id="{escape(row.id)}" data-told="{escape(row.told)}"'
    if row.groups:
        joined = escape("\n".join(row.groups))
        marks += f' data-groups="{joined}"'
    if row.id not in structures and row.absent:
        marks += f' data-absent="{escape(row.absent)}"'
    return f'<tr tabindex="0" {marks}>{"".join(cell(value) for value in row.cells)}</tr>'


def _listed(gallery: Gallery, structures: Mapping[str, Structure]) -> str:
    numbers = _numbers(gallery.rows, len(gallery.headings))
    rows = "".join(listed_row(row, structures) for row in gallery.rows)
    return (
        f'<div class="scroll tall"><table class="sortable" id="rows">{head(gallery.headings, numbers)}'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _numbers(rows: Sequence[GalleryRow], width: int) -> list[int]:
    return [place for place in range(width) if any(isinstance(row.cells[place], int | float) for row in rows)]
