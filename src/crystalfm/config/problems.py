"""What is wrong with a configuration: collected, then told in one message."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COMMAND_LINE = "command line"
"""Where a key comes from that no file sets."""

_NUM_CHOICES_SHOWN = 30
_NUM_CHOICES_BESIDE_NEAREST = 15


@dataclass(frozen=True)
class Problem:
    """One mistake in the configuration.

    Attributes:
        key: dotted key, or the override as typed.
        message: what is wrong.
        remedy: nearest valid name, choices, or what would fit.
        where: file (with line) that sets the key, or ``command line``; empty while unknown.
        job: override of the multirun job it concerns, empty for all.
    """

    key: str
    message: str
    remedy: str = ""
    where: str = ""
    job: str = ""

    def located(self, where: str) -> Problem:
        """Return the problem with its origin filled in, unless it is known already."""
        return self if self.where else replace(self, where=where)

    def __str__(self) -> str:
        head = f"{self.key}  [{self.where}]" if self.where else self.key
        lines = [f"  {head}", f"      {self.message}"]
        if self.remedy:
            lines.append(f"      {self.remedy}")
        if self.job:
            lines.append(f"      (in the job {self.job})")
        return "\n".join(lines)


class ConfigError(UserError):
    """The configuration cannot be used; the message lists every problem.

    Args:
        problems: all of them, at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = "1 problem" if count == 1 else f"{count} problems"
        super().__init__("\n".join([f"the configuration has {title}:", *map(str, self.problems)]))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return ConfigError, (self.problems,)


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like ``name``, or ``None`` where nothing is near."""
    by_folded = {choice.casefold().replace("-", "_"): choice for choice in choices}
    folded = name.casefold().replace("-", "_")
    if folded in by_folded:
        return by_folded[folded]
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.55)
    return by_folded[found[0]] if found else None


def suggestion(name: str, choices: Iterable[str], *, label: str = "choices") -> str:
    """Return ``did you mean 'x'? choices: a, b, x``; empty where there is nothing to choose from."""
    choices = list(choices)
    near = nearest(name, choices)
    parts = [f"did you mean '{near}'?"] if near else []
    if choices and (not near or len(choices) <= _NUM_CHOICES_BESIDE_NEAREST):
        shown = ", ".join(choices[:_NUM_CHOICES_SHOWN])
        parts.append(f"{label}: {shown}{', ...' if len(choices) > _NUM_CHOICES_SHOWN else ''}")
    return " ".join(parts)


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems without repetition (one that many jobs share is told once), in order."""
    seen: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        seen.setdefault((problem.key, problem.message), problem)
    return list(seen.values())
