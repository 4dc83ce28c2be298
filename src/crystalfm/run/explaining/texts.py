"""A saved predictor that is asked about crystals under other texts than their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crystalfm.contracts import MODALITIES, UserError
from crystalfm.data.records import represent
from crystalfm.encoders.huggingface import HuggingFaceEncoder
from crystalfm.run.prepare import only_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crystalfm.data.records import RecordTable
    from crystalfm.run.saved import SavedPredictor

DESCRIPTION = "description"


class TextAnswers:
    """Predictions for rows of a table under given texts; each pair of a row and a text is computed once.

    Args:
        saved: the predictor.
        table: (N,) rows to ask about; all of them have a text.

    Raises:
        UserError: the predictor reads no texts, or a row has none.
    """

    def __init__(self, saved: SavedPredictor, table: RecordTable) -> None:
        if DESCRIPTION not in saved.model.modalities:
            raise UserError(
                f"the model reads no texts, only {', '.join(saved.model.modalities) or 'nothing'}",
                remedy="explain=modalities, or a run with the modality description",
            )
        self._saved = saved
        self._table, self._values = represent(table, saved.model.modalities)
        texts = table.fields[MODALITIES[DESCRIPTION].source_field]
        if len(self._table) < len(table) or any(text is None for text in texts):
            raise UserError("a row has no text to take parts of", remedy="rows with descriptions: data.description=")
        self._known: dict[tuple[int, str], NDArray[np.float64]] = {}

    @property
    def texts(self) -> list[str]:
        """(N,) the rows' own texts."""
        return [text or "" for text in self._values[DESCRIPTION]]

    def predict(self, texts: Sequence[str], owners: Sequence[int]) -> NDArray[np.float64]:
        """Return (M, T) predictions in the targets' units.

        Args:
            texts: M texts.
            owners: row that each of them is put in place of the own text of.
        """
        pairs = list(zip(owners, texts, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            rows = [owner for owner, _ in new]
            values = {name: [column[row] for row in rows] for name, column in self._values.items()}
            values[DESCRIPTION] = [text for _, text in new]
            table = self._table.select(rows)
            prepared = self._saved.featurize(table, values, only_test(len(table)))
            predicted = self._saved.estimate(prepared, prepared.splits.test).values
            self._known.update(zip(new, predicted, strict=True))
        return np.stack([self._known[pair] for pair in pairs])

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return (M,) tokens of each text that the encoder sees; words where the encoder has no tokenizer."""
        encoder = self._saved.encoders[DESCRIPTION]
        if isinstance(encoder, HuggingFaceEncoder):
            return encoder.count_tokens(texts)
        return np.array([len(text.split()) for text in texts], dtype=np.int64)
