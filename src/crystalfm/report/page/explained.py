"""What ``explain=`` left in a folder, for the page: tables, pictures, and texts with coloured words."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.explain.words import WordEffects, colored_html
from crystalfm.report.page.content import Explanation
from crystalfm.report.page.markup import escape, sortable_table

if TYPE_CHECKING:
    import pandas as pd

    from crystalfm.report.page.markup import Cell

_WORDS = "words.csv"
_MODALITIES = "modalities.json"
_MAX_ROWS, _MAX_TEXTS = 300, 30
_MAX_PICTURE_BYTES = 600_000
_TITLES = {
    "erasure": "What parts of the descriptions are worth",
    "words": "What single words are worth",
    "groups": "Where the model errs",
    "modalities": "What each modality is worth",
}


def read_explanations(folder: Path) -> list[Explanation]:
    """Return what lies in a folder of explanations, each table with its pictures; nothing where there is none.

    Args:
        folder: ``explanations`` of a run or an evaluation.

    Raises:
        OSError: a file cannot be read.
        ValueError: a table is malformed.
    """
    if not folder.is_dir():
        return []
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.png")):
        found.setdefault(path.stem.partition("_")[0], []).append(_picture(path))
    if (folder / _MODALITIES).is_file():
        found.setdefault(Path(_MODALITIES).stem, []).append(_attention_note(folder / _MODALITIES))
    for path in sorted(folder.glob("*.csv")):
        shown = _words(path) if path.name == _WORDS else _table(path)
        found.setdefault(path.stem.partition("_")[0], []).append(shown)
    return [Explanation(_TITLES.get(name, name), "".join(parts)) for name, parts in sorted(found.items())]


def _picture(path: Path) -> str:
    content = path.read_bytes()
    if len(content) > _MAX_PICTURE_BYTES:
        return f'<p class="note">{escape(path.name)} is too large for the page.</p>'
    encoded = base64.b64encode(content).decode("ascii")
    return f'<div class="plate"><img alt="{escape(path.stem)}" src="data:image/png;base64,{encoded}"></div>'


def _attention_note(path: Path) -> str:
    """Return what is to be said of the attention to modalities; nothing where an earlier version wrote the file."""
    said = json.loads(path.read_text(encoding="utf-8")).get("attention")
    if said is None:
        return ""
    text = str(said["note"])
    return f'<p class="note">{escape(text[:1].upper() + text[1:])}.</p>'


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    # A word or a name such as "null" is a text like any other.
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def _table(path: Path) -> str:
    frame = _read(path)
    columns = [frame[name].tolist() for name in frame.columns]
    rows = [[_cell(value) for value in row] for row in zip(*columns, strict=True)][:_MAX_ROWS]
    left = len(frame) - len(rows)
    note = f'<p class="note">{left:,} further rows are in {escape(path.name)}.</p>' if left else ""
    return sortable_table([str(name).replace("_", " ") for name in frame.columns], rows) + note


def _cell(value: object) -> Cell:
    if isinstance(value, int | float):
        return None if math.isnan(value) else value
    return str(value)


def _words(path: Path) -> str:
    frame = _read(path)
    texts = list(frame.groupby(["id", "target"], sort=False))
    parts = []
    for (name, target), rows in texts[:_MAX_TEXTS]:
        ordered = rows.sort_values("place")
        change = ordered["change"].to_numpy(dtype=np.float64)[:, None]
        effects = WordEffects([str(word) for word in ordered["word"]], np.array([np.nan]), change)
        title = f"<strong>{escape(str(name))}</strong>, {escape(str(target))}"
        parts.append(f'<p class="words">{title}<br>{colored_html(effects, 0)}</p>')
    left = len(texts) - len(parts)
    note = f'<p class="note">{left:,} further texts are in {escape(path.name)}.</p>' if left else ""
    meaning = "On red ground: without the word the prediction is higher; on blue: lower."
    return f'<p class="note">{meaning}</p>{"".join(parts)}{note}'
