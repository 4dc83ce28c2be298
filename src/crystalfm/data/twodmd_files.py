"""Files of 2DMD's release: its parts by density and host, and the rows of each, checked against one another.

A part is a folder with ``descriptors.csv``, ``targets.csv``, ``elements.csv``, ``initial_structures.csv``,
``unit_cells/`` and the unrelaxed structures as ``initial.tar.gz`` or ``initial/``. Tables may be gzip-compressed, lie
in a folder ``defects``, and what a high-density part lacks lies beside ``high_density_defects``.
"""

from __future__ import annotations

import ast
import gzip
import logging
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crystalfm.chem.crystal_io import crystal_from_text, read_crystal_file
from crystalfm.chem.crystals import Crystal, CrystalError, Problem
from crystalfm.chem.defects.configurations import read_configuration
from crystalfm.chem.defects.formation import formation_energy
from crystalfm.chem.defects.hosts import ALIASES
from crystalfm.chem.defects.records import DefectRecord, shared_supercell
from crystalfm.chem.defects.rules import DefectRule, type_name
from crystalfm.contracts import UserError
from crystalfm.data.crystal_table import number_of
from crystalfm.data.tabular import read_columns, read_text
from crystalfm.io.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from crystalfm.chem.defects.hosts import Supercell

_LOG = logging.getLogger(__name__)

Density = Literal["low", "high"]

TOLERANCE_EV = 1e-3
"""A formation energy may differ by this much a defect from the one that follows from the total energies."""

_DENSITY_FOLDERS: Mapping[Density, str] = {"low": "low_density_defects", "high": "high_density_defects"}
_SUFFIXES = ("", ".gz")
_FORMATION, _PER_SITE, _PER_ATOM = "formation_energy", "formation_energy_per_site", "energy_per_atom"


