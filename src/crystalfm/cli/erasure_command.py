"""``crystalfm erasure``: what parts of descriptions are worth to models of several properties."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.cli.words import read_words

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """crystalfm erasure EVALUATION ... [output=FOLDER]

By how many per cent the error of each property's model grows when a kind of sentence is taken out of the descriptions,
side by side: a table and a heat map over properties and kinds of sentences.

  EVALUATION       folder that `python evaluate.py ckpt=RUN explain=erasure` wrote, or one that holds several
  output=FOLDER    write erasures.csv and erasures.png there

Example
  python evaluate.py -m ckpt=runs/hybrid_mbj_bandgap-hybrid/RUN,runs/hybrid_ehull-hybrid/RUN explain=erasure
  crystalfm erasure runs/multirun/SWEEP output=erasures
"""


def erasure_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm erasure``.

    Raises:
        UserError: an argument is wrong, or there is nothing to show.
    """
    if not argv or any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_HELP)
        return 0
    words = read_words("erasure", argv, {"output": ""})
    from crystalfm.run.explaining.erasure_map import erasure_map
    from crystalfm.run.tracking.console import run_console

    output = words.options["output"]
    erasure_map(words.places, Path(output).expanduser() if output else None, run_console())
    return 0
