"""``evaluate.py ckpt=RUN explain=...``: tables and pictures of what parts of the inputs are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from crystalfm.run.explaining.erasure import explain_erasure
from crystalfm.run.explaining.groups import explain_groups
from crystalfm.run.explaining.modalities import explain_modalities
from crystalfm.run.explaining.texts import TextAnswers
from crystalfm.run.explaining.words import explain_words
from crystalfm.run.parallel.hardware import has_bf16

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.data.records import RecordTable
    from crystalfm.encoders.huggingface import Precision
    from crystalfm.run.saved import SavedPredictor


def explain(
    cfg: DictConfig,
    saved: SavedPredictor,
    table: RecordTable,
    predicted: NDArray[np.float64],
    folder: Path,
    console: Console,
) -> dict[str, float]:
    """Explain a predictor on rows of its data, into ``folder``.

    Args:
        cfg: configuration of the evaluation, with ``explain``, ``explain_*`` and ``seed``.
        saved: the predictor.
        table: (N,) rows to explain it on.
        predicted: (N, T) its predictions of them.
        folder: where tables and pictures go.
        console: where the table is shown.

    Returns:
        what was measured, by name.

    Raises:
        UserError: the predictor has nothing of the kind to explain.
    """
    if cfg.explain == "groups":
        return explain_groups(table, predicted, folder, console)
    if cfg.explain == "modalities":
        return explain_modalities(cfg, saved, table, predicted, folder, console)
    chosen = table
    if cfg.explain_rows is not None and len(table) > cfg.explain_rows:
        rng = np.random.default_rng(cfg.seed)
        chosen = table.select(np.sort(rng.choice(len(table), cfg.explain_rows, replace=False)))
    if cfg.explain == "words":
        answers = TextAnswers(saved, chosen, precision=_precision(cfg.explain_precision), console=console)
        return explain_words(answers, chosen, folder, console, same_words=cfg.explain_mask == "word")
    answers = TextAnswers(saved, chosen, console=console)
    source = str(saved.cfg.data.get("description"))
    return explain_erasure(answers, source, chosen, folder, console, seed=int(cfg.seed))


def _precision(asked: Literal["auto", "float32", "bfloat16"]) -> Precision:
    """Return the arithmetic for masked texts; ``auto`` is bfloat16 where the hardware multiplies it."""
    if asked != "auto":
        return asked
    return "bfloat16" if has_bf16() else "float32"
