"""``crystalfm compare``: finished runs side by side on the same rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.cli.words import read_words
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.run.tracking.wandb_job import TrackedJob

_SECTIONS = ("logger", "paths")
_HELP = """crystalfm compare RUN RUN ... [split=test] [output=FOLDER] [logger=wandb ...]

Errors of finished runs on the same rows, with bootstrap intervals, and whether each run is worse than the best one by
more than noise (paired bootstrap, row by row). Runs with other test rows, targets or units are refused.

  RUN              run folder, or the folder of a multirun, whose finished jobs count one by one
  split=val        compare validation rows
  output=FOLDER    write comparison.csv and comparison.png there
  logger=wandb     send what output holds to Weights & Biases; also logger.KEY=VALUE as for trainings

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
    words = read_words("compare", argv, {"split": "test", "output": ""}, _SECTIONS)
    options = words.options
    if options["split"] not in {"test", "val"}:
        raise UserError(f"split={options['split']} has no predictions", remedy="split=test or split=val")
    from crystalfm.run.compare import compare
    from crystalfm.run.tracking.console import run_console

    output = Path(options["output"]).expanduser() if options["output"] else None
    console = run_console()
    tracked = _tracked(words.overrides, output)
    scores = compare(words.places, options["split"], output, console)
    if tracked is not None:
        metrics = {f"{score.run}/mae_{score.target.label}": score.mae.value for score in scores}
        tracked.send({"split": options["split"]}, metrics, words.places, console)
    return 0


def _tracked(overrides: Sequence[str], output: Path | None) -> TrackedJob | None:
    """Return what sends the comparison to W&B, where that was asked for.

    Raises:
        UserError: an override is wrong, or there is nothing that could be sent.
    """
    if not overrides:
        return None
    from crystalfm.config.preflight import check_config
    from crystalfm.run.tracking.wandb_job import TrackedJob

    cfg = check_config("compare", overrides)
    if not cfg.logger.wandb:
        return None
    if output is None:
        raise UserError("logger=wandb sends what output holds, and there is none", remedy="output=FOLDER")
    output.mkdir(parents=True, exist_ok=True)
    return TrackedJob("compare", cfg, output)
