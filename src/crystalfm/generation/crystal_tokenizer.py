"""A tokenizer for prompts and crystals alone: elements and two-digit numbers are tokens, each with what separates it.

A site is four tokens (an element and three coordinates), a cell length two, a cell angle one, a sentence of a prompt
one. Token boundaries follow from the text alone, so that a text has one sequence of tokens, and the joined tokens give
the text back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.generation.prompts import MASK, SENTENCES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.generation.prompts import PromptSettings

PAD_TEXT = "<pad>"
BOS_TEXT = "<s>"
EOS_TEXT = "</s>"
UNKNOWN_TEXT = "<unk>"

MAX_TEXT_TOKENS = 8192

_LARGEST_ANGLE = 179
"""Whole numbers up to this are tokens together with what separates them; larger ones are written in pieces."""

_LARGEST_NUMBER = 230
"""Whole numbers up to this are tokens by themselves: the first length of a cell, space groups, counts in formulas."""

_COORD_DIGITS = 2
"""Decimals of a coordinate in its first token; the rest follow two at a time."""

_SEPARATORS = ("\n", " ")
_CHARACTERS = (*"0123456789", *_SEPARATORS, ".", "-")


def build_crystal_tokenizer(settings: PromptSettings) -> Any:
    """Return the tokenizer as a ``transformers.PreTrainedTokenizerFast``.

    It is lossless for everything that ``prompts`` and the settings' text format write; any other character is
    ``<unk>``. The hidden element's mark is an ordinary token. The same settings give the same ids.
    """
    return build_tokenizer(vocabulary(settings), token_pattern(settings))


def build_tokenizer(tokens: Sequence[str], pattern: str) -> Any:
    """Return a fast tokenizer of whole tokens.

    Args:
        tokens: tokens in the order of their ids, the special ones among them.
        pattern: regular expression of one token.
    """
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    backend: Any = Tokenizer(
        models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=UNKNOWN_TEXT)
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    backend.decoder = decoders.Fuse()
    fast_tokenizer: Any = transformers.PreTrainedTokenizerFast
    return fast_tokenizer(
        tokenizer_object=backend,
        pad_token=PAD_TEXT,
        bos_token=BOS_TEXT,
        eos_token=EOS_TEXT,
        unk_token=UNKNOWN_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TEXT_TOKENS,
        padding_side="right",
    )


def vocabulary(settings: PromptSettings) -> list[str]:
    """Return the tokens in the order of their ids."""
    coord_digits = min(_COORD_DIGITS, settings.text.coord_digits)
    tokens = [PAD_TEXT, BOS_TEXT, EOS_TEXT, UNKNOWN_TEXT, *_CHARACTERS, *SENTENCES, f"\n{MASK}"]
    tokens += [start + symbol for start in ("\n", "") for symbol in SYMBOLS]
    tokens += [f"{start}0.{value:0{coord_digits}d}" for start in _SEPARATORS for value in range(10**coord_digits)]
    tokens += [f"{start}{value}" for start in _SEPARATORS for value in range(_LARGEST_ANGLE + 1)]
    tokens += [str(value) for value in range(_LARGEST_NUMBER + 1)]
    tokens += [f".{value}" for value in range(10)]
    tokens += [f"{start}{value:02d}" for start in (".", "") for value in range(100)]
    return list(dict.fromkeys(tokens))


def token_pattern(settings: PromptSettings) -> str:
    """Return the regular expression of one token; earlier alternatives go before later ones."""
    coord_digits = min(_COORD_DIGITS, settings.text.coord_digits)
    symbols = "|".join(sorted(SYMBOLS, key=lambda symbol: (-len(symbol), symbol)))
    return "|".join(
        [
            *(_escaped(sentence) for sentence in sorted(SENTENCES, key=len, reverse=True)),
            _escaped(f"\n{MASK}"),
            rf"\n(?:{symbols})",
            rf"[\n ]0\.[0-9]{{{coord_digits}}}",
            r"[\n ](?:1[0-7][0-9]|[1-9]?[0-9])(?![0-9])",
            r"\.[0-9]{1,2}",
            r"(?:230|2[0-2][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?![0-9])",
            r"[0-9]{2}",
            symbols,
            r"[0-9\n .-]",
        ]
    )


def _escaped(text: str) -> str:
    return re.escape(text).replace("\\\n", r"\n").replace("\n", r"\n")
