"""Tokenizers of molecule strings: atoms and bonds of SMILES, symbols of SELFIES."""

from __future__ import annotations

import re

SMILES_PATTERN = (
    r"(\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$"
    r"|\%[0-9]{2}|[0-9])"
)
"""One token of a SMILES or reaction SMILES: an atom, a bond, a branch, a ring closure, a dot or an arrow.

Schwaller et al., Chem. Sci. 9, 6091 (2018), in the form of Nature Machine Intelligence 3, 144 (2021).
"""

# A character that no token begins with becomes a token of its own, so that nothing is dropped unseen.
_SMILES_TOKEN = re.compile(SMILES_PATTERN[:-1] + r"|.)", re.DOTALL)
_SELFIES_TOKEN = re.compile(r"\[[^\]]*\]|.", re.DOTALL)


def tokenize_smiles(smiles: str) -> list[str]:
    """Split a SMILES string into tokens; joined they give the string back."""
    return _SMILES_TOKEN.findall(smiles)


def tokenize_selfies(selfies: str) -> list[str]:
    """Split a SELFIES string into its bracketed symbols and dots; joined they give the string back."""
    return _SELFIES_TOKEN.findall(selfies)


def spaced_selfies(selfies: str) -> str:
    """Return a SELFIES string with blanks between its symbols, as SELFIES-TED was trained on."""
    return selfies.replace("][", "] [")
