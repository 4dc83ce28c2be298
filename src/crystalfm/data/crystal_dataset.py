"""What the data sets of crystals share: texts that describe their crystals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Unpack

from crystalfm.data.dataset import Dataset, SharedSettings

if TYPE_CHECKING:
    from crystalfm.contracts import DataSpec


class CrystalSettings(SharedSettings, total=False):
    """Settings that every data set of crystals takes and hands on to ``CrystalDataset``."""

    description: Literal["robocrys", "chemnlp", "slices"] | None


class CrystalDataset(Dataset):
    """Base of all data sets of crystals.

    Args:
        targets: see ``Dataset``.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        description: texts that are made of the crystals for the modality ``description``: ``robocrys``,
            Robocrystallographer's; ``chemnlp``, a list of facts in the manner of ChemNLP; or ``None`` for no texts.
        shared: see ``Dataset``.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        targets: list[str] | None,
        batch_size: int,
        eval_batch_size: int,
        description: Literal["robocrys", "chemnlp", "slices"] | None = None,
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        self.description = description

    def _with_description(self, spec: DataSpec) -> DataSpec:
        """Return a specification with the field ``description`` where texts are to be made."""
        return spec if self.description is None else replace(spec, fields=(*spec.fields, "description"))
