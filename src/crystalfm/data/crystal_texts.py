"""Crystals and defects as token sequences for a language model, several of them packed into each row of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from crystalfm.contracts import batch_key
from crystalfm.data.features import FeatureStore
from crystalfm.generation.writer import completion_ids, prompt_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crystalfm.generation.prompts import Example
    from crystalfm.generation.writing import PieceGrammar

MODALITY = "crystal_text"
IGNORED = -100
"""Label of a token that is not learned; torch's losses know it by this number."""

_WIDTH_STEP = 32
"""Rows are padded to multiples of this, so that batches have few shapes: oneDNN keeps memory for each."""

_NUM_VARIANTS = (1 << 31) - 1
"""Enough that no two accesses of a row draw the same prompt and translation; times 10⁶ rows it still fits 64 bits."""


class ExampleSource(Protocol):
    """Where a store's prompts and answers come from: crystals, or defects of layers."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def plain(self, row: int) -> Example:
        """Return the example of a row without anything random."""

    def drawn(self, row: int, rng: np.random.Generator) -> Example:
        """Return a random example of a row."""


class CrystalTextStore(FeatureStore):
    """Prompts and completions of crystals or defects, made at each access.

    Variant 0 of a row is its source's plain example; every other variant is drawn by the source from (seed, row,
    variant), so that training sees each row in a new way in every epoch, and the same way again after a restart.

    Args:
        source: makes the examples of N rows.
        tokenizer: fast tokenizer of the language model.
        pack_length: tokens of a packed row; a longer text has a row of its own.
        learn: ``completion`` for the loss on what the model is to write, ``all`` for the prompt's tokens too.
        seed: seed of the variants.
        grammar: where it is given, batches say which tokens of plain examples it leaves a choice about.
    """

    def __init__(
        self,
        source: ExampleSource,
        tokenizer: Any,
        *,
        pack_length: int = 512,
        learn: Literal["completion", "all"] = "completion",
        seed: int = 42,
        grammar: PieceGrammar | None = None,
    ) -> None:
        super().__init__(MODALITY, np.ones(len(source), dtype=np.bool_))
        self._source = source
        self._tokenizer = tokenizer
        self._pack_length = pack_length
        self._learn = learn
        self._seed = seed
        self._grammar = grammar
        self._decided: dict[int, list[bool]] = {}
        examples = [source.plain(row) for row in range(len(source))]
        self._costs = np.array([len(ids) for ids, _ in self._tokenized(examples)], dtype=np.int64)

    @property
    def costs(self) -> NDArray[np.int64]:
        """Tokens of each row's variant 0 (N,)."""
        return self._costs

    @property
    def num_variants(self) -> int:
        """As many as there are numbers: variants are drawn, not stored."""
        return _NUM_VARIANTS

    def example(self, row: int, variant: int) -> Example:
        """Return prompt and completion of a variant of a row."""
        if variant == 0:
            return self._source.plain(row)
        return self._source.drawn(row, np.random.default_rng([self._seed, row, variant]))

    def gather(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Return tokens, labels, positions and segments of ``rows``, each (R, L), packed; see ``contracts``.

        With a grammar, plain examples come with ``crystal_text.decided`` (R, L) bool too: learned tokens that it
        leaves a choice about.
        """
        drawn = np.zeros(len(rows), dtype=np.int64) if variants is None else variants
        examples = [self.example(row, variant) for row, variant in zip(rows.tolist(), drawn.tolist(), strict=True)]
        sequences = self._tokenized(examples)
        decided = None
        if self._grammar is not None and not drawn.any():
            found = zip(rows.tolist(), examples, sequences, strict=True)
            decided = [self._decided_in(row, example, *sequence) for row, example, sequence in found]
        return pack(
            sequences,
            length=self._pack_length,
            pad_token_id=self._tokenizer.pad_token_id,
            learn_prompt=self._learn == "all",
            decided=decided,
        )

    def _tokenized(self, examples: Sequence[Example]) -> list[tuple[list[int], int]]:
        """Return the tokens of each example, and how many of them are the prompt's."""
        prompts: dict[str, list[int]] = {}
        found = []
        for example in examples:
            if example.prompt not in prompts:
                prompts[example.prompt] = prompt_ids(self._tokenizer, example.prompt)
            before = prompts[example.prompt]
            found.append(([*before, *completion_ids(self._tokenizer, example.completion)], len(before)))
        return found

    def _decided_in(self, row: int, example: Example, tokens: list[int], num_prompt: int) -> list[bool]:
        """Return which tokens of a plain example its grammar left a choice about."""
        if row not in self._decided:
            decided = [False] * len(tokens)
            if self._grammar is not None and example.constraint is not None:
                answer = tokens[num_prompt:]
                decided[num_prompt:] = self._grammar.decided_tokens(example.task, example.constraint, answer)
            self._decided[row] = decided
        return self._decided[row]


def pack(
    sequences: Sequence[tuple[list[int], int]],
    *,
    length: int,
    pad_token_id: int,
    learn_prompt: bool = False,
    decided: Sequence[list[bool]] | None = None,
) -> dict[str, Tensor]:
    """Put sequences one after the other into as few rows as first-fit decreasing finds.

    Args:
        sequences: tokens of each of B texts, and how many of them are its prompt's.
        length: tokens that fit into a row; a longer text has a row of its own.
        pad_token_id: token that fills the rows on the right.
        learn_prompt: label the prompt's tokens too. The first token of a text is never labelled: nothing of its own
            text comes before it.
        decided: which tokens of each text are marked; None for no marks.

    Returns:
        ``crystal_text.tokens``, ``.labels``, ``.positions`` and ``.segments``, each (R, L) int64, and where tokens are
        marked ``.decided`` (R, L) bool.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda place: -len(sequences[place][0])):
        size = len(sequences[index][0])
        place = next((row for row, left in enumerate(free) if left >= size), None)
        if place is None:
            rows.append([])
            free.append(max(length, size))
            place = len(rows) - 1
        rows[place].append(index)
        free[place] -= size
    longest = max((sum(len(sequences[index][0]) for index in row) for row in rows), default=0)
    width = -(-longest // _WIDTH_STEP) * _WIDTH_STEP
    tokens = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    segments = np.full((len(rows), width), -1, dtype=np.int64)
    marked = np.zeros((len(rows), width), dtype=np.bool_)
    for place, row in enumerate(rows):
        start = 0
        for index in row:
            ids, num_prompt = sequences[index]
            end, learned = start + len(ids), start + max(1, 0 if learn_prompt else num_prompt)
            tokens[place, start:end] = ids
            labels[place, learned:end] = tokens[place, learned:end]
            positions[place, start:end] = np.arange(len(ids))
            segments[place, start:end] = index
            if decided is not None:
                marked[place, start:end] = decided[index]
            start = end
    arrays: dict[str, NDArray[Any]] = {"tokens": tokens, "labels": labels, "positions": positions, "segments": segments}
    if decided is not None:
        arrays["decided"] = marked
    return {batch_key(MODALITY, kind): torch.from_numpy(array) for kind, array in arrays.items()}
