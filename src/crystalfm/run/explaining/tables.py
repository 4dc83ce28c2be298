"""Tables of explanations on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from crystalfm.io.files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV; columns are the union of the rows' keys, in the order in which they first come."""
    write_text(path, pd.DataFrame(list(rows)).to_csv(index=False))
