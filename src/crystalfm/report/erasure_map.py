"""What parts of descriptions are worth to models of several properties, side by side: a table and a heat map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from crystalfm.metrics.scores import with_unit
from crystalfm.report.figures import STYLE, save
from crystalfm.report.tables import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from crystalfm.contracts import TargetSpec
    from crystalfm.explain.erasure import TagErasure

_CELL_INCHES, _ROW_INCHES, _LABEL_INCHES, _FRAME_INCHES = 0.9, 0.45, 2.4, 1.4
_LEAST_SCALE = 5.0
"""Per cent that the colours reach at least, so that noise does not look like a finding."""


@dataclass(frozen=True)
class ErasedProperty:
    """What parts of one kind of texts are worth to a model of one property.

    Attributes:
        texts: what wrote the texts.
        target: the property.
        num_crystals: crystals it was measured on.
        mae: mean absolute error with whole texts.
        other_share: share of the characters that belong to no tag.
        tags: what was measured, tag by tag.
    """

    texts: str
    target: TargetSpec
    num_crystals: int
    mae: float
    other_share: float
    tags: tuple[TagErasure, ...]

    def relative(self, tag: str) -> float:
        """Return the change of the error without a tag in per cent of the error; NaN where there is no such tag."""
        return next((one.change.value / self.mae * 100 for one in self.tags if one.tag == tag), np.nan)

    def beyond_control(self, tag: str) -> bool:
        """Return whether the error grows, and more than without as many words at random, by more than noise."""
        return any(one.tag == tag and one.change.low > 0 and one.excess.low > 0 for one in self.tags)


def erasure_map_table(properties: Sequence[ErasedProperty]) -> Table:
    """Return a table with a row per property of one kind of texts: error, and its change in per cent by tag."""
    tags = _tags(properties)
    title = f"{properties[0].texts}: change of the MAE without a part (%)"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title)
    table.add_column("target")
    for heading in ("crystals", "MAE", *tags):
        table.add_column(heading, justify="right")
    for one in properties:
        cells = [_cell(one, tag) for tag in tags]
        name = with_unit(one.target.name, one.target.unit)
        table.add_row(name, f"{one.num_crystals:,}", format_number(one.mae, 4), *cells)
    table.caption = "* more than as many words at random places (95 % interval)"
    return table


def erasure_map_figure(groups: Sequence[Sequence[ErasedProperty]], path: Path) -> Path:
    """Draw heat maps of tags and properties, one for each kind of texts.

    After Fig. 5 of Li et al., Digital Discovery 4, 376 (2025), relative to each model's error.

    Args:
        groups: for each kind of texts its properties.
        path: file to write.
    """
    values = [_matrix(group) for group in groups]
    scale = max(_LEAST_SCALE, *(float(np.nanmax(np.abs(matrix))) for matrix in values))
    rows = [len(_tags(group)) for group in groups]
    columns = max(len(group) for group in groups)
    height = _ROW_INCHES * sum(rows) + _FRAME_INCHES * len(groups)
    with rc_context(STYLE):
        figure = Figure(figsize=(_LABEL_INCHES + _CELL_INCHES * columns, height), layout="constrained")
        panels = np.atleast_1d(np.asarray(figure.subplots(len(groups), 1, height_ratios=rows)))
        for axes, group, matrix in zip(panels, groups, values, strict=True):
            image = axes.imshow(matrix, cmap="RdBu_r", vmin=-scale, vmax=scale, aspect="auto")
            _label_cells(axes, group, matrix, scale)
            names = [f"{one.target.name} ({one.num_crystals:,})" for one in group]
            axes.set_xticks(range(len(group)), names, rotation=30, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(matrix)), _tags(group))
            axes.set_title(f"texts: {group[0].texts} (number of crystals in brackets)", fontsize=10)
            axes.grid(visible=False)
            axes.tick_params(length=0)
        figure.colorbar(image, ax=panels.tolist(), label="change of the MAE without it (%)", shrink=0.8)
        figure.suptitle("Parts of the descriptions taken away; * beyond random pieces of the same length", fontsize=10)
        return save(figure, path)


def _label_cells(axes: Axes, group: Sequence[ErasedProperty], matrix: NDArray[np.float64], scale: float) -> None:
    for row, tag in enumerate(_tags(group)):
        for column, one in enumerate(group):
            if np.isfinite(matrix[row, column]):
                color = "white" if abs(matrix[row, column]) > 0.6 * scale else "black"
                axes.text(column, row, _cell(one, tag), ha="center", va="center", fontsize=9, color=color)


def _cell(one: ErasedProperty, tag: str) -> str:
    value = one.relative(tag)
    return f"{value:+.1f}{'*' if one.beyond_control(tag) else ''}" if np.isfinite(value) else ""


def _tags(properties: Sequence[ErasedProperty]) -> list[str]:
    return list(dict.fromkeys(item.tag for one in properties for item in one.tags))


def _matrix(properties: Sequence[ErasedProperty]) -> NDArray[np.float64]:
    return np.array([[one.relative(tag) for one in properties] for tag in _tags(properties)])
