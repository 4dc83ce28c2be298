"""Molecular graphs: features, relations, and what must not depend on how a molecule is written."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

from crystalfm.chem.molecular_graph import (
    ATOM_FEATURES,
    DISCONNECTED,
    NUM_RELATIONS,
    SAME_ATOM,
    molecular_graph,
)
from crystalfm.chem.molecules import MoleculeError, random_smiles

MOLECULES = [
    "C",
    "CCO",
    "c1ccccc1O",
    "C#N",
    "CC(=O)[O-].[Na+]",
    "[NH4+]",
    "C1CC1C(F)(F)F",
    "F/C=C/F",
    "N[C@@H](C)C(=O)O",
    "O=S(=O)(O)c1ccc(cc1)-c1ccncc1",
    "CCCCCCCCCCCCCCCC",
]


def feature(name: str) -> int:
    return [known for known, _ in ATOM_FEATURES].index(name)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_shapes_ranges_and_symmetry(smiles: str) -> None:
    graph = molecular_graph(smiles)
    num_atoms = Chem.MolFromSmiles(smiles).GetNumAtoms()
    assert graph.atoms.shape == (num_atoms, len(ATOM_FEATURES))
    assert graph.relations.shape == (num_atoms, num_atoms)
    assert (graph.atoms < [size for _, size in ATOM_FEATURES]).all()
    assert graph.relations.max() < NUM_RELATIONS
    assert np.array_equal(graph.relations, graph.relations.T)
    assert (np.diag(graph.relations) == SAME_ATOM).all()
    assert (graph.relations == SAME_ATOM).sum() == num_atoms


@pytest.mark.parametrize("smiles", MOLECULES)
def test_another_way_to_write_a_molecule_permutes_its_graph(smiles: str) -> None:
    first = molecular_graph(smiles)
    for text in random_smiles(smiles, num=3):
        other = molecular_graph(text)
        # Chirality depends on the order of neighbours; everything else must agree as a set.
        columns = [number for number, (name, _) in enumerate(ATOM_FEATURES) if name != "chirality"]
        assert sorted(map(tuple, first.atoms[:, columns])) == sorted(map(tuple, other.atoms[:, columns]))
        assert sorted(first.relations.ravel()) == sorted(other.relations.ravel())


def test_relations_of_a_chain_count_bonds_up_to_ten() -> None:
    relations = molecular_graph("C" * 14).relations
    single = relations[0, 1]
    distances = [int(code) - SAME_ATOM for code in relations[0, 2:]]
    assert distances == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9]
    assert single < SAME_ATOM
    assert (relations == single).sum() == 2 * 13


def test_bonds_of_every_kind_have_codes_of_their_own() -> None:
    pairs = {"CC": "single", "C=C": "double", "C#C": "triple"}
    codes = {name: int(molecular_graph(smiles).relations[0, 1]) for smiles, name in pairs.items()}
    codes["aromatic"] = int(molecular_graph("c1ccccc1").relations[0, 1])
    codes["single in a ring"] = int(molecular_graph("C1CCC1").relations[0, 1])
    codes["double in a ring"] = int(molecular_graph("C1=CCC1").relations[0, 1])
    codes["dative"] = int(molecular_graph("N->[Fe]").relations[0, 1])
    assert len(set(codes.values())) == len(codes)
    assert max(codes.values()) < SAME_ATOM


def test_parts_without_a_bond_between_them_are_disconnected() -> None:
    relations = molecular_graph("CC.O").relations
    assert relations[0, 2] == relations[2, 1] == DISCONNECTED
    assert relations[0, 1] != DISCONNECTED


def test_atom_features_say_what_they_are_called() -> None:
    nitrogen = molecular_graph("C[NH3+]").atoms[1]
    assert nitrogen[feature("atomic number")] == 7
    assert nitrogen[feature("hydrogens")] == 3
    assert nitrogen[feature("neighbours, hydrogens included")] == 4
    assert nitrogen[feature("neighbours in the graph")] == 1
    assert nitrogen[feature("formal charge")] == 5
    carbon = molecular_graph("c1ccsc1").atoms[0]
    assert carbon[feature("aromatic")] == carbon[feature("in a ring")] == carbon[feature("in a ring of 5")] == 1
    assert carbon[feature("in a ring of 6")] == 0
    left, right = (molecular_graph(text).atoms[1] for text in ("N[C@@H](C)O", "N[C@H](C)O"))
    assert {int(left[feature("chirality")]), int(right[feature("chirality")])} == {1, 2}


def test_charges_beyond_the_scale_stop_at_its_ends() -> None:
    assert molecular_graph("[Pb+7]").atoms[0][feature("formal charge")] == 8
    assert molecular_graph("[C-6]").atoms[0][feature("formal charge")] == 0


def test_what_is_no_molecule_is_refused() -> None:
    with pytest.raises(MoleculeError, match="ring is opened"):
        molecular_graph("C1CC")
