"""What each modality is worth to a model: its errors when it is asked without one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.data.records import represent
from crystalfm.run.prepare import only_test

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crystalfm.data.records import RecordTable
    from crystalfm.run.saved import SavedPredictor


def errors_without(saved: SavedPredictor, table: RecordTable) -> dict[str, NDArray[np.float64]]:
    """Return by modality the absolute errors (N, T) of a model that is asked without it.

    The model takes the modality for missing, as it does for molecules without a description. It stays as it is: what
    it could have learned from the others alone is not measured.

    Args:
        saved: the predictor, of two modalities or more.
        table: (N,) rows with all of them.

    Raises:
        UserError: the model has one modality.
    """
    modalities = list(saved.model.modalities)
    if not modalities[1:]:
        raise UserError(
            f"the model has one modality, {', '.join(modalities) or 'none'}: there is nothing to leave out",
            remedy="a run with several, as modalities=[smiles,fingerprint]",
        )
    rows, values = represent(table, modalities)
    found = {}
    for name in modalities:
        missing: list[str | None] = [None] * len(rows)
        others = {**values, name: missing}
        prepared = saved.featurize(rows, others, only_test(len(rows)))
        found[name] = np.abs(saved.estimate(prepared, prepared.splits.test).values - rows.targets)
    return found
