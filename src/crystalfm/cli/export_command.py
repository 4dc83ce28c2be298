"""``crystalfm export``: a trained generator as a folder for transformers, peft and vLLM."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crystalfm.cli.predict_command import checked_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """crystalfm export ckpt=RUN_OR_FILE out=FOLDER [adapter=true] [key=value ...]

Writes a trained generator (model=crystal_llm) as a folder in Hugging Face format: configuration, weights
(safetensors), tokenizer, a card with base and licence, and crystalfm.json with the wording of prompts. Low-rank
adapters are merged into the weights.

  ckpt=RUN_OR_FILE   run folder or checkpoint file (required)
  out=FOLDER         a new folder (required)
  adapter=true       the adapters alone, in peft's own format, which plain peft and vLLM read
  paths.mirror=DIR   where the base's weights are found without a network

Examples
  crystalfm export ckpt=runs/crystal_llm-mp/2026-01-31_12-00-00_1a2b3c out=crystal_writer
  crystalfm export ckpt=best.ckpt out=adapters adapter=true
"""

_VERBATIM = {"ckpt", "out"}


def export_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm export``.

    Raises:
        UserError: an argument is wrong, or the model cannot be exported.
    """
    if not argv or any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_HELP)
        return 0
    cfg = checked_arguments("export", argv, _VERBATIM)
    from crystalfm.run.export import export
    from crystalfm.run.tracking.console import run_console

    folder = export(cfg)
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    run_console().print(f"wrote {folder} ({size_mb:,.1f} MB)", highlight=False, markup=False, soft_wrap=True)
    return 0
