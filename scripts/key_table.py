"""Write ``docs/keys.md``: every configuration key with its type and default, read from the code.

usage: python scripts/key_table.py [--check]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from crystalfm.cli.inspect_commands import config_keys
from crystalfm.io.files import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keys.md"
TASKS = {
    "train": "python train.py",
    "evaluate": "python evaluate.py",
    "predict": "python -m crystalfm.predict",
    "generate": "python generate.py",
}

INTRODUCTION = """\
Written by `make docs` from the signatures and the schema that the check uses, for the default options of each
group. `crystalfm config keys` shows the same in a terminal; the files in `conf/` explain the keys.
"""


def table(task: str, start: str = "") -> str:
    """Return the keys of one command, or those with one start, as a Markdown table."""
    lines = ["| key | type | default |", "|---|---|---|"]
    for key, kind, default in config_keys(task):
        if not key.startswith(start):
            continue
        cells = [text.replace("|", "\\|") for text in (key, kind, default)]
        lines.append("| " + " | ".join(f"`{cell}`" if cell else "" for cell in cells) + " |")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page; variables of this machine do not show in it."""
    for variable in ("CRYSTALFM_CACHE", "CRYSTALFM_MIRROR"):
        os.environ.pop(variable, None)
    parts = ["# Every key\n", INTRODUCTION]
    parts += [f"## `{command}`\n\n{table(task)}\n" for task, command in TASKS.items()]
    parts.append(f"## `crystalfm bench`\n\nThose of `python train.py`, and:\n\n{table('bench', 'bench.')}\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or with ``--check`` only say whether it is current."""
    text = page()
    current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
    if "--check" in sys.argv[1:]:
        return 0 if current else 1
    if not current:
        write_text(PAGE, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
