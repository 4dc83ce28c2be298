"""``crystalfm describe``: make the descriptions of a data set's crystals ahead of a training."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from crystalfm.config.preflight import check_config
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

_HELP = """crystalfm describe data=NAME data.description=robocrys|chemnlp [key=value ...]

Describes the crystals of a data set and keeps the texts, which every training then finds. An interrupted call goes on
where it stopped. Takes every override of train.

  data.limit=100                    only so many crystals, drawn as in a training of the same seed
  descriptions.jobs=8               crystals at a time; default as many as there are cores
  descriptions.backend=dask         or ray: the workers of a cluster (DASK_SCHEDULER_ADDRESS, RAY_ADDRESS)
  descriptions.time_limit_seconds=300

Examples
  crystalfm describe data=jarvis data.release=sample data.description=chemnlp
  crystalfm describe data=mp data.description=robocrys descriptions.jobs=8
"""

_NUM_REASONS = 5


def describe_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm describe``.

    Raises:
        UserError: the configuration has problems, or it names no way of describing.
    """
    if not argv or any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_HELP)
        return 0
    cfg = check_config("train", argv)
    if cfg.data.get("description") is None:
        raise UserError(
            f"data={cfg.data.name}: data.description does not say how to describe",
            remedy="crystalfm describe data=jarvis data.description=robocrys (or chemnlp)",
        )
    _describe(cfg)
    return 0


def _describe(cfg: DictConfig) -> None:
    from crystalfm.assets.progress import RichProgress
    from crystalfm.run.build import asset_store, construct
    from crystalfm.run.descriptions import describe
    from crystalfm.run.tracking.console import run_console

    console = run_console()
    dataset = construct(cfg.data, store=asset_store(cfg, RichProgress(console)), seed=cfg.seed)
    table = dataset.load()
    done = describe(cfg, table.fields["structure"])
    pace = f" ({done.seconds / done.num_made:.2f} s each)" if done.num_made else ""
    lines = [
        f"{cfg.data.name}, {cfg.data.description}: {len(table)} crystals, {done.num_failed} without a text",
        f"{done.num_made} made in {done.seconds:.0f} s{pace}, {done.num_cached} known before",
    ]
    reasons = Counter(outcome.reason for outcome in done.outcomes if outcome.text is None)
    lines += [f"  {count} x {reason}" for reason, count in reasons.most_common(_NUM_REASONS)]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
