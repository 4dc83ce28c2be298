"""A small transformer over the tokens of SMILES or SELFIES, trained from scratch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crystalfm.chem.molecules import random_smiles
from crystalfm.contracts import UserError
from crystalfm.data.features import TokenStore
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.networks import TokenTransformer
from crystalfm.encoders.settings import check_at_least, check_choice, check_divides, check_rate, check_version
from crystalfm.encoders.tokenizers import tokenize_selfies, tokenize_smiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.encoders.networks import EncoderNetwork

STATE_VERSION = 1
PAD_TOKEN_ID, UNKNOWN_TOKEN_ID, CLASS_TOKEN_ID = range(3)
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]")
_TOKENIZERS = {"smiles": tokenize_smiles, "selfies": tokenize_selfies, "words": str.split}


class TokenTransformerEncoder(ModalityEncoder):
    """A small pre-norm transformer over atom-wise tokens; its vocabulary comes from the training split alone.

    For when no pretrained weights are wanted. Tokens that the training split does not have are unknown: they
    share one vector that is zero and stays so, and the report counts them.

    Args:
        modality: modality it serves (runtime).
        width: width of the network and of its vectors (D).
        num_layers: number of transformer blocks.
        num_heads: attention heads; divides ``width``.
        dropout: dropout in attention and on the residual branches.
        mlp_ratio: width of a block's hidden layer over ``width``.
        max_length: tokens after which a string is cut; the report counts strings that were.
        pooling: ``mean`` over the tokens, or ``cls`` for a class token in front.
        tokenizer: grammar of the strings; ``auto`` takes that of the modality, ``words`` what blanks separate.
        num_random_smiles: further SMILES of each training molecule, of which every epoch draws one (or the one in
            the table); validation, test and prediction read the table's.

    Raises:
        UserError: a setting is out of range, or the modality has no grammar of its own.
    """

    def __init__(
        self,
        *,
        modality: str,
        width: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        dropout: float = 0.0,
        mlp_ratio: float = 4.0,
        max_length: int = 128,
        pooling: Literal["cls", "mean"] = "mean",
        tokenizer: Literal["auto", "smiles", "selfies", "words"] = "auto",
        num_random_smiles: int = 0,
    ) -> None:
        super().__init__(modality)
        for key, value in (("width", width), ("num_layers", num_layers), ("num_heads", num_heads)):
            check_at_least(modality, key, value, 1)
        check_at_least(modality, "max_length", max_length, 2)
        check_at_least(modality, "mlp_ratio", mlp_ratio, 0.1)
        check_rate(modality, "dropout", dropout)
        check_divides(modality, "num_heads", num_heads, "width", width)
        check_choice(modality, "pooling", pooling, ("cls", "mean"))
        check_choice(modality, "tokenizer", tokenizer, ("auto", *_TOKENIZERS))
        grammar = modality if tokenizer == "auto" else tokenizer
        if grammar not in _TOKENIZERS:
            raise UserError(
                f"encoders.{modality}: no tokenizer is known for the modality {modality}",
                remedy=f"set encoders.{modality}.tokenizer to one of {', '.join(_TOKENIZERS)}, or use another encoder",
            )
        if num_random_smiles:
            check_at_least(modality, "num_random_smiles", num_random_smiles, 1)
            if grammar != "smiles":
                raise UserError(
                    f"encoders.{modality}.num_random_smiles={num_random_smiles} needs SMILES",
                    remedy=f"set encoders.{modality}.num_random_smiles=0",
                )
        self._tokenize = _TOKENIZERS[grammar]
        self._num_random_smiles = num_random_smiles
        self._variants: dict[str, list[str]] = {}
        self._width = width
        self._num_layers = num_layers
        self._num_heads = num_heads
        self._dropout = dropout
        self._mlp_ratio = mlp_ratio
        self._max_length = max_length
        self._pooling = pooling
        self._ids: dict[str, int] | None = None
        self._report = EncoderReport(modality, "tokens", frozen=False, width=width)

    def fit(self, values: Sequence[str | None]) -> None:
        """Collect the vocabulary of the training split, the most frequent tokens first."""
        if self._num_random_smiles:
            distinct = {value for value in values if value is not None}
            self._variants = {text: random_smiles(text, num=self._num_random_smiles) for text in sorted(distinct)}
        counts: Counter[str] = Counter()
        for value in values:
            if value is not None:
                counts.update(self._tokenize(value))
                for variant in self._variants.get(value, ()):
                    counts.update(self._tokenize(variant))
        self._set_vocabulary(sorted(counts, key=lambda token: (-counts[token], token)))

    def _set_vocabulary(self, tokens: Sequence[str]) -> None:
        self._ids = {token: number for number, token in enumerate(tokens, start=len(_SPECIAL_TOKENS))}

    @property
    def _vocabulary(self) -> dict[str, int]:
        if self._ids is None:
            raise RuntimeError("the encoder has no vocabulary yet: call fit or load_state first")
        return self._ids

    def prepare(self, values: Sequence[str | None]) -> TokenStore:
        """Return the token ids of every row; rows without the modality have none."""
        ids = self._vocabulary
        flat: list[int] = []
        offsets = np.zeros(len(values) + 1, dtype=np.int64)
        num_cut, num_unknown = 0, 0
        unknown: set[str] = set()
        for row, value in enumerate(values):
            if value is not None:
                tokens = self._tokenize(value)
                numbers = self._numbers(tokens)
                if UNKNOWN_TOKEN_ID in numbers:
                    num_unknown += numbers.count(UNKNOWN_TOKEN_ID)
                    unknown.update(token for token in tokens if token not in ids)
                num_cut += len(numbers) > self._max_length
                flat.extend(numbers[: self._max_length])
            offsets[row + 1] = len(flat)
        self._note(num_cut, num_unknown, unknown)
        present = np.array([value is not None for value in values], dtype=bool)
        variants = self._append_variants(values, flat, offsets) if self._variants else None
        return TokenStore(self.modality, present, np.array(flat, dtype=np.int32), offsets, PAD_TOKEN_ID, variants)

    def _numbers(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of a string's tokens, not cut."""
        numbers = [self._vocabulary.get(token, UNKNOWN_TOKEN_ID) for token in tokens]
        return [CLASS_TOKEN_ID, *numbers] if self._pooling == "cls" else numbers

    def _append_variants(
        self, values: Sequence[str | None], flat: list[int], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Append the tokens of the training rows' random SMILES to ``flat``; return their starts and lengths."""
        starts = np.repeat(offsets[:-1, None], self._num_random_smiles, axis=1)
        lengths = np.repeat(np.diff(offsets)[:, None], self._num_random_smiles, axis=1)
        for row, value in enumerate(values):
            for number, variant in enumerate(self._variants.get(value, ()) if value is not None else ()):
                numbers = self._numbers(self._tokenize(variant))[: self._max_length]
                starts[row, number], lengths[row, number] = len(flat), len(numbers)
                flat.extend(numbers)
        return starts, lengths

    def _note(self, num_cut: int, num_unknown: int, unknown: set[str]) -> None:
        notes = [f"{len(self._vocabulary)} tokens"]
        if num_unknown:
            examples = ", ".join(sorted(unknown)[:5])
            notes.append(f"{num_unknown} unknown tokens outside the training split ({examples})")
        if num_cut:
            notes.append(f"{num_cut} strings cut at {self._max_length} tokens")
        self._report.notes = notes

    def build_network(self) -> EncoderNetwork:
        """Return the transformer, untrained."""
        return TokenTransformer(
            self.modality,
            vocabulary_size=len(self._vocabulary) + len(_SPECIAL_TOKENS),
            width=self._width,
            num_layers=self._num_layers,
            num_heads=self._num_heads,
            dropout=self._dropout,
            mlp_ratio=self._mlp_ratio,
            max_length=self._max_length,
            pooling=self._pooling,
            unknown_token_id=UNKNOWN_TOKEN_ID,
        )

    def state(self) -> dict[str, Any]:
        """Return the vocabulary in the order of its ids."""
        return {"version": STATE_VERSION, "vocabulary": list(self._vocabulary)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the vocabulary.

        Raises:
            UserError: the state is of another version.
        """
        check_version(self.modality, "vocabulary", state, STATE_VERSION)
        self._set_vocabulary([str(token) for token in state["vocabulary"]])

    def report(self) -> EncoderReport:
        """Describe the encoder; after ``prepare`` with the counts of unknown tokens and cut strings."""
        return self._report
