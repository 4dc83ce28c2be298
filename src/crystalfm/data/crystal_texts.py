"""Crystals as token sequences for a language model, several of them packed into each row of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from crystalfm.contracts import batch_key
from crystalfm.data.features import FeatureStore
from crystalfm.generation.prompts import plain_example, training_example
from crystalfm.generation.writer import completion_ids, prompt_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal
    from crystalfm.generation.prompts import Example, PromptSettings

MODALITY = "crystal_text"
IGNORED = -100
"""Label of a token that is not learned; torch's losses know it by this number."""

_WIDTH_STEP = 32
"""Rows are padded to multiples of this, so that batches have few shapes: oneDNN keeps memory for each."""

_NUM_VARIANTS = (1 << 31) - 1
"""Enough that no two accesses of a row draw the same prompt and translation; times 10⁶ rows it still fits 64 bits."""


class CrystalTextStore(FeatureStore):
    """Prompts and completions of crystals, made at each access.

    Variant 0 of a row is the crystal as its source has it, after the prompt that asks for nothing particular; every
    other variant draws the task, the conditions and a translation from (seed, row, variant), so that training sees
    each crystal in a new way in every epoch, and the same way again after a restart.

    Args:
        crystals: (N,) crystals.
        properties: (N,) what is known of each, by name of the condition.
        prompts: how they are worded.
        tokenizer: fast tokenizer of the language model.
        pack_length: tokens of a packed row; a longer text has a row of its own.
        learn: ``completion`` for the loss on what the model is to write, ``all`` for the prompt's tokens too.
        seed: seed of the variants.
    """

    def __init__(
        self,
        crystals: Sequence[Crystal],
        properties: Sequence[Mapping[str, float]],
        prompts: PromptSettings,
        tokenizer: Any,
        *,
        pack_length: int = 512,
        learn: Literal["completion", "all"] = "completion",
        seed: int = 42,
    ) -> None:
        if len(crystals) != len(properties):
            raise ValueError(f"{len(crystals)} crystals, but properties of {len(properties)}")
        super().__init__(MODALITY, np.ones(len(crystals), dtype=np.bool_))
        self._crystals = crystals
        self._properties = properties
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._pack_length = pack_length
        self._learn = learn
        self._seed = seed
        examples = [plain_example(crystal, prompts) for crystal in crystals]
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
            return plain_example(self._crystals[row], self._prompts)
        generator = np.random.default_rng([self._seed, row, variant])
        return training_example(self._crystals[row], self._properties[row], self._prompts, generator)

    def gather(self, rows: NDArray[np.int64], variants: NDArray[np.int64] | None = None) -> dict[str, Tensor]:
        """Return tokens, labels, positions and segments of ``rows``, each (R, L), packed; see ``contracts``."""
        drawn = np.zeros(len(rows), dtype=np.int64) if variants is None else variants
        examples = [self.example(row, variant) for row, variant in zip(rows.tolist(), drawn.tolist(), strict=True)]
        return pack(
            self._tokenized(examples),
            length=self._pack_length,
            pad_token_id=self._tokenizer.pad_token_id,
            learn_prompt=self._learn == "all",
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


def pack(
    sequences: Sequence[tuple[list[int], int]], *, length: int, pad_token_id: int, learn_prompt: bool = False
) -> dict[str, Tensor]:
    """Put sequences one after the other into as few rows as first-fit decreasing finds.

    Args:
        sequences: tokens of each of B texts, and how many of them are its prompt's.
        length: tokens that fit into a row; a longer text has a row of its own.
        pad_token_id: token that fills the rows on the right.
        learn_prompt: label the prompt's tokens too. The first token of a text is never labelled: nothing of its own
            text comes before it.

    Returns:
        ``crystal_text.tokens``, ``.labels``, ``.positions`` and ``.segments``, each (R, L) int64.
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
    for place, row in enumerate(rows):
        start = 0
        for index in row:
            ids, num_prompt = sequences[index]
            end, learned = start + len(ids), start + max(1, 0 if learn_prompt else num_prompt)
            tokens[place, start:end] = ids
            labels[place, learned:end] = tokens[place, learned:end]
            positions[place, start:end] = np.arange(len(ids))
            segments[place, start:end] = index
            start = end
    arrays = {"tokens": tokens, "labels": labels, "positions": positions, "segments": segments}
    return {batch_key(MODALITY, kind): torch.from_numpy(array) for kind, array in arrays.items()}
