"""The logger behind ``metrics.csv``: one table for the whole run, continued without repeats after a resume."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from crystalfm.io.files import write_text
from crystalfm.run.parallel.stamp import is_child_rank

if TYPE_CHECKING:
    from pathlib import Path


class MetricsTable(Logger):
    """Collects metrics by step and writes them as CSV, whole or not at all.

    After a resume the rows beyond the checkpoint's step are dropped, so that the file equals the one of an
    uninterrupted run.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._rows: dict[int, dict[str, str]] = {}

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """The run folder is the version."""
        return ""

    @property
    def rows(self) -> list[dict[str, str]]:
        """All rows in order of steps."""
        return [self._rows[step] for step in sorted(self._rows)]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters stand in ``config.yaml``."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add metrics to the row of ``step``."""
        number = len(self._rows) if step is None else int(step)
        row = self._rows.setdefault(number, {"step": str(number)})
        row.update({name: repr(float(value)) for name, value in metrics.items()})

    def resume_from(self, step: int) -> None:
        """Read the file's rows up to and including ``step``; later ones will be made again."""
        if not self._path.is_file():
            return
        with self._path.open(encoding="utf-8", newline="") as stream:
            for record in csv.DictReader(stream):
                if int(record["step"]) <= step:
                    self._rows[int(record["step"])] = {key: value for key, value in record.items() if value}

    def save(self) -> None:
        """Write the table; of the processes of a distributed run only the first does."""
        if is_child_rank():
            return
        columns = ["step", "epoch"]
        columns += sorted({name for row in self._rows.values() for name in row} - set(columns))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self._path, buffer.getvalue())

    def finalize(self, status: str) -> None:
        """Write the table at the end of a stage."""
        del status
        if self._rows:
            self.save()