@dataclass(frozen=True)
class ReleasePart:
    """One folder of the release.

    Attributes:
        name: its path in the release (``low_density_defects/MoS2``).
        density: how many defects its structures have.
        folder: where it lies.
        root: where the release lies.
    """

    name: str
    density: Density
    folder: Path
    root: Path

    @property
    def files(self) -> list[Path]:
        """Every file that the records depend on."""
        tables = [self.table(stem) for stem in ("targets", "descriptors", "elements", "initial_structures")]
        structures = self.structures
        texts = sorted(structures.glob("*.cif*")) if structures.is_dir() else [structures]
        return [*tables, *(file for folder in self._cell_folders for file in sorted(folder.glob("*.cif"))), *texts]

    def table(self, stem: str) -> Path:
        """Return one of its tables.

        Raises:
            UserError: it is not there.
        """
        names = [stem, *(["defects"] if stem == "targets" else [])]
        places = [
            folder / f"{name}.csv{suffix}"
            for name in names
            for folder in (self.folder, self.folder / "defects")
            for suffix in _SUFFIXES
        ]
        if self.density == "high":
            places += [self.root / f"{stem}_high_density.csv{suffix}" for suffix in _SUFFIXES]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UserError(
                f"{self.folder} has no {stem}.csv",
                remedy="a part of 2DMD has targets.csv, descriptors.csv, elements.csv and initial_structures.csv"
                " (or .csv.gz), of the same release",
            )
        return found

    @property
    def structures(self) -> Path:
        """Archive or folder of the unrelaxed structures.

        Raises:
            UserError: there is neither.
        """
        places = [
            folder / name
            for folder in (self.folder, self.folder / "defects")
            for name in ("initial", "initial.tar.gz", "initial.tar")
        ]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise UserError(f"{self.folder} has no unrelaxed structures", remedy="initial.tar.gz, or a folder initial/")
        return found

    @property
    def _cell_folders(self) -> list[Path]:
        return [place for place in (self.folder / "unit_cells", self.root / "unit_cells") if place.is_dir()]

    @cached_property
    def hosts(self) -> tuple[str, ...]:
        """Hosts that its descriptors name, as they name them."""
        bases = read_text(self.table("descriptors"), ["base"])["base"]
        return tuple(sorted({base for base in bases if base}))

    def unit_cell(self, base: str) -> Crystal:
        """Return the unit cell of a host.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        found = [folder / f"{base}.cif" for folder in self._cell_folders if (folder / f"{base}.cif").is_file()]
        if not found:
            raise UserError(f"2DMD {self.name} has no unit cell of {base}", remedy=f"put unit_cells/{base}.cif there")
        try:
            return read_crystal_file(found[0])
        except CrystalError as error:
            raise UserError(f"{found[0]} cannot be read: {error.reason}") from error

    @cached_property
    def texts(self) -> dict[str, str | bytes]:
        """Text of every unrelaxed structure by id; of a folder, bytes that may be compressed."""
        if self.structures.is_dir():
            return {file.name.split(".")[0]: file.read_bytes() for file in sorted(self.structures.glob("*.cif*"))}
        try:
            with tarfile.open(self.structures) as archive:
                return {
                    Path(member.name).name.split(".")[0]: stream.read()
                    for member in archive
                    if Path(member.name).suffix == ".cif" and (stream := archive.extractfile(member)) is not None
                }
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{self.structures} cannot be read: {error}") from error


@dataclass(frozen=True)
class ReleaseRow:
    """One structure of the release.

    Attributes:
        id: its ``_id``.
        crystal: unrelaxed structure, or why it cannot be read.
        record: its defects; ``None`` where the structure cannot be read.
        targets: cells of the table by name, formation energies where the table has none.
    """

    id: str
    crystal: Crystal | CrystalError
    record: DefectRecord | None
    targets: Mapping[str, object]


def find_parts(root: Path) -> list[ReleasePart]:
    """Return the parts in a folder: a release's, or the folder itself.

    Raises:
        UserError: it is neither.
    """
    if not root.is_dir():
        raise UserError(f"data.path={root} is no folder", remedy="give the folder of 2DMD's release, or a part of it")
    if _is_part(root):
        density: Density = "high" if root.parent.name == _DENSITY_FOLDERS["high"] else "low"
        return [ReleasePart(root.name, density, root, root.parent.parent)]
    parts = [
        ReleasePart(f"{name}/{folder.name}", density, folder, root)
        for density, name in _DENSITY_FOLDERS.items()
        for folder in sorted((root / name).glob("*"))
        if _is_part(folder)
    ]
    if not parts:
        raise UserError(
            f"{root} holds no part of 2DMD",
            remedy="expected low_density_defects/MoS2 or high_density_defects/..., with descriptors.csv in it",
        )
    return parts


def is_release(path: Path) -> bool:
    """Say whether a folder is 2DMD's release or a part of it."""
    return path.is_dir() and (
        _is_part(path) or any(_is_part(part) for name in _DENSITY_FOLDERS.values() for part in (path / name).glob("*"))
    )


def content_digest(parts: Sequence[ReleasePart]) -> str:
    """Return a digest of all files of the parts."""
    return sha256_json([(part.name, [(file.name, sha256_file(file)) for file in part.files]) for part in parts])


def read_part(part: ReleasePart, names: Sequence[str]) -> Iterator[ReleaseRow]:
    """Yield the structures of a part in the order of its targets.

    Each structure is matched to the supercell of its descriptor, its defects are compared with the descriptor's, and
    its formation energies with those that follow from its energy, the pristine energy and the chemical potentials.

    Args:
        part: the part.
        names: targets to read.

    Raises:
        UserError: a table is missing, or its tables and structures contradict each other.
    """
    table = part.table("targets")
    there = read_columns(table)
    cells = read_text(table, ["_id", "descriptor_id", "energy", *(name for name in names if name in there)])
    descriptors = _read_descriptors(part)
    reference = _Reference.read(part)
    texts = dict(part.texts)
    _LOG.info("2DMD %s: reading and checking %d structures", part.name, len(texts))
    for row, (identifier, descriptor_id) in enumerate(zip(cells["_id"], cells["descriptor_id"], strict=True)):
        name = identifier or f"{part.name} row {row}"
        descriptor = descriptors.get(descriptor_id or "")
        if descriptor is None:
            raise UserError(f"2DMD {part.name}: {name} names the descriptor {descriptor_id}, which is not there")
        targets: dict[str, object] = {target: cells[target][row] for target in names if target in there}
        crystal = _read_structure(texts.pop(name, None), name)
        if isinstance(crystal, CrystalError):
            yield ReleaseRow(name, crystal, None, targets)
            continue
        record = _match(crystal, descriptor, part, name)
        computed = reference.energies(record, number_of(cells["energy"][row]), name)
        _compare(computed, targets, record, crystal, f"2DMD {part.name}: {name}", reference)
        yield ReleaseRow(name, crystal, record, {**computed, **_present(targets)})
    if texts:
        _LOG.info("2DMD %s: %d structures have no targets and are left out", part.name, len(texts))


