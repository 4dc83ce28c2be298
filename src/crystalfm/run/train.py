"""Training: from a checked configuration to a folder that a person can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.run.build import is_classical, is_generator
from crystalfm.run.classical import baseline_nodes
from crystalfm.run.parallel.ranks import follow_parent
from crystalfm.run.parallel.stamp import is_child_rank
from crystalfm.run.single import train_single
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig


def train(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Train the configured model, or the members of an ensemble, and write the run folder.

    Args:
        cfg: checked configuration.
        run_dir: run folder; a resumed run goes on in its own folder.

    Returns:
        test metrics in physical units by name (``test/mae_gap_hartree``), of a generator ``test/loss``, and
        ``val/loss``; of the processes of a distributed run only the first returns any, writes files other than its
        log, and fits the baselines.

    Raises:
        UserError: something the user can mend.
        TrainingInterruptedError: a signal stopped the training after a checkpoint was written.
    """
    follow_parent()
    quiet_lightning()
    console = run_console()
    baseline_nodes(cfg)  # a wrong name should not wait for the end of the training
    if is_generator(cfg.model):
        from crystalfm.run.language.train import train_language

        return train_language(cfg, run_dir, console)
    if cfg.ensemble > 1:
        from crystalfm.run.ensemble import train_ensemble

        return train_ensemble(cfg, run_dir, console)
    if is_child_rank() and is_classical(cfg.model):
        return {}  # a classical model is fitted by the first process alone
    return train_single(cfg, run_dir, console)
