"""The words after a command that composes no configuration: places, and options with ``=``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


@dataclass(frozen=True)
class Words:
    """Words of a command line.

    Attributes:
        places: runs, folders or files.
        options: value of each option, those that were not given as they were.
        overrides: settings of the sections that a command hands on.
    """

    places: list[str]
    options: dict[str, str]
    overrides: list[str]


def read_words(command: str, argv: Sequence[str], options: Mapping[str, str], sections: Collection[str] = ()) -> Words:
    """Sort the words of a command line.

    Args:
        command: its name, for messages.
        argv: the words.
        options: names of options, and what they are by default.
        sections: sections of the configuration, such as ``logger``, whose settings are handed on.

    Raises:
        UserError: there is no such option.
    """
    found = Words([], dict(options), [])
    for word in argv:
        key, equals, value = word.partition("=")
        if equals and key in options:
            found.options[key] = value
        elif equals and key.partition(".")[0] in sections:
            found.overrides.append(word)
        elif equals and not Path(word).exists():
            raise UserError(
                f"crystalfm {command} has no option {key}", remedy=f"options: {', '.join([*options, *sections])}"
            )
        else:
            found.places.append(word)
    return found