def _is_part(folder: Path) -> bool:
    return any(
        (place / f"descriptors.csv{suffix}").is_file() for place in (folder, folder / "defects") for suffix in _SUFFIXES
    )


@dataclass(frozen=True)
class _Descriptor:
    """What a row of ``descriptors.csv`` says: the supercell, and which defects there are, not where."""

    supercell: Supercell
    base: str
    rules: tuple[DefectRule, ...]


def _read_descriptors(part: ReleasePart) -> dict[str, _Descriptor]:
    path = part.table("descriptors")
    cells = read_text(path, ["_id", "base", "cell", "defects"])
    unit_cells = {base: part.unit_cell(base).to_json() for base in set(cells["base"]) if base}
    found: dict[str, _Descriptor] = {}
    for name, base, size, defects in zip(cells["_id"], cells["base"], cells["cell"], cells["defects"], strict=True):
        where = f"{path}: {name}"
        if not base:
            raise UserError(f"{where} has no base")
        rules = tuple(DefectRule.from_record(record) for record in _literal(defects, where))
        supercell = shared_supercell(ALIASES.get(base, base), unit_cells[base], _size(size, where))
        found[name or ""] = _Descriptor(supercell, base, rules)
    return found


def _literal(text: str | None, where: str) -> list[Any]:
    """Return a cell that holds a list or tuple as Python writes it."""
    try:
        value = ast.literal_eval(text or "")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"{where}: {text!r} cannot be read") from error
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: {text!r} is no list")
    return list(value)


def _size(text: str | None, where: str) -> tuple[int, int, int]:
    match _literal(text, where):
        case [int(columns), int(rows), int(layers)]:
            return (columns, rows, layers)
    raise UserError(f"{where}: {text!r} is no size of a supercell", remedy="[8, 8, 1]")


@dataclass(frozen=True)
class _Reference:
    """What formation energies are counted from: pristine energies and chemical potentials of one release, in eV."""

    part: ReleasePart
    pristine: Mapping[tuple[str, tuple[int, int, int]], float]
    potentials: Mapping[str, float]

    @classmethod
    def read(cls, part: ReleasePart) -> _Reference:
        """Read the two tables of a part."""
        path = part.table("initial_structures")
        cells = read_text(path, ["base", "cell_size", "energy"])
        pristine = {
            (ALIASES.get(base or "", base or ""), _size(size, f"{path}: {base}")): _number(energy, f"{path}: {base}")
            for base, size, energy in zip(cells["base"], cells["cell_size"], cells["energy"], strict=True)
        }
        path = part.table("elements")
        cells = read_text(path, ["element", "chemical_potential"])
        potentials = {
            symbol or "": _number(value, f"{path}: {symbol}")
            for symbol, value in zip(cells["element"], cells["chemical_potential"], strict=True)
        }
        return cls(part, pristine, potentials)

    def pristine_energy(self, record: DefectRecord) -> float:
        """Return the total energy in eV of the supercell without defects."""
        key = (record.host, record.size)
        if key not in self.pristine:
            known = "; ".join(f"{host} {list(size)}" for host, size in self.pristine)
            raise UserError(
                f"2DMD {self.part.name}: no pristine energy of {record.host} {list(record.size)} is known",
                remedy=f"{self.part.table('initial_structures')} has {known}",
            )
        return self.pristine[key]

    def energies(self, record: DefectRecord, energy: float | None, name: str) -> dict[str, float]:
        """Return the formation energies that follow from a total energy; none where there is none."""
        if energy is None:
            raise UserError(f"2DMD {self.part.name}: the energy of {name} is no number")
        if isnan(energy):
            return {}
        total = formation_energy(energy, self.pristine_energy(record), record.rules, self.potentials)
        count = len(record.configuration)
        per_site = {_PER_SITE: total / count} if count else {}
        return {_FORMATION: total, **per_site, _PER_ATOM: energy / record.crystal().num_atoms}


