"""``crystalfm export`` and ``crystalfm push``: a trained model as a folder that stands alone, here or in the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.cli.predict_command import checked_arguments
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """crystalfm export RUN out=FOLDER [adapter=true] [key=value ...]

Writes a trained model as a folder that stands alone.

Of a predictor or an ensemble: weights (safetensors; trees in their library's own format), configuration, card, the ids
of each split, the predictions of the test rows, and reference predictions. crystalfm.load, predict and evaluate take
the folder in place of a run, and say when the versions of packages have changed its predictions.

Of a generator (model=crystal_llm): a folder in Hugging Face format with configuration, weights, tokenizer, a card with
base and licence, and crystalfm.json with the wording of prompts. Low-rank adapters are merged into the weights.

  RUN                folder of a run that has finished; of a generator also a checkpoint file (or ckpt=RUN; required)
  out=FOLDER         a new folder (required)
  adapter=true       of a generator the adapters alone, in peft's own format, which plain peft and vLLM read
  paths.mirror=DIR   where pretrained weights are found without a network

Examples
  crystalfm export runs/quickstart/2026-01-31_12-00-00_1a2b3c out=gaps
  crystalfm export runs/crystal_llm-mp/2026-01-31_12-00-00_1a2b3c out=adapters adapter=true
"""

_PUSH_HELP = """crystalfm push FOLDER repo=OWNER/NAME [private=true]

Uploads a folder of crystalfm export to the Hugging Face hub, in one commit; the repository is made where it is not
there. The login is the hub's own (hf auth login, or HF_TOKEN).

  FOLDER             folder of crystalfm export, of a predictor or a generator (required)
  repo=OWNER/NAME    where to (required)
  private=true       make the repository private; one that is there already must be private then

Example
  crystalfm push gaps repo=me/gaps private=true
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
    # The run may stand by itself, as it does for other commands.
    words = [word if "=" in word or number else f"ckpt={word}" for number, word in enumerate(argv)]
    cfg = checked_arguments("export", words, _VERBATIM)
    from crystalfm.run.exporting.export import export
    from crystalfm.run.tracking.console import run_console

    folder = export(cfg)
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    run_console().print(f"wrote {folder} ({size_mb:,.1f} MB)", highlight=False, markup=False, soft_wrap=True)
    return 0


def push_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm push``.

    Raises:
        UserError: an argument is wrong, the folder is no export, or the hub refuses.
    """
    if not argv or any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_PUSH_HELP)
        return 0
    folder, *options = argv
    given = dict(word.partition("=")[::2] for word in options)
    private = given.get("private", "false")
    repo = given.get("repo", "")
    if "=" in folder or not repo or given.keys() - {"repo", "private"} or private not in {"true", "false"}:
        raise UserError(
            f"crystalfm push {' '.join(argv)} is not understood",
            remedy="crystalfm push FOLDER repo=OWNER/NAME, and private=true for a private repository",
        )
    from crystalfm.run.exporting.hub import push
    from crystalfm.run.tracking.console import run_console

    address = push(Path(folder).expanduser(), repo, private=private == "true")
    run_console().print(f"pushed {folder} to {address}", highlight=False, markup=False, soft_wrap=True)
    return 0
