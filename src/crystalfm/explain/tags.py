"""Parts of a description of a crystal, each character of which belongs to exactly one.

Sentences of Robocrystallographer are told apart as Li et al., Digital Discovery 4, 376 (2025), section 3.3, do it, with
two differences: their rules let a sentence have several tags or none, here the first rule that fits decides and what
none fits is ``other``; and a site is a sentence that counts inequivalent sites, not any with the words "there are".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SUMMARY, SITE, COORDINATION = "summary", "site info", "structure coordination"
BOND_LENGTH, BOND_ANGLE = "bond length", "bond angle"
CHEMICAL, STRUCTURE, BONDS = "chemical", "structure", "bond"
OTHER = "other"

ROBOCRYS_TAGS = (SUMMARY, SITE, COORDINATION, BOND_LENGTH, BOND_ANGLE, OTHER)
CHEMNLP_TAGS = (CHEMICAL, STRUCTURE, BONDS, OTHER)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_BLOCKS = re.compile(
    r"(?=The chemical information include)|(?=The structure information include)|(?=The bond distances are)"
)
_BLOCK_TAGS = {"The chemical": CHEMICAL, "The structure": STRUCTURE, "The bond": BONDS}


@dataclass(frozen=True)
class Part:
    """A part of a text.

    Attributes:
        text: its characters, the space behind it included: the parts of a text together are the text.
        tag: what it is about.
    """

    text: str
    tag: str


def robocrys_parts(text: str) -> list[Part]:
    """Return the sentences of a text by Robocrystallographer with the tags of ``ROBOCRYS_TAGS``."""
    sentences = _split(_SENTENCE_END, text)
    return [Part(sentence, _sentence_tag(place, sentence.lower())) for place, sentence in enumerate(sentences)]


def chemnlp_parts(text: str) -> list[Part]:
    """Return the blocks of a text in the manner of ChemNLP with the tags of ``CHEMNLP_TAGS``."""
    found = []
    for block in _BLOCKS.split(text):
        if block:
            tag = next((tag for start, tag in _BLOCK_TAGS.items() if block.startswith(start)), OTHER)
            found.append(Part(block, tag))
    return found


def tagger(source: str) -> tuple[Callable[[str], list[Part]], tuple[str, ...]]:
    """Return what divides the texts of a source of descriptions, and its tags.

    Raises:
        UserError: texts of this source have no known parts.
    """
    known = {"robocrys": (robocrys_parts, ROBOCRYS_TAGS), "chemnlp": (chemnlp_parts, CHEMNLP_TAGS)}
    if source not in known:
        raise UserError(
            f"descriptions by {source!r} have no known parts", remedy=f"data.description={' or '.join(known)}"
        )
    return known[source]


def without(parts: Sequence[Part], tag: str) -> str:
    """Return the text without the parts of a tag, and without the space that they leave at its end."""
    kept = [part for part in parts if part.tag != tag]
    text = "".join(part.text for part in kept)
    return text if len(kept) == len(parts) else text.rstrip()


def _split(boundary: re.Pattern[str], text: str) -> list[str]:
    ends = [found.end() for found in boundary.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if start < end]


def _sentence_tag(place: int, sentence: str) -> str:
    if place == 0 or (place == 1 and sentence.startswith("the structure")):
        return SUMMARY
    if "bond length" in sentence or "bond distance" in sentence:
        return BOND_LENGTH
    if "tilt" in sentence or "angle" in sentence:
        return BOND_ANGLE
    if "bonded" in sentence:
        return COORDINATION
    return SITE if "inequivalent" in sentence and "sites" in sentence else OTHER
