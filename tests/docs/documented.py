"""The pages people read, and the commands on them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One line of a ``bash`` block.

    Attributes:
        page: name of the page.
        line: the line as it stands there.
    """

    page: str
    line: str

    @property
    def words(self):
        """The line as the shell splits it."""
        return shlex.split(self.line)

    @property
    def program(self):
        """What it calls: ``train``, ``evaluate``, ``predict``, ``fetch``, ``make``, ``pip`` or ``crystalfm ...``."""
        first, *rest = self.words
        if first == "python" and rest[0].endswith(".py"):
            return rest[0].removesuffix(".py")
        if first == "python" and rest[:1] == ["-m"] and rest[1].startswith("crystalfm."):
            return rest[1].removeprefix("crystalfm.")
        if first == "crystalfm" and rest[0] in {"data", "config", "defects"}:
            return f"{rest[0]} {rest[1]}"
        return rest[0] if first == "crystalfm" else first

    @property
    def arguments(self):
        """What stands behind the program."""
        if self.words[0] == "python":
            return self.words[3:] if self.words[1] == "-m" else self.words[2:]
        if self.words[0] == "crystalfm":
            return self.words[1 + len(self.program.split()) :]
        return self.words[1:]


def commands():
    """Every command of every page, without repeats."""
    found = {}
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.splitlines():
                if line.strip() and not line.startswith("#"):
                    found.setdefault(line.strip(), Command(page.name, line.strip()))
    return list(found.values())