def _number(text: str | None, where: str) -> float:
    value = number_of(text)
    if value is None or isnan(value):
        raise UserError(f"{where}: {text!r} is no energy")
    return value


def _present(targets: Mapping[str, object]) -> dict[str, object]:
    """Return the targets that have a value, or something unreadable in its place."""
    return {name: value for name, value in targets.items() if (number := number_of(value)) is None or not isnan(number)}


def _read_structure(text: str | bytes | None, name: str) -> Crystal | CrystalError:
    if text is None:
        return CrystalError(f"{Problem.UNREADABLE}: there is no file of this id", f"{name}.cif")
    try:
        raw = gzip.decompress(text) if isinstance(text, bytes) and text.startswith(b"\x1f\x8b") else text
        return crystal_from_text(raw if isinstance(raw, str) else raw.decode("utf-8-sig"), "cif")
    except CrystalError as error:
        return error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        return CrystalError(f"{Problem.UNREADABLE}: {error}", f"{name}.cif")


def _match(crystal: Crystal, descriptor: _Descriptor, part: ReleasePart, name: str) -> DefectRecord:
    """Return the defects of a structure, which are the descriptor's."""
    try:
        configuration = read_configuration(crystal, descriptor.supercell)
        record = DefectRecord.of(descriptor.supercell, configuration)
    except UserError as error:
        raise UserError(
            f"2DMD {part.name}: {name}: {error.message}",
            remedy=f"its descriptor says {descriptor.base} {list(descriptor.supercell.size)};"
            " are unit cells and structures of the same release?",
        ) from error
    if record.type_name != type_name(descriptor.rules):
        raise UserError(
            f"2DMD {part.name}: {name} has {record.type_name}, and its descriptor says {type_name(descriptor.rules)}",
            remedy="structures, targets and descriptors must be of the same release",
        )
    return record


def _compare(
    computed: Mapping[str, float],
    targets: Mapping[str, object],
    record: DefectRecord,
    crystal: Crystal,
    where: str,
    reference: _Reference,
) -> None:
    """Refuse energies of the table that do not follow from its total energies."""
    tolerances = {
        _FORMATION: TOLERANCE_EV * len(record.configuration),
        _PER_SITE: TOLERANCE_EV,
        _PER_ATOM: TOLERANCE_EV,
    }
    for name, tolerance in tolerances.items():
        given = number_of(targets.get(name))
        if given is None or isnan(given):
            continue
        own = computed.get(name)
        if own is None:
            raise UserError(f"{where} has a {name} and no energy", remedy="the table needs the column energy")
        if abs(own - given) <= tolerance:
            continue
        if name == _PER_ATOM:
            raise UserError(
                f"{where}: {name} is {given:.6f} eV in the table, and {own:.6f} eV for the {crystal.num_atoms} atoms"
                " of its structure",
                remedy="structures and targets must be of the same release",
            )
        raise UserError(
            f"{where}: {name} is {given:.4f} eV in the table, and {own:.4f} eV out of its energy, the pristine energy"
            f" {reference.pristine_energy(record):.4f} eV and the chemical potentials"
            f" ({TOLERANCE_EV * 1000:g} meV a defect is tolerated)",
            remedy="pristine energies and chemical potentials differ between releases (WSe2's do): take"
            f" {reference.part.table('initial_structures').name} and {reference.part.table('elements').name} of the"
            " release that the targets are of",
        )
