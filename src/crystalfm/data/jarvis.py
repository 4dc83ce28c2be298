"""``data=jarvis``: crystals of JARVIS-DFT with the quantities of ``dft_3d``, and splits by id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from crystalfm.chem.crystal_io import crystal_from_jarvis, read_crystal_file
from crystalfm.contracts import DataSpec, UserError
from crystalfm.data.crystal_dataset import CrystalDataset, CrystalSettings
from crystalfm.data.crystal_table import (
    RawCrystal,
    crystal_records,
    crystal_spec,
    crystal_table,
    first_at_hand,
    target_specs,
)
from crystalfm.data.id_splits import parts_of_ids, read_id_splits
from crystalfm.data.json_records import read_records
from crystalfm.io.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal
    from crystalfm.data.records import RecordTable

RELEASES = {
    "auto": ("jarvis_dft_3d_2022", "jarvis_dft_3d_subset"),
    "2022.12.12": ("jarvis_dft_3d_2022",),
    "2021.8.18": ("jarvis_dft_3d_2021",),
    "sample": ("jarvis_sample",),
}
"""Assets of each release, the first at hand is read."""

HYBRID_SPLITS = "jarvis_hybrid_splits"

_TARGETS = {
    "formation_energy_peratom": ("eV/atom", "energy of formation, OptB88vdW"),
    "optb88vdw_total_energy": ("eV/atom", "total energy, OptB88vdW"),
    "ehull": ("eV/atom", "energy above the convex hull"),
    "optb88vdw_bandgap": ("eV", "band gap, OptB88vdW"),
    "mbj_bandgap": ("eV", "band gap, TBmBJ"),
    "hse_gap": ("eV", "band gap, HSE06"),
    "bulk_modulus_kv": ("GPa", "bulk modulus, Voigt"),
    "shear_modulus_gv": ("GPa", "shear modulus, Voigt"),
    "poisson": ("1", "Poisson's ratio"),
    "magmom_oszicar": ("muB", "magnetic moment of the cell (OSZICAR)"),
    "magmom_outcar": ("muB", "magnetic moment of the cell (OUTCAR)"),
    "slme": ("percent", "spectroscopic limited maximum efficiency of a solar cell"),
    "spillage": ("1", "spin-orbit spillage"),
    "Tc_supercon": ("K", "superconducting transition temperature"),
    "exfoliation_energy": ("meV/atom", "exfoliation energy"),
    "epsx": ("1", "static dielectric constant along x, OptB88vdW"),
    "epsy": ("1", "static dielectric constant along y, OptB88vdW"),
    "epsz": ("1", "static dielectric constant along z, OptB88vdW"),
    "mepsx": ("1", "static dielectric constant along x, TBmBJ"),
    "mepsy": ("1", "static dielectric constant along y, TBmBJ"),
    "mepsz": ("1", "static dielectric constant along z, TBmBJ"),
    "dfpt_piezo_max_dielectric": ("1", "largest dielectric constant, DFPT"),
    "dfpt_piezo_max_dielectric_electronic": ("1", "its electronic part"),
    "dfpt_piezo_max_dielectric_ionic": ("1", "its ionic part"),
    "dfpt_piezo_max_eij": ("C/m^2", "largest piezoelectric stress coefficient"),
    "dfpt_piezo_max_dij": ("pC/N", "largest piezoelectric strain coefficient"),
    "max_ir_mode": ("1/cm", "highest infrared mode"),
    "min_ir_mode": ("1/cm", "lowest infrared mode"),
    "max_efg": ("10^21 V/m^2", "largest electric field gradient"),
    "avg_elec_mass": ("m_e", "mean effective mass of electrons"),
    "avg_hole_mass": ("m_e", "mean effective mass of holes"),
    "n-Seebeck": ("uV/K", "Seebeck coefficient, n-type"),
    "p-Seebeck": ("uV/K", "Seebeck coefficient, p-type"),
    "n-powerfact": ("uW/(m K^2)", "thermoelectric power factor, n-type"),
    "p-powerfact": ("uW/(m K^2)", "thermoelectric power factor, p-type"),
    "encut": ("eV", "converged plane-wave cut-off"),
    "kpoint_length_unit": ("angstrom", "converged k-point line density"),
    "density": ("g/cm^3", "mass density"),
}

_SPEC = crystal_spec(
    "jarvis",
    target_specs(_TARGETS),
    ("formation_energy_peratom",),
    "see 10.6084/m9.figshare.6815699 (NIST)",
    "Choudhary et al., npj Computational Materials 6, 173 (2020)",
)
_SAMPLE_TARGET = "optb88vdw_bandgap"
_SAMPLE_SPEC = crystal_spec(
    "jarvis", _SPEC.select_targets([_SAMPLE_TARGET]), (_SAMPLE_TARGET,), _SPEC.licence, _SPEC.citation
)


class Jarvis(CrystalDataset):
    """JARVIS-DFT ``dft_3d``: inorganic crystals with up to 38 computed quantities, each known for a part of them.

    Ids are the release's (``JVASP-1002``). Crystals without any of the chosen targets (``na``) are left out.

    Args:
        release: ``2022.12.12`` (75,993 crystals, the Hybrid-LLM-GNN paper's), ``2021.8.18`` (55,722, the ALIGNN
            paper's), ``sample`` (70 crystals out of the package ``alignn``, 50 with a band gap), or ``auto``:
            2022.12.12, or the part of it that a mirror may hold in its place.
        path: a JSON list of records, also zipped or gzip-compressed; ``None`` for the asset store.
        split: ``random``: drawn, copies of a crystal on one side. ``hybrid``: the ids of the Hybrid-LLM-GNN paper for
            ``split_target``. ``ids``: the ids of ``ids_file``. Crystals that a list of ids does not name are left out.
        split_target: target whose list ``hybrid`` takes; ``None`` where only one target is chosen.
        ids_file: JSON with lists of ids under ``train``, ``val``, ``test`` or ``id_train``, ``id_val``, ``id_test``,
            or the JARVIS-Leaderboard's benchmark file, zipped or not.
        targets: names of targets; ``formation_energy_peratom`` by default, ``optb88vdw_bandgap`` of the sample.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset`` and ``CrystalDataset``. ``limit`` draws among the crystals with a target, from each
            part of a list of ids in proportion; ``split_file`` goes before ``split``; the fractions count for
            ``split=random``.

    Raises:
        UserError: a setting is out of range, or ``split`` lacks what it needs.
    """

    def __init__(
        self,
        *,
        release: Literal["auto", "2022.12.12", "2021.8.18", "sample"] = "auto",
        path: str | None = None,
        split: Literal["random", "hybrid", "ids"] = "random",
        split_target: str | None = None,
        ids_file: str | None = None,
        targets: list[str] | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        **shared: Unpack[CrystalSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        if (split == "ids") != (ids_file is not None):
            problem = "needs data.ids_file" if split == "ids" else "does not read data.ids_file"
            raise UserError(f"data.split={split} {problem}", remedy="data.split=ids data.ids_file=FILE.json")
        self.release = release
        self.split = split
        self.split_target = split_target
        self.path = None if path is None else Path(path).expanduser()
        self.ids_file = None if ids_file is None else Path(ids_file).expanduser()

    def spec(self) -> DataSpec:
        """Describe the targets on offer; reads nothing."""
        return self._with_description(_SAMPLE_SPEC if self.release == "sample" and self.path is None else _SPEC)

    def load(self) -> RecordTable:
        """Read the crystals, from the cache of the parsed table where there is one; see ``Dataset.load``.

        Raises:
            UserError: a target is unknown or nowhere given, the files are missing or unreadable, or a list of ids
                names none of the crystals.
        """
        specs = self.selected_targets()
        parsed = self._parsed()
        return crystal_records(parsed, self, specs, self._parts(parsed, [target.name for target in specs]))

    def _parsed(self) -> pa.Table:
        """Return the parsed table (Arrow) of the file or asset."""
        if self.path is not None:
            path, content = self.path, sha256_json(sha256_file(self.path)) if self.path.is_file() else ""
            return crystal_table(
                self.store, content, "JARVIS-DFT", list(_TARGETS), lambda: _json_rows(path), crystal_from_jarvis
            )
        if self.store is None:
            raise UserError("data=jarvis needs an asset store or data.path", remedy="data.path=jdft_3d.json.zip")
        fetched = first_at_hand(self.store, RELEASES[self.release])
        folder = Path(fetched.folder)
        if self.release == "sample":
            return crystal_table(
                self.store, fetched.sha256, "JARVIS sample", [_SAMPLE_TARGET], lambda: _sample_rows(folder), _read_file
            )
        file = folder / self.store.asset(fetched.name).required[0].name
        return crystal_table(
            self.store, fetched.sha256, "JARVIS-DFT", list(_TARGETS), lambda: _json_rows(file), crystal_from_jarvis
        )

    def _parts(self, parsed: pa.Table, targets: list[str]) -> NDArray[np.str_] | None:
        """Return the part that a list of ids gives each row, or ``None`` where the split is drawn."""
        if self.split == "random":
            return None
        ids = parsed["id"].to_pylist()
        if self.ids_file is not None:
            return parts_of_ids(read_id_splits(self.ids_file), ids, str(self.ids_file))
        target = self.split_target or (targets[0] if len(targets) == 1 else None)
        known = [] if self.store is None else [f.name for f in self.store.asset(HYBRID_SPLITS).required]
        name = f"dataset_split_{target}.json"
        if self.store is None or name not in known:
            have = ", ".join(file.removeprefix("dataset_split_").removesuffix(".json") for file in known)
            what = "several targets are chosen" if target is None else f"there is none for {target}"
            raise UserError(
                f"data.split=hybrid: {what}", remedy=f"data.split_target=NAME with one of: {have or 'an asset store'}"
            )
        folder = Path(self.store.fetch(HYBRID_SPLITS).folder)
        file = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
        return parts_of_ids(read_id_splits(file), ids, f"the Hybrid-LLM-GNN split of {target}")


def _read_file(source: Path) -> Crystal:
    return read_crystal_file(source)


def _json_rows(path: Path) -> Iterator[RawCrystal]:
    for row, record in enumerate(read_records(path)):
        targets = {name: record.get(name) for name in _TARGETS}
        yield RawCrystal(str(record.get("jid") or f"row {row}"), record.get("atoms") or {}, targets)


def _sample_rows(folder: Path) -> Iterator[RawCrystal]:
    """Yield the POSCARs of the folder with the band gaps of ``id_prop.csv`` (file name, eV)."""
    lines = (folder / "id_prop.csv").read_text(encoding="utf-8").splitlines()
    gaps = dict(line.split(",") for line in lines if line.strip())
    for file in sorted(folder.glob("POSCAR-*.vasp")):
        identifier = file.stem.removeprefix("POSCAR-")
        yield RawCrystal(identifier, file, {_SAMPLE_TARGET: gaps.get(file.name)})
