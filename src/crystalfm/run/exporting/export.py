"""Export of a run: a predictor or a generator as a folder that stands alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError
from crystalfm.run.build import asset_store
from crystalfm.run.exporting.generator import Origin, export_writer
from crystalfm.run.exporting.stage import require_free
from crystalfm.run.language.restore import language_checkpoint, writer_of

if TYPE_CHECKING:
    from omegaconf import DictConfig


def export(cfg: DictConfig) -> Path:
    """Export the model of a run; see ``crystalfm export``.

    Args:
        cfg: ``ckpt``, ``out``, ``adapter`` and ``paths``.

    Returns:
        the folder.

    Raises:
        UserError: there is no checkpoint, ``out`` is taken, or the model cannot be exported this way.
    """
    folder = Path(cfg.out).expanduser()
    require_free(folder)
    language = language_checkpoint(cfg.ckpt)
    if language is not None:
        writer = writer_of(language, asset_store(cfg))
        return export_writer(writer, folder, Origin.of(language), adapter=bool(cfg.adapter))
    if cfg.adapter:
        raise UserError("adapter=true is for generators, and this model predicts properties", remedy="adapter=false")
    from crystalfm.run.exporting.predictor import export_predictor

    return export_predictor(cfg, folder)
