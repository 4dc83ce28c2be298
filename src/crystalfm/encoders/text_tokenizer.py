"""Text to token ids of a pretrained encoder, in a form that a checkpoint can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalfm.encoders.tokenizers import SMILES_PATTERN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class TextTokenizer:
    """A tokenizer of the `tokenizers` library that cuts long texts, counts them, and never pads.

    Args:
        definition: the tokenizer as JSON.
        pad_token_id: id that fills a batch; also stands for a text without any token.
        max_length: most tokens of a text, special tokens included.
    """

    def __init__(self, definition: str, pad_token_id: int, max_length: int) -> None:
        from tokenizers import Tokenizer

        self.pad_token_id = pad_token_id
        self.max_length = max_length
        self._tokenizer: Any = Tokenizer.from_str(definition)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    @property
    def definition(self) -> str:
        """The tokenizer as JSON."""
        return str(self._tokenizer.to_str())

    def has_class_token(self) -> bool:
        """Whether every text begins with a token of the tokenizer's own."""
        return bool(self._tokenizer.encode("").ids)

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Return the token ids of each text, at least one, and how many texts were cut."""
        encodings = self._tokenizer.encode_batch(list(texts))
        num_cut = sum(bool(encoding.overflowing) for encoding in encodings)
        return [encoding.ids or [self.pad_token_id] for encoding in encodings], num_cut


def smiles_vocabulary_tokenizer(vocabulary: Path, max_length: int) -> TextTokenizer:
    """Return the tokenizer of a SMILES BERT: atom-wise tokens between ``[CLS]`` and ``[SEP]``.

    Schwaller et al., Nature Machine Intelligence 3, 144 (2021).

    Args:
        vocabulary: file with one token a line.
        max_length: most tokens of a text, special tokens included.

    Raises:
        OSError: the file cannot be read.
        KeyError: it lacks a special token.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    tokens = vocabulary.read_text(encoding="utf-8").splitlines()
    ids = {token: number for number, token in enumerate(tokens)}
    unknown = "[UNK]"
    tokenizer: Any = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    # What lies between two matches becomes a piece too, hence unknown, and is not dropped.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES_PATTERN), behavior="isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return TextTokenizer(tokenizer.to_str(), ids["[PAD]"], max_length)
