"""Generation of new materials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def generate(cfg: DictConfig) -> dict[str, float]:
    """Sample new materials from a trained generator.

    Args:
        cfg: checked configuration of ``generate.yaml``.

    Raises:
        UserError: always, for the time being: no model of this version generates.
    """
    raise UserError(
        f"no generator is available yet (ckpt={cfg.ckpt}): the models of this version predict properties",
        remedy="train one with python train.py, score it with python evaluate.py",
    )
