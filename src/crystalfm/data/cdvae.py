"""``data=perov5`` and ``data=carbon24``: the perovskites and carbon structures of the CDVAE release."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Unpack

import numpy as np

from crystalfm.chem.crystal_io import crystal_from_text
from crystalfm.contracts import SPLITS, DataSpec, UserError
from crystalfm.data.crystal_dataset import CrystalDataset, CrystalSettings
from crystalfm.data.crystal_table import (
    RawCrystal,
    crystal_records,
    crystal_spec,
    crystal_table,
    extended_splits,
    first_at_hand,
    official_parts,
    target_specs,
)
from crystalfm.data.materials_project import part_files
from crystalfm.data.tabular import read_columns, read_text
from crystalfm.io.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from crystalfm.chem.crystals import Crystal
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits

_LOG = logging.getLogger(__name__)

_LICENCE = "MIT (CDVAE release)"
_CELL_LENGTH = 100_000_000
_STRUCTURES = ("cif", "poscar")


class CDVAERelease(CrystalDataset):
    """A data set of the CDVAE release, with its official split.

    Args:
        split: ``official``: the parts of the release. ``extended``: the official test part; of the validation part
            ``val_fraction`` validates and the rest trains together with the training part. ``random``: drawn from
            all rows, copies of a crystal on one side. ``auto``: ``official`` where training rows have a chosen
            target, else ``extended``; a release as one Parquet file has targets for validation and test alone.
        path: folder with ``train.csv``, ``val.csv`` and ``test.csv`` (a ``cif`` column), perhaps with ``.gz``, or
            one Parquet file with the columns ``split``, ``material_id`` and ``poscar``; ``None`` for the asset store.
        targets: names of targets.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset`` and ``CrystalDataset``. ``limit`` keeps the share of each official part, at least one
            row; ``split_file`` goes before ``split``; ``test_fraction`` counts for ``split=random``, ``val_fraction``
            for ``extended`` too, of the validation part.

    Raises:
        UserError: a setting is out of range.
    """

    ASSETS: ClassVar[tuple[str, ...]]
    """The release and what may stand in for it."""

    SPEC: ClassVar[DataSpec]

    def __init__(
        self,
        *,
        split: Literal["auto", "official", "extended", "random"] = "auto",
        path: str | None = None,
        targets: list[str] | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        **shared: Unpack[CrystalSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        self.split = split
        self.path = None if path is None else Path(path).expanduser()

    def spec(self) -> DataSpec:
        """Describe the targets on offer; reads nothing."""
        return self._with_description(self.SPEC)

    def load(self) -> RecordTable:
        """Read the crystals, from the cache of the parsed table where there is one; see ``Dataset.load``.

        Raises:
            UserError: a target is unknown or nowhere given, an id occurs twice, or the files are missing or
                unreadable.
        """
        specs = self.selected_targets()
        files, content = self._locate()
        names = [target.name for target in self.SPEC.targets]
        title = self.SPEC.name
        parsed = crystal_table(self.store, content, title, names, lambda: _rows(files, names), _read)
        return crystal_records(parsed, self, specs, None if self.split == "random" else official_parts(parsed))

    def splits_of(self, table: RecordTable) -> Splits | None:
        """Return the official split, whole or extended, or ``None`` for ``split=random``; see ``Dataset``.

        Raises:
            UserError: there is no training row.
        """
        if table.parts is None:
            return None
        untrained = self.split == "auto" and not np.any(table.parts == "train")
        if untrained:
            _LOG.warning("%s: no training row has a target; data.split=extended is used", self.SPEC.name)
        if self.split == "extended" or untrained:
            return extended_splits(table, val_fraction=self.val_fraction, seed=self.drawing_seed)
        return super().splits_of(table)

    def _locate(self) -> tuple[dict[str, Path], str]:
        """Return the file of each part (of the part "" for a file of all parts), and a digest of their content."""
        if self.path is not None:
            if not self.path.exists():
                raise UserError(f"data.path={self.path} does not exist", remedy="give a folder or a Parquet file")
            files = part_files(self.path) if self.path.is_dir() else {"": self.path}
            return files, sha256_json({part: sha256_file(file) for part, file in files.items()})
        if self.store is None:
            raise UserError(f"data={self.SPEC.name} needs an asset store or data.path", remedy="data.path=FOLDER")
        fetched = first_at_hand(self.store, self.ASSETS)
        folder = Path(fetched.folder)
        if fetched.name == self.ASSETS[0]:
            return part_files(folder), fetched.sha256
        return {"": folder / self.store.asset(fetched.name).required[0].name}, fetched.sha256


class Perov5(CDVAERelease):
    """Perov-5: 18,928 perovskites of five atoms, with heats of formation and band gaps; see ``CDVAERelease``."""

    ASSETS = ("perov_5", "perov_5_parquet")
    SPEC = crystal_spec(
        "perov5",
        target_specs(
            {
                "heat_ref": ("eV", "heat of formation of the cell from the elements' reference phases"),
                "heat_all": ("eV", "heat of formation of the cell from all known phases"),
                "ind_gap": ("eV", "indirect band gap"),
                "dir_gap": ("eV", "direct band gap"),
            }
        ),
        ("heat_all",),
        _LICENCE,
        "Castelli et al., Energy Environ. Sci. 5, 9034 and 5814 (2012); Xie et al., CDVAE, ICLR 2022",
    )


class Carbon24(CDVAERelease):
    """Carbon-24: 10,153 carbon structures of 6 to 24 atoms at 10 GPa, with energies; see ``CDVAERelease``."""

    ASSETS = ("carbon_24", "carbon_24_parquet")
    SPEC = crystal_spec(
        "carbon24",
        target_specs({"energy_per_atom": ("eV/atom", "total energy")}),
        ("energy_per_atom",),
        _LICENCE,
        "Pickard, Materials Cloud 2020.0026/v1 (2020); Xie et al., CDVAE, ICLR 2022",
    )


def _rows(files: Mapping[str, Path], targets: list[str]) -> Iterator[RawCrystal]:
    """Yield the rows of the files; a file of all parts names them in its column ``split``."""
    csv.field_size_limit(_CELL_LENGTH)
    for part, file in files.items():
        there = read_columns(file)
        structure = next((name for name in _STRUCTURES if name in there), _STRUCTURES[0])
        known = [name for name in targets if name in there]
        cells = read_text(file, ["material_id", structure, *known, *(["split"] if "split" in there else [])])
        parts = cells.get("split", [part] * len(cells[structure]))
        for row, (name, text, own) in enumerate(zip(cells["material_id"], cells[structure], parts, strict=True)):
            values = {target: cells[target][row] for target in known}
            yield RawCrystal(
                name or f"{file.name} row {row}", (structure, text), values, own if own in SPLITS else part
            )


def _read(source: tuple[str, str | None]) -> Crystal:
    """Read a cell of the column ``cif`` or ``poscar``."""
    column, text = source
    return crystal_from_text(text or "", "cif" if column == "cif" else "poscar")
