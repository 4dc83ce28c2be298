"""``crystalfm compare``: finished runs side by side on the same rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """crystalfm compare RUN RUN ... [split=test] [output=FOLDER]

Errors of finished runs on the same rows, with bootstrap intervals, and whether each run is worse than the best one by
more than noise (paired bootstrap, row by row). Runs with other test rows, targets or units are refused.

  RUN              run folder, or the folder of a multirun, whose finished jobs count one by one
  split=val        compare validation rows
  output=FOLDER    write comparison.csv and comparison.png there

Example
  crystalfm compare runs/quickstart/2026-01-31_12-00-00_1a2b3c runs/multirun/2026-02-01_09-30-00_4d5e6f
"""


def compare_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm compare``.

    Raises:
        UserError: an argument is wrong, or the runs cannot be compared.
    """
    if not argv or any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_HELP)
        return 0
    options = {"split": "test", "output": ""}
    places = []
    for word in argv:
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = value
        elif equals and not Path(word).exists():
            raise UserError(f"crystalfm compare has no option {key}", remedy=f"options: {', '.join(options)}")
        else:
            places.append(word)
    if options["split"] not in {"test", "val"}:
        raise UserError(f"split={options['split']} has no predictions", remedy="split=test or split=val")
    from crystalfm.run.compare import compare
    from crystalfm.run.tracking.console import run_console

    output = Path(options["output"]).expanduser() if options["output"] else None
    compare(places, options["split"], output, run_console())
    return 0
