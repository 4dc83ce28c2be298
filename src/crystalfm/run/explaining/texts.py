"""A saved predictor that is asked about crystals under other texts than their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from crystalfm.contracts import MODALITIES, UserError
from crystalfm.data.records import represent
from crystalfm.encoders.huggingface import HuggingFaceEncoder, Precision
from crystalfm.run.prepare import only_test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Console

    from crystalfm.data.records import RecordTable
    from crystalfm.run.saved import SavedPredictor

DESCRIPTION = "description"

_CHUNK = 2048
"""Texts predicted at once: between them the progress is shown."""


class TextAnswers:
    """Predictions for rows of a table under given texts; each pair of a row and a text is computed once.

    Texts that the encoder cannot tell apart, such as those that differ beyond its last token, count as one.

    Args:
        saved: the predictor.
        table: (N,) rows to ask about; all of them have a text.
        precision: arithmetic of a frozen encoder of texts, in place of its own: ``float32`` or ``bfloat16``.
        console: where progress is shown; ``None`` shows none.

    Raises:
        UserError: the predictor reads no texts, or a row has none.
    """

    def __init__(
        self,
        saved: SavedPredictor,
        table: RecordTable,
        *,
        precision: Precision | None = None,
        console: Console | None = None,
    ) -> None:
        if DESCRIPTION not in saved.model.modalities:
            raise UserError(
                f"the model reads no texts, only {', '.join(saved.model.modalities) or 'nothing'}",
                remedy="explain=modalities, or a run with the modality description",
            )
        self._saved = saved
        self._console = console
        encoder = saved.encoders[DESCRIPTION]
        if precision is not None and isinstance(encoder, HuggingFaceEncoder):
            encoder.compute_in(precision)
        self._table, self._values = represent(table, saved.model.modalities)
        texts = table.fields[MODALITIES[DESCRIPTION].source_field]
        if len(self._table) < len(table) or any(text is None for text in texts):
            raise UserError("a row has no text to take parts of", remedy="rows with descriptions: data.description=")
        self._known: dict[tuple[int, bytes], NDArray[np.float64]] = {}

    @property
    def texts(self) -> list[str]:
        """(N,) the rows' own texts."""
        return [text or "" for text in self._values[DESCRIPTION]]

    @property
    def num_predicted(self) -> int:
        """Number of pairs of a row and a text that were computed."""
        return len(self._known)

    @property
    def precision(self) -> str:
        """Arithmetic of the encoder of texts."""
        encoder = self._saved.encoders[DESCRIPTION]
        return encoder.precision if isinstance(encoder, HuggingFaceEncoder) else "float32"

    def predict(self, texts: Sequence[str], owners: Sequence[int]) -> NDArray[np.float64]:
        """Return (M, T) predictions in the targets' units.

        Args:
            texts: M texts.
            owners: row that each of them is put in place of the own text of.
        """
        keys = list(zip(owners, self._seen(texts), strict=True))
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        # Texts of like length together, so that little of a batch is padding.
        order = sorted(new, key=lambda key: len(key[1]))
        starts = range(0, len(order), _CHUNK)
        shown = track(
            starts,
            "explaining",
            console=self._console,
            transient=True,
            disable=self._console is None or len(starts) == 1,
        )
        for start in shown:
            chosen = order[start : start + _CHUNK]
            predicted = self._predict_new([new[key] for key in chosen], [owner for owner, _ in chosen])
            self._known.update(zip(chosen, predicted, strict=True))
        return np.stack([self._known[key] for key in keys])

    def _predict_new(self, texts: list[str], owners: list[int]) -> NDArray[np.float64]:
        values = {name: [column[row] for row in owners] for name, column in self._values.items()}
        values[DESCRIPTION] = list(texts)
        table = self._table.select(owners)
        prepared = self._saved.featurize(table, values, only_test(len(table)))
        return self._saved.estimate(prepared, prepared.splits.test).values

    def _seen(self, texts: Sequence[str]) -> list[bytes]:
        """Return (M,) what the encoder sees of each text: its tokens, or the text where there is no tokenizer."""
        encoder = self._saved.encoders[DESCRIPTION]
        if isinstance(encoder, HuggingFaceEncoder):
            return [np.asarray(row, dtype=np.int32).tobytes() for row in encoder.token_rows(texts)]
        return [text.encode() for text in texts]

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return (M,) tokens of each text that the encoder sees; words where the encoder has no tokenizer."""
        encoder = self._saved.encoders[DESCRIPTION]
        if isinstance(encoder, HuggingFaceEncoder):
            return np.array([len(row) for row in encoder.token_rows(texts)], dtype=np.int64)
        return np.array([len(text.split()) for text in texts], dtype=np.int64)
