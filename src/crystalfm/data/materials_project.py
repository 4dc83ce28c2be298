"""``data=mp``: crystals of the Materials Project: MP-20, or documents of its API saved as JSON."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from crystalfm.chem.crystal_io import as_crystal, crystal_from_text
from crystalfm.contracts import SPLITS, DataSpec, UserError
from crystalfm.data.crystal_dataset import CrystalDataset, CrystalSettings
from crystalfm.data.crystal_table import (
    RawCrystal,
    crystal_records,
    crystal_spec,
    crystal_table,
    extended_splits,
    official_parts,
    target_specs,
)
from crystalfm.data.tabular import read_columns, read_text
from crystalfm.io.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from crystalfm.chem.crystals import Crystal
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits

ASSET = "mp_20"

_SPEC = crystal_spec(
    "mp",
    target_specs(
        {
            "formation_energy_per_atom": ("eV/atom", "energy of formation from the elements"),
            "band_gap": ("eV", "band gap, PBE"),
            "e_above_hull": ("eV/atom", "energy above the convex hull"),
            "energy_per_atom": ("eV/atom", "total energy, corrected (documents only)"),
            "density": ("g/cm^3", "mass density (documents only)"),
            "total_magnetization": ("muB", "magnetic moment of the cell (documents only)"),
            "efermi": ("eV", "Fermi energy (documents only)"),
        }
    ),
    ("formation_energy_per_atom",),
    "CC BY 4.0 (Materials Project), MIT (CDVAE release)",
    "Jain et al., APL Materials 1, 011002 (2013); Xie et al., CDVAE, ICLR 2022",
)

_NAMES = {target.name: (target.name,) for target in _SPEC.targets} | {
    "e_above_hull": ("e_above_hull", "energy_above_hull")
}
"""Columns or fields that hold a target; the API calls the energy above the hull differently from MP-20."""

_ID = "material_id"
_CELL_LENGTH = 100_000_000
"""Longest cell of a CSV: the CIF of a large unit cell goes beyond Python's default of 131,072 characters."""


class MaterialsProject(CrystalDataset):
    """MP-20, or crystals out of the Materials Project's API.

    Ids are the Project's (``mp-149``).

    Args:
        split: ``official``: the parts of MP-20's files. ``extended``: the official test file; of the validation file
            ``val_fraction`` validates and the rest trains together with the training file. ``random``: drawn from
            all rows, copies of a crystal on one side. Where ``path`` is one file, the split is always drawn.
        path: folder with ``train.csv``, ``val.csv`` and ``test.csv``; one such CSV; or a JSON list of ``mp-api``
            documents with ``material_id``, ``structure`` and targets by name. CSV and JSON may be gzip-compressed.
            ``None`` for the asset store.
        targets: names of targets; ``formation_energy_per_atom`` by default.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset`` and ``CrystalDataset``. ``limit`` keeps the share of each official part, at least one
            row; ``split_file`` goes before ``split``; the fractions count where the split is drawn, ``val_fraction``
            for ``extended`` too.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        split: Literal["official", "extended", "random"] = "official",
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
        return self._with_description(_SPEC)

    def load(self) -> RecordTable:
        """Read the crystals, from the cache of the parsed table where there is one; see ``Dataset.load``.

        Raises:
            UserError: a target is unknown or nowhere given, an id occurs twice, or the files are missing or
                unreadable.
        """
        specs = self.selected_targets()
        files, content = self._locate()
        parsed = crystal_table(
            self.store, content, "Materials Project", list(_NAMES), lambda: read_files(files), read_structure
        )
        return crystal_records(parsed, self, specs, None if self.split == "random" else official_parts(parsed))

    def splits_of(self, table: RecordTable) -> Splits | None:
        """Return the official split, whole or extended, or ``None`` where it is drawn; see ``Dataset``.

        Raises:
            UserError: there is no training row.
        """
        if self.split == "extended" and table.parts is not None:
            return extended_splits(table, val_fraction=self.val_fraction, seed=self.drawing_seed)
        return super().splits_of(table)

    def _locate(self) -> tuple[dict[str, Path], str]:
        """Return the file of each part (of the part "" for a file without parts), and a digest of their content."""
        if self.path is None:
            if self.store is None:
                raise UserError("data=mp needs an asset store or data.path", remedy="data.path=FOLDER")
            fetched = self.store.fetch(ASSET)
            return part_files(Path(fetched.folder)), fetched.sha256
        files = part_files(self.path) if self.path.is_dir() else {"": self.path}
        if not self.path.exists():
            raise UserError(
                f"data.path={self.path} does not exist", remedy="give a folder with train.csv, a CSV, or a JSON file"
            )
        return files, sha256_json({part: sha256_file(file) for part, file in files.items()})


def part_files(folder: Path) -> dict[str, Path]:
    """Return ``train.csv``, ``val.csv`` and ``test.csv`` of a folder by part, each perhaps with ``.gz``.

    Raises:
        UserError: one of them is missing.
    """
    found = {}
    for part in SPLITS:
        names = [folder / f"{part}.csv", folder / f"{part}.csv.gz"]
        file = next((name for name in names if name.is_file()), None)
        if file is None:
            raise UserError(
                f"{folder} has no {part}.csv", remedy="expected train.csv, val.csv and test.csv (or .csv.gz)"
            )
        found[part] = file
    return found


def read_files(files: Mapping[str, Path]) -> Iterator[RawCrystal]:
    """Yield the rows of CSV files with a CIF column, or of a JSON list of documents.

    Args:
        files: file by official part.

    Raises:
        UserError: a file cannot be read, or lacks the id or structure.
    """
    for part, file in files.items():
        if Path(file.name.lower().removesuffix(".gz")).suffix == ".json":
            yield from _read_documents(file, part)
        else:
            yield from _read_csv(file, part)


def read_structure(source: object) -> Crystal:
    """Read the CIF text of a CSV, or the structure of a document.

    Raises:
        CrystalError: see ``crystal_io.as_crystal``.
    """
    return crystal_from_text(source, "cif") if isinstance(source, str) else as_crystal(source)


def _read_csv(file: Path, part: str) -> Iterator[RawCrystal]:
    csv.field_size_limit(_CELL_LENGTH)
    there = read_columns(file)
    columns = {name: found for name, names in _NAMES.items() for found in names if found in there}
    cells = read_text(file, [_ID, "cif", *columns.values()])
    for row, (name, cif) in enumerate(zip(cells[_ID], cells["cif"], strict=True)):
        targets = {target: cells[column][row] for target, column in columns.items()}
        yield RawCrystal(name or f"{file.name} row {row}", cif, targets, part)


def _read_documents(file: Path, part: str) -> Iterator[RawCrystal]:
    try:
        raw = file.read_bytes()
        content = json.loads(gzip.decompress(raw) if file.suffix.lower() == ".gz" else raw)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise UserError(f"{file} holds no list of documents", remedy="save what mp-api's search returns as a JSON list")
    for row, item in enumerate(content):
        targets = {
            name: item[field] for name, fields in _NAMES.items() for field in fields if item.get(field) is not None
        }
        yield RawCrystal(_document_id(item, row), item.get("structure"), targets, part)


def _document_id(item: Mapping[str, Any], row: int) -> str:
    """Return the id, which some versions of the API wrap into an object."""
    name = item.get(_ID)
    if isinstance(name, dict):
        name = name.get("string")
    return str(name) if name else f"row {row}"
