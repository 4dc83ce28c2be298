"""Keeps Lightning's remarks that do not apply here out of the terminal; its warnings about real problems stay."""

from __future__ import annotations

import logging
import warnings

# What each remark is about, and why it does not apply.
_REMARKS = (
    r".*custom batch sampler.*",  # EvalBatchSampler gives every row once, which a test checks
    r".*dataloader is not resumable.*",  # the sampler's position is restored by ExactResume
    r".*exists and is not empty.*",  # a resumed run goes on in its own folder
    r".*does not have many workers.*",  # features are gathered a batch at a time, without workers
    r".*is smaller than the logging interval.*",
    r".*LeafSpec.*",
    r".*sync_dist=True.*",  # validation metrics are summed over ranks by the metrics themselves
    r".*`srun` command is available.*",  # most runs on a machine with SLURM, such as a login node, are no jobs of it
)


def quiet_lightning() -> None:
    """Show Lightning's warnings and errors only, without the remarks that do not apply here."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in _REMARKS:
        warnings.filterwarnings("ignore", message=remark)
