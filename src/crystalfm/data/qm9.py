"""``data=qm9``: the QM9 molecules with quantum-chemical targets."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from crystalfm.chem.molecules import canonicalize
from crystalfm.contracts import DataSpec, TargetSpec, UserError
from crystalfm.data.dataset import Dataset, SharedSettings
from crystalfm.data.parsed_cache import cached_table
from crystalfm.data.records import RecordTable, Rejection, group_numbers
from crystalfm.io.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


Source = Literal["auto", "wheel", "moleculenet"]

READER_VERSION = 1
"""Part of the key of the parsed table: raise it when reading changes."""

WHEEL_ASSET = "qm9"
MOLECULENET_ASSET = "qm9_moleculenet"


@dataclass(frozen=True)
class _Column:
    """A target: its specification and its column in the files of the wheel."""

    spec: TargetSpec
    wheel_name: str


_COLUMNS = (
    _Column(TargetSpec("A", "GHz", "rotational constant A"), "RotA_GHz"),
    _Column(TargetSpec("B", "GHz", "rotational constant B"), "RotB_GHz"),
    _Column(TargetSpec("C", "GHz", "rotational constant C"), "RotC_GHz"),
    _Column(TargetSpec("mu", "debye", "dipole moment"), "Dipole_debye"),
    _Column(TargetSpec("alpha", "bohr^3", "isotropic polarizability"), "Polarizability_bohr3"),
    _Column(TargetSpec("homo", "hartree", "energy of the highest occupied orbital"), "HOMO_au"),
    _Column(TargetSpec("lumo", "hartree", "energy of the lowest unoccupied orbital"), "LUMO_au"),
    _Column(TargetSpec("gap", "hartree", "LUMO minus HOMO"), "HOMO_LUMO_gap_au"),
    _Column(TargetSpec("r2", "bohr^2", "electronic spatial extent"), "R2_bohr2"),
    _Column(TargetSpec("zpve", "hartree", "zero-point vibrational energy"), "ZPVE_au"),
    _Column(TargetSpec("u0", "hartree", "internal energy at 0 K"), "InternalEnergy_0K_au"),
    _Column(TargetSpec("u298", "hartree", "internal energy at 298.15 K"), "InternalEnergy_298K_au"),
    _Column(TargetSpec("h298", "hartree", "enthalpy at 298.15 K"), "Enthalphy_298K_au"),
    _Column(TargetSpec("g298", "hartree", "free energy at 298.15 K"), "GibbsFreeEnergy_298K_au"),
    _Column(TargetSpec("cv", "cal/(mol K)", "heat capacity at 298.15 K"), "Heatcapacity_Cv_cal_mol_K"),
)
"""Names and units are those of MoleculeNet's ``qm9.csv``; the wheel's numbers are in the same units."""

_SPEC = DataSpec(
    name="qm9",
    fields=("smiles",),
    targets=tuple(column.spec for column in _COLUMNS),
    default_targets=("homo", "lumo", "gap"),
    licence="CC0-1.0",
    citation="Ramakrishnan et al., Scientific Data 1, 140022 (2014)",
)


class QM9(Dataset):
    """QM9: small organic molecules of up to nine C, N, O and F atoms, B3LYP/6-31G(2df,p).

    The wheel holds the 130,831 molecules that passed the authors' consistency check; MoleculeNet's CSV all
    133,885. Both give the same ids (``gdb_1`` ...), so that a split file of one can be used with the other.

    Args:
        source: ``wheel``, ``moleculenet``, or ``auto``: the file of ``path`` if given, else the wheel.
        path: MoleculeNet's ``qm9.csv``, or a folder with the wheel's CSV files; ``None`` for the asset store.
        targets: names of targets; ``homo``, ``lumo`` and ``gap`` by default.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset``.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        source: Literal["auto", "wheel", "moleculenet"] = "auto",
        path: str | None = None,
        targets: list[str] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        self.source = source
        self.path = None if path is None else Path(path).expanduser()

    def spec(self) -> DataSpec:
        """Describe QM9; reads nothing."""
        return _SPEC

    def load(self) -> RecordTable:
        """Read the molecules, from the cache of the parsed table where there is one; see ``Dataset.load``.

        Raises:
            UserError: a target is unknown, or the files are missing or not QM9's.
        """
        specs = self.selected_targets()
        files, content = self._locate()
        parsed = self._parsed(files, content)
        if self.limit is not None:
            parsed = parsed.take(self.subset(parsed.num_rows))
        return _record_table(parsed, specs)

    def _locate(self) -> tuple[list[Path], str]:
        """Return the CSV files and the SHA-256 of their content."""
        if self.path is not None:
            files = _csv_files(self.path)
            return files, sha256_json([sha256_file(file) for file in files])
        if self.store is None:
            raise UserError("data=qm9 needs an asset store or data.path", remedy="data.path=qm9.csv")
        fetched = self.store.fetch(MOLECULENET_ASSET if self.source == "moleculenet" else WHEEL_ASSET)
        return _csv_files(Path(fetched.folder)), fetched.sha256

    def _parsed(self, files: Sequence[Path], content: str) -> pa.Table:
        """Return the parsed table (Arrow) from the cache, or read, canonicalize and cache it."""
        if self.store is None:
            return _parse(files, self.source)
        key = sha256_json({"raw": content, "reader": READER_VERSION, "rdkit": metadata.version("rdkit")})
        return cached_table(Path(self.store.cache), key, "QM9", lambda: _parse(files, self.source))


