"""The loggers that Lightning feeds during a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.config.extras import require_logger

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from omegaconf import DictConfig

    from crystalfm.run.folder import RunFolder
    from crystalfm.run.tracking.metrics_logger import MetricsTable


def build_loggers(cfg: DictConfig, folder: RunFolder, table: MetricsTable) -> list[Logger]:
    """Return the configured loggers.

    Args:
        cfg: configuration.
        folder: run folder.
        table: the logger behind ``metrics.csv``.

    Raises:
        UserError: a logger's package is not installed.
    """
    loggers: list[Logger] = [table] if cfg.logger.csv else []
    if cfg.logger.tensorboard:
        require_logger("tensorboard")
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder.root, name="tensorboard", version=""))
    if cfg.logger.wandb:
        from crystalfm.run.tracking.wandb_run import WandbCurves

        loggers.append(WandbCurves())
    return loggers
