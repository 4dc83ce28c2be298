"""``crystalfm card``: the card of a finished run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.cli.words import read_words
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """crystalfm card RUN [output=FILE]

Writes the card of a finished predictor in Hugging Face's format, out of what its run has written down: what it predicts
from what, errors on the test rows beside baselines, how to use it, limits, data and licences. Shown, or written to FILE
(output=README.md). Generators get theirs from crystalfm export.

Example
  crystalfm card runs/quickstart/2026-01-31_12-00-00_1a2b3c output=README.md
"""


def card_command(argv: Sequence[str]) -> int:
    """Run ``crystalfm card``.

    Raises:
        UserError: an argument is wrong, or the run is none of a predictor.
    """
    if not argv or any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_HELP)
        return 0
    words = read_words("card", argv, {"output": ""})
    if len(words.places) != 1:
        raise UserError(f"crystalfm card takes one run, not {' '.join(argv)}", remedy="crystalfm card RUN output=FILE")
    from crystalfm.io.files import write_text
    from crystalfm.run.card import run_card

    text = run_card(words.places[0])
    if words.options["output"]:
        write_text(Path(words.options["output"]).expanduser(), text)
    else:
        sys.stdout.write(text)
    return 0
