"""Materials whose predictions an exported model carries: simple ones of our own, of no data set and no licence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystal_io import as_crystal
from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.chem.defects.hosts import Supercell
from crystalfm.chem.defects.rules import parse_rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.encoders.defect_states import KnownDefects

MOLECULES: Mapping[str, str] = {
    "C": "Methane is the simplest alkane, a colourless gas.",
    "O": "Water is a small polar molecule, liquid at room temperature.",
    "CCO": "Ethanol is a primary alcohol with two carbon atoms.",
    "CC(=O)O": "Acetic acid is a simple carboxylic acid, the main part of vinegar besides water.",
    "C#N": "Hydrogen cyanide is a linear molecule with a triple bond.",
    "NCC(=O)O": "Glycine is the simplest of the amino acids.",
    "C1CCCCC1": "Cyclohexane is a saturated ring of six carbon atoms.",
    "c1ccccc1": "Benzene is an aromatic hydrocarbon.",
    "Cc1ccccc1O": "Ortho-cresol is a methylphenol, an aromatic alcohol.",
    "FC(F)F": "Trifluoromethane is a fluorocarbon gas.",
}
"""SMILES with a text about each; their elements are those of QM9."""

_CRYSTALS: Mapping[str, tuple[str, tuple[float, ...], Mapping[str, tuple[float, float, float]]]] = {
    "Si": ("Fd-3m", (5.43, 5.43, 5.43, 90, 90, 90), {"Si": (0, 0, 0)}),
    "Cu": ("Fm-3m", (3.61, 3.61, 3.61, 90, 90, 90), {"Cu": (0, 0, 0)}),
    "Fe": ("Im-3m", (2.87, 2.87, 2.87, 90, 90, 90), {"Fe": (0, 0, 0)}),
    "NaCl": ("Fm-3m", (5.64, 5.64, 5.64, 90, 90, 90), {"Na": (0, 0, 0), "Cl": (0.5, 0.5, 0.5)}),
    "CsCl": ("Pm-3m", (4.12, 4.12, 4.12, 90, 90, 90), {"Cs": (0, 0, 0), "Cl": (0.5, 0.5, 0.5)}),
    "GaAs": ("F-43m", (5.65, 5.65, 5.65, 90, 90, 90), {"Ga": (0, 0, 0), "As": (0.25, 0.25, 0.25)}),
    "CaF2": ("Fm-3m", (5.46, 5.46, 5.46, 90, 90, 90), {"Ca": (0, 0, 0), "F": (0.25, 0.25, 0.25)}),
    "SrTiO3": ("Pm-3m", (3.91, 3.91, 3.91, 90, 90, 90), {"Sr": (0, 0, 0), "Ti": (0.5, 0.5, 0.5), "O": (0.5, 0.5, 0)}),
    "TiO2": ("P4_2/mnm", (4.59, 4.59, 2.96, 90, 90, 90), {"Ti": (0, 0, 0), "O": (0.305, 0.305, 0)}),
    "MoS2": ("P6_3/mmc", (3.16, 3.16, 12.29, 90, 90, 120), {"Mo": (1 / 3, 2 / 3, 0.25), "S": (1 / 3, 2 / 3, 0.621)}),
}
"""Space group, lengths in angstrom and angles in degrees, and one site of each element; rounded textbook values."""

_LAYERS = 8
_SEED = 0


def molecule_probes(*, described: bool) -> list[dict[str, Any]]:
    """Return molecules as ``Predictor.predict`` takes them, with texts for a model that reads them."""
    return [{"smiles": smiles, **({"description": text} if described else {})} for smiles, text in MOLECULES.items()]


def crystal_probes() -> list[dict[str, Any]]:
    """Return primitive cells of simple crystals as ``Predictor.predict`` takes them."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    probes = []
    for group, cell, sites in _CRYSTALS.values():
        lattice = Lattice.from_parameters(*cell)
        structure = Structure.from_spacegroup(group, lattice, list(sites), list(sites.values()))
        probes.append({"structure": as_crystal(structure.get_primitive_structure()).to_json()})
    return probes


def defect_probes(known: KnownDefects) -> list[dict[str, Any]]:
    """Return layers with defects that a model knows, one to three in each, drawn with a fixed seed."""
    rng = np.random.default_rng(_SEED)
    probes: list[dict[str, Any]] = []
    for number in range(_LAYERS if known.hosts else 0):
        host = known.hosts[number % len(known.hosts)]
        rules = [rule for rule in parse_rules(known.rules) if rule.removed in host.elements]
        if rules:
            supercell = Supercell(host, host.default_size)
            configuration = random_configuration(supercell, rules, 1 + number % 3, rng)
            probes.append({"structure": configuration.crystal(supercell).to_json()})
    return probes