def _csv_files(path: Path) -> list[Path]:
    """Return QM9's CSV files at ``path``: itself, the wheel's parts in order, or a folder's only CSV."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"data.path={path} does not exist", remedy="give MoleculeNet's qm9.csv")
    parts = sorted(path.glob("qm9_part*.csv"))
    if parts:
        return parts
    others = sorted(path.glob("*.csv"))
    if len(others) == 1:
        return others
    raise UserError(f"{path} holds no QM9", remedy="expected qm9_part1.csv ... of the wheel, or MoleculeNet's qm9.csv")


def _parse(files: Sequence[Path], source: Source) -> pa.Table:
    """Read the files and find each molecule's canonical SMILES.

    Returns:
        an Arrow table with the columns id, smiles, canonical, reason (null where accepted) and the targets.
    """
    import pyarrow as pa

    raw = pa.concat_tables([_read_csv(file, source) for file in files])
    smiles = raw["smiles"].to_pylist()
    canonical, problems = canonicalize(smiles)
    reasons: list[str | None] = [None] * len(smiles)
    for problem in problems:
        reasons[problem.row] = problem.reason
    raw = raw.append_column("canonical", pa.array(canonical, pa.string()))
    return raw.append_column("reason", pa.array(reasons, pa.string()))


def _read_csv(path: Path, source: Source) -> pa.Table:
    """Read one file, in the layout of ``source``, into the columns id, smiles and the targets."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    with path.open(encoding="utf-8") as stream:
        header = stream.readline().strip().split(",")
    from_wheel = source == "wheel" or (source == "auto" and "SMILES" in header)
    id_name, smiles_name = ("Index", "SMILES") if from_wheel else ("mol_id", "smiles")
    names = [column.wheel_name if from_wheel else column.spec.name for column in _COLUMNS]
    missing = sorted({id_name, smiles_name, *names} - set(header))
    if missing:
        raise UserError(
            f"{path} is not QM9: it has no column {', '.join(missing)}",
            remedy="expected MoleculeNet's qm9.csv or the wheel's qm9_part*.csv (data=csv reads your own)",
        )
    kinds = dict.fromkeys(names, pa.float64()) | {id_name: pa.string(), smiles_name: pa.string()}
    try:
        # The files are 230 MB, most of it geometries and spectra that nobody asked for.
        options = csv.ConvertOptions(include_columns=[id_name, smiles_name, *names], column_types=kinds)
        table = csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} cannot be read as QM9: {error}") from error
    ids = pc.binary_join_element_wise("gdb", table[id_name], "_") if from_wheel else table[id_name]
    arrays = [ids.cast(pa.string()), table[smiles_name], *(table[name] for name in names)]
    return pa.table(arrays, names=["id", "smiles", *(column.spec.name for column in _COLUMNS)])


def _record_table(parsed: pa.Table, specs: tuple[TargetSpec, ...]) -> RecordTable:
    """Turn the parsed table into records with the chosen targets."""
    ids = np.array(parsed["id"].to_pylist(), dtype=np.str_)
    smiles = parsed["smiles"].to_pylist()
    reasons = parsed["reason"].to_pylist()
    rejected = [
        Rejection(str(ids[row]), reason, smiles[row]) for row, reason in enumerate(reasons) if reason is not None
    ]
    table = RecordTable(
        spec=_SPEC,
        ids=ids,
        fields={"smiles": smiles},
        targets=np.stack([parsed[spec.name].to_numpy() for spec in specs], axis=1).astype(np.float64),
        target_specs=specs,
        groups=group_numbers(parsed["canonical"].to_pylist()),
        rejected=rejected,
    )
    return table.select([reason is None for reason in reasons]) if rejected else table
