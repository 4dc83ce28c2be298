"""Crystals out of files, texts and other libraries' objects: pymatgen and ASE parse, every fault has a reason."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crystalfm.chem.crystals import Crystal, CrystalError, Problem, atomic_number, checked, make_crystal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Format = Literal["cif", "poscar", "extxyz", "json"]

SUFFIXES: dict[str, Format] = {
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".contcar": "poscar",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".json": "json",
}
"""File formats by suffix; files called ``POSCAR...`` or ``CONTCAR...`` need none."""

_XYZ_HEAD = re.compile(r"\s*\d+\s*\n[^\n]*(lattice|properties)\s*=", re.IGNORECASE)
_XYZ_WIDTH = re.compile(r"properties\s*=\s*\S*:\d{4,}", re.IGNORECASE)
_SYMBOL = re.compile(r"'[A-Z][a-z]{0,2}'")
_TELLING = {
    "NaN": Problem.NOT_FINITE,
    "Singular matrix": Problem.NO_VOLUME,
    "Occupancy": Problem.OVERLAP,
    "modulo by zero": Problem.NO_ATOMS,
    "at least 1 site": Problem.NO_ATOMS,
}
"""What the parsers say about faults that have a kind of their own."""

_VALUE_LENGTH = 80
_CIF_MARK = re.compile(r"^\s*(data_|_cell_length_a|loop_)", re.MULTILINE | re.IGNORECASE)


def read_crystal_file(path: Path | str) -> Crystal:
    """Read one crystal from a CIF, POSCAR, extxyz or JSON file, also gzip-compressed.

    The format follows from the name where it says (``SUFFIXES``, ``POSCAR``, ``CONTCAR``), else from the content.

    Raises:
        CrystalError: the file is missing, empty or unreadable, holds several structures, or its structure cannot be
            worked with (see ``crystals.checked``).
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix.lower() == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise CrystalError(f"{Problem.UNREADABLE}: no such file", file.name) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CrystalError(f"{Problem.UNREADABLE}: {error}", file.name) from error
    if not text.strip():
        raise CrystalError(f"{Problem.UNREADABLE}: the file is empty", file.name)
    return crystal_from_text(text, _format_of_name(file.name))


def crystal_from_text(text: str, kind: Format | None = None) -> Crystal:
    """Read one crystal from a text.

    Args:
        text: CIF, POSCAR, extxyz or JSON (ours, pymatgen's or JARVIS').
        kind: which of them; guessed from the content when ``None``.

    Raises:
        CrystalError: see ``read_crystal_file``.
    """
    if not text.strip():
        raise CrystalError(f"{Problem.UNREADABLE}: empty text")
    kind = _guessed_format(text) if kind is None else kind
    if kind == "cif":
        return _from_cif(text)
    if kind == "poscar":
        return _from_poscar(text)
    return _from_extxyz(text) if kind == "extxyz" else _from_json(text)


def as_crystal(value: object) -> Crystal:
    """Return the crystal that an object of this or another library describes, checked.

    Args:
        value: a ``Crystal``, a pymatgen ``Structure``, an ASE ``Atoms``, a jarvis ``Atoms``, a dictionary of one of
            these (pymatgen's ``as_dict``, JARVIS' ``to_dict``), or a text for ``crystal_from_text``.

    Raises:
        CrystalError: it is none of them, or cannot be worked with (see ``crystals.checked``).
    """
    if value is None:
        raise CrystalError(f"{Problem.UNREADABLE}: there is none")
    if isinstance(value, Crystal):
        return checked(value)
    if isinstance(value, str):
        return crystal_from_text(value)
    if isinstance(value, dict):
        return _from_dict(value)
    if hasattr(value, "get_scaled_positions"):
        return _from_ase(value)
    if hasattr(value, "lattice_mat") and hasattr(value, "to_dict"):
        return crystal_from_jarvis(value.to_dict())
    if hasattr(value, "frac_coords") and hasattr(value, "lattice"):
        return _from_pymatgen(value)
    raise CrystalError(f"{Problem.UNREADABLE}: objects of type {type(value).__name__} are not known as crystals")


def crystal_from_jarvis(record: Mapping[str, Any]) -> Crystal:
    """Read the ``atoms`` of a JARVIS record; jarvis-tools is not needed.

    Args:
        record: ``lattice_mat``, ``coords``, ``elements`` and, where coordinates are in angstrom, ``cartesian``.

    Raises:
        CrystalError: a part is missing, or the crystal cannot be worked with (see ``crystals.checked``).
    """
    try:
        lattice, coords, elements = (record[name] for name in ("lattice_mat", "coords", "elements"))
        numbers = [atomic_number(str(symbol)) for symbol in elements]
    except (KeyError, TypeError) as error:
        raise CrystalError(f"{Problem.UNREADABLE}: no JARVIS atoms, {error} is missing") from error
    crystal = make_crystal(lattice, numbers, coords)
    if record.get("cartesian"):
        if not np.isfinite(crystal.lattice).all() or crystal.volume == 0.0:
            return checked(crystal)  # says what is wrong with the cell
        crystal = make_crystal(crystal.lattice, numbers, crystal.frac_coords @ np.linalg.inv(crystal.lattice))
    return checked(crystal)


def _format_of_name(name: str) -> Format | None:
    stem = name.lower().removesuffix(".gz")
    if (kind := SUFFIXES.get(Path(stem).suffix)) is not None:
        return kind
    return "poscar" if stem.startswith(("poscar", "contcar")) else None


