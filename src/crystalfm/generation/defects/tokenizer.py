"""A tokenizer for prompts and answers about defects alone: names of hosts, sites and rules are tokens.

A changed site is four tokens in edits; in full answers a site is four with coordinates of two decimals. Token
boundaries follow from the text alone, and the joined tokens give the text back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.generation.crystal_tokenizer import BOS_TEXT, EOS_TEXT, PAD_TEXT, UNKNOWN_TEXT, build_tokenizer
from crystalfm.generation.defects.answers import PRISTINE_TEXT, VACANCY_TEXT
from crystalfm.generation.defects.prompts import MAX_CELLS, RULE_SEPARATOR, SENTENCES, SIZE, sublattices

if TYPE_CHECKING:
    from crystalfm.generation.defects.prompts import DefectPromptSettings

_COORD_DIGITS = 2
"""Decimals of a coordinate in its first token; the rest follow two at a time."""

_CHARACTERS = (*"0123456789", "\n", " ", ".", "-")


def build_defect_tokenizer(settings: DefectPromptSettings) -> Any:
    """Return the tokenizer as a ``transformers.PreTrainedTokenizerFast``.

    It is lossless for everything that prompts and answers of these settings hold, rules included that no host has in
    the data as long as they are made of elements; any other character is ``<unk>``. The same settings give the same
    ids.
    """
    return build_tokenizer(defect_vocabulary(settings), defect_pattern(settings))


def defect_vocabulary(settings: DefectPromptSettings) -> list[str]:
    """Return the tokens in the order of their ids."""
    digits = min(_COORD_DIGITS, settings.coord_digits)
    tokens = [PAD_TEXT, BOS_TEXT, EOS_TEXT, UNKNOWN_TEXT, *_CHARACTERS, *SENTENCES, RULE_SEPARATOR, PRISTINE_TEXT]
    tokens += [*_rules(settings), "v_", "_"]
    tokens += [start + name for name in _sites(settings) for start in ("\n", "")]
    tokens += [host.name for host in settings.hosts]
    for symbol in (VACANCY_TEXT, *SYMBOLS):
        tokens += [start + symbol for start in ("\n", " ", "")]
    tokens += [f"{start}0.{value:0{digits}d}" for start in "\n " for value in range(10**digits)]
    tokens += [f"{start}{value}" for start in (" ", "") for value in range(MAX_CELLS + 1)]
    tokens += [f".{value}" for value in range(10)]
    tokens += [f"{start}{value:02d}" for start in (".", "") for value in range(100)]
    return list(dict.fromkeys(tokens))


def defect_pattern(settings: DefectPromptSettings) -> str:
    """Return the regular expression of one token; earlier alternatives go before later ones."""
    digits = min(_COORD_DIGITS, settings.coord_digits)
    symbols = "|".join(sorted((VACANCY_TEXT, *SYMBOLS), key=lambda symbol: (-len(symbol), symbol)))
    sites, hosts = _sites(settings), [host.name for host in settings.hosts]
    return "|".join(
        [
            *_escaped(SENTENCES),
            *(f"{name}(?![0-9])" for name in _escaped(f"\n{name}" for name in sites)),
            *(f"{name}(?={re.escape(SIZE)})" for name in _escaped(hosts)),
            *(f"{name}(?![A-Za-z])" for name in _escaped(_rules(settings))),
            *(f"{name}(?![0-9])" for name in _escaped(sites)),
            *_escaped([RULE_SEPARATOR, PRISTINE_TEXT]),
            rf"[\n ](?:{symbols})",
            rf"[\n ]0\.[0-9]{{{digits}}}",
            r" [0-9]{1,2}(?![0-9])",
            r"\.[0-9]{1,2}",
            r"[0-9]{1,2}",
            "v_",
            symbols,
            r"[0-9\n ._-]",
        ]
    )


def _sites(settings: DefectPromptSettings) -> list[str]:
    return list(dict.fromkeys(name for host in settings.hosts for name in sublattices(host)))


def _rules(settings: DefectPromptSettings) -> list[str]:
    return list(dict.fromkeys(rule.name for rules in settings.rules.values() for rule in rules))


def _escaped(texts: Any) -> list[str]:
    """Return expressions of texts, longest first."""
    return [
        re.escape(text).replace("\\\n", r"\n").replace("\n", r"\n")
        for text in sorted(texts, key=lambda text: (-len(text), text))
    ]
