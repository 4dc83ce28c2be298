"""The data set that samples are compared with, by the part that each comparison needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import Crystal
from crystalfm.contracts import UserError
from crystalfm.run.build import construct
from crystalfm.run.prepare import load_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.dataset import Dataset
    from crystalfm.data.records import RecordTable

_FORMATION_ENERGY = "formation_energy_per"


@dataclass(frozen=True, eq=False)
class Reference:
    """Crystals of a data set.

    Attributes:
        name: name of the data set.
        content_hash: SHA-256 of its records.
        train: training part: what is not novel.
        test: crystals of the test part, all or some drawn at random: how distributions should be.
        num_test: crystals of the test part.
        everything: all parts, for the hull.
        formation_energies: their energies of formation in eV/atom, NaN where unknown; ``None`` where the data set has
            no such target among those chosen.
    """

    name: str
    content_hash: str
    train: list[Crystal]
    test: list[Crystal]
    num_test: int
    everything: list[Crystal]
    formation_energies: list[float] | None


def load_reference(cfg: DictConfig, store: AssetStore) -> Reference:
    """Load ``cfg.reference``.

    Args:
        cfg: configuration with ``reference``, ``judging``, ``seed`` and ``max_rejected_fraction``.
        store: where data sets come from.

    Raises:
        UserError: the data set has no crystals, or a part is empty.
    """
    dataset: Dataset = construct(cfg.reference, store=store, seed=cfg.seed)
    if "structure" not in dataset.spec().fields:
        raise UserError(f"reference={cfg.reference.name} has no crystals", remedy="write reference=mp")
    table, _, splits = load_table(dataset, [], max_rejected_fraction=float(cfg.max_rejected_fraction), all_rows=False)
    crystals = [None if text is None else Crystal.from_json(text) for text in table.fields["structure"]]

    def part(rows: Sequence[int]) -> list[Crystal]:
        return [crystal for row in rows if (crystal := crystals[row]) is not None]

    train, test = part(splits.train.tolist()), part(splits.test.tolist())
    for name, found in (("training", train), ("test", test)):
        if not found:
            raise UserError(f"reference={cfg.reference.name}: the {name} part is empty", remedy="see reference.split")
    return Reference(
        name=table.spec.name,
        content_hash=table.content_hash,
        train=train,
        test=_some(test, cfg.judging.references, int(cfg.seed)),
        num_test=len(test),
        everything=part(range(len(crystals))),
        formation_energies=_formation_energies(table, [row for row, one in enumerate(crystals) if one is not None]),
    )


def _formation_energies(table: RecordTable, rows: Sequence[int]) -> list[float] | None:
    """Return the energies of formation of rows, by the first target that is one."""
    for column, target in enumerate(table.target_specs):
        if target.name.startswith(_FORMATION_ENERGY) and target.unit == "eV/atom":
            values: list[float] = table.targets[rows, column].tolist()
            return values
    return None


def _some(crystals: Sequence[Crystal], limit: int | None, seed: int) -> list[Crystal]:
    if limit is None or limit >= len(crystals):
        return list(crystals)
    rows = np.random.default_rng([seed, len(crystals)]).permutation(len(crystals))[:limit]
    return [crystals[row] for row in sorted(rows.tolist())]