def _guessed_format(text: str) -> Format:
    if text.lstrip().startswith("{"):
        return "json"
    if _XYZ_HEAD.match(text):
        return "extxyz"
    return "cif" if _CIF_MARK.search(text) else "poscar"


@contextmanager
def _parsing(what: str) -> Iterator[None]:
    """Keep a library's warnings off the terminal and turn whatever it raises into a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except CrystalError:
            raise
        except Exception as error:
            # The parsers answer bad files with whatever their code runs into: index, key, type, assertion errors.
            detail = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            kind = next((kind for words, kind in _TELLING.items() if words in detail), None)
            if kind is None and isinstance(error, KeyError) and _SYMBOL.fullmatch(detail):
                kind = Problem.UNKNOWN_ELEMENT
            raise CrystalError(f"{kind or Problem.UNREADABLE}: {what}: {detail}") from error


def _from_cif(text: str) -> Crystal:
    with _parsing("CIF"):
        from pymatgen.io.cif import CifParser

        structures = CifParser.from_str(text).parse_structures(primitive=False, on_error="raise")
    if len(structures) != 1:
        raise CrystalError(f"{Problem.UNREADABLE}: {len(structures)} structures in one CIF")
    return _from_pymatgen(structures[0])


def _from_poscar(text: str) -> Crystal:
    # Coordinates follow the counts, in line 6 (without symbols) or 7.
    for line in text.splitlines()[5:7]:
        _require_lines("POSCAR", sum(int(word) for word in itertools.takewhile(str.isdecimal, line.split())), text)
    with _parsing("POSCAR"):
        from pymatgen.io.vasp.inputs import Poscar

        poscar = Poscar.from_str(text)
    if not poscar.true_names:
        raise CrystalError(f"{Problem.UNREADABLE}: the POSCAR does not name its elements (line 6)")
    return _from_pymatgen(poscar.structure)


def _require_lines(what: str, num_atoms: int, text: str) -> None:
    """Refuse texts that promise more atoms than they have lines: parsers make room for them before they look."""
    num_lines = text.count("\n") + 1
    if num_atoms > num_lines:
        raise CrystalError(
            f"{Problem.UNREADABLE}: {what}: {num_atoms} atoms in {num_lines} lines", text[:_VALUE_LENGTH]
        )


def _from_extxyz(text: str) -> Crystal:
    for line in text.splitlines():
        if line.strip().isdecimal():  # the first line of a frame
            _require_lines("extxyz", int(line), text)
    if _XYZ_WIDTH.search(text):
        raise CrystalError(f"{Problem.UNREADABLE}: extxyz: a property of a thousand columns or more", text)
    with _parsing("extxyz"):
        from ase.io import read

        frames = read(io.StringIO(text), format="extxyz", index=":")
    if len(frames) != 1:
        raise CrystalError(f"{Problem.UNREADABLE}: {len(frames)} structures in one extxyz file")
    return _from_ase(frames[0])


def _from_json(text: str) -> Crystal:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CrystalError(f"{Problem.UNREADABLE}: no JSON: {error}", text) from error
    if not isinstance(content, dict):
        raise CrystalError(f"{Problem.UNREADABLE}: the JSON is a {type(content).__name__}, not a structure", text)
    return _from_dict(content)


def _from_dict(content: dict[str, Any]) -> Crystal:
    """Tell our own, JARVIS' and pymatgen's dictionaries apart by their keys."""
    if "numbers" in content and "coords" in content:
        return checked(make_crystal(content.get("lattice"), content["numbers"], content["coords"]))
    if "lattice_mat" in content:
        return crystal_from_jarvis(content)
    if isinstance(content.get("atoms"), dict):
        return crystal_from_jarvis(content["atoms"])
    if "sites" in content and "lattice" in content:
        with _parsing("pymatgen structure"):
            from pymatgen.core.structure import Structure

            structure = Structure.from_dict(content)
        return _from_pymatgen(structure)
    shown = ", ".join(map(str, list(content)[:6]))
    raise CrystalError(f"{Problem.UNREADABLE}: a dictionary with {shown or 'nothing'} is no structure")


def _from_pymatgen(structure: Any) -> Crystal:
    with _parsing("pymatgen structure"):
        disordered = [site for site in structure if not site.is_ordered]
        if disordered:
            species = disordered[0].species_string
            detail = f"{len(disordered)} of {len(structure)}, the first holds {species}"
            raise CrystalError(f"{Problem.DISORDERED}: {detail}", structure.formula)
        numbers = [atomic_number(site.specie.symbol) for site in structure]
        crystal = make_crystal(structure.lattice.matrix, numbers, structure.frac_coords)
    return checked(crystal)


def _from_ase(atoms: Any) -> Crystal:
    with _parsing("ASE Atoms"):
        occupancies = [part for site in (atoms.info.get("occupancy") or {}).values() for part in site.values()]
        if any(part != 1 for part in occupancies):
            raise CrystalError(f"{Problem.DISORDERED}: occupancies other than 1", atoms.get_chemical_formula())
        lattice = np.asarray(atoms.cell)
        # Scaled positions need a cell; without one the check of the volume says so.
        flat = not np.isfinite(lattice).all() or np.linalg.det(lattice) == 0.0
        coords = atoms.positions if flat else atoms.get_scaled_positions(wrap=False)
        crystal = make_crystal(lattice, atoms.numbers, coords)
    return checked(crystal)
