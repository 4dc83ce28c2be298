"""Kinds of crystals and molecules: what each row of a table is called in each way of grouping them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.chem.crystals import Crystal
from crystalfm.config.extras import is_installed
from crystalfm.metrics.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system, space_group

if TYPE_CHECKING:
    from crystalfm.data.records import RecordTable

_UNKNOWN = "unknown"


def row_groups(table: RecordTable) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return by kind the group of each row, and the order of the groups of kinds that have one of their own.

    Crystals are grouped by crystal system (spglib, where it is installed), composition prototype (``AB3``) and number
    of elements; molecules by number of heavy atoms.
    """
    if "structure" in table.fields:
        return _crystal_groups([Crystal.from_json(text or "") for text in table.fields["structure"]])
    return _molecule_groups([text or "" for text in table.fields["smiles"]])


def _crystal_groups(crystals: list[Crystal]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    counts = [str(len(set(crystal.atomic_numbers.tolist()))) for crystal in crystals]
    groups = {"composition prototype": [prototype(crystal) for crystal in crystals], "number of elements": counts}
    order = {"number of elements": sorted(set(counts), key=int)}
    systems = _crystal_systems(crystals)
    if systems is not None:
        groups = {"crystal system": systems, **groups}
        order["crystal system"] = [*CRYSTAL_SYSTEMS, _UNKNOWN]
    return groups, order


def prototype(crystal: Crystal) -> str:
    """Return the reduced formula with letters for the elements, the rarest first: ``AB2C4`` for MgAl2O4."""
    from pymatgen.core.composition import Composition

    return str(Composition(crystal.formula).anonymized_formula)


def _crystal_systems(crystals: list[Crystal]) -> list[str] | None:
    """Return the crystal system of each, or None without spglib."""
    if not is_installed("spglib"):
        return None
    groups = [space_group(crystal) for crystal in crystals]
    return [_UNKNOWN if group is None else crystal_system(group) for group in groups]


def _molecule_groups(smiles: list[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    from rdkit import Chem

    molecules = [Chem.MolFromSmiles(text) for text in smiles]
    heavy = [_UNKNOWN if molecule is None else str(molecule.GetNumHeavyAtoms()) for molecule in molecules]
    numbers = sorted({name for name in heavy if name != _UNKNOWN}, key=int)
    return {"heavy atoms": heavy}, {"heavy atoms": [*numbers, _UNKNOWN]}
