"""Small crystals for tests, as objects and as texts."""

import numpy as np

from crystalfm.chem.crystals import Crystal, make_crystal

CUBE = ((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 4.0))
POSCAR = "made for a test\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"
EXTXYZ = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nNa 0 0 0\nCl 2 2 2\n'
CIF = """data_NaCl
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
 _symmetry_equiv_pos_as_xyz
 'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
 Na Na1 0.0 0.0 0.0 1
 Cl Cl1 0.5 0.5 0.5 1
"""


def rock_salt(edge=4.0, *, shift=(0.0, 0.0, 0.0), numbers=(11, 17)) -> Crystal:
    """Two atoms in a cube (the caesium chloride structure)."""
    coords = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]) + shift
    return make_crystal(np.eye(3) * edge, list(numbers), coords)


def poscar(edge, elements=("Na", "Cl")) -> str:
    """The same cube as a POSCAR."""
    cell = f"{edge} 0 0\n0 {edge} 0\n0 0 {edge}"
    return f"c\n1.0\n{cell}\n{' '.join(elements)}\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"


def cif(edge, elements=("Na", "Cl")) -> str:
    """The same cube as a CIF."""
    text = CIF
    for axis in "abc":
        text = text.replace(f"_cell_length_{axis} 4.0", f"_cell_length_{axis} {edge}")
    return text.replace("Na", elements[0]).replace("Cl", elements[1])


def jarvis_atoms(edge, elements=("Na", "Cl")) -> dict:
    """The same cube as the atoms of a JARVIS record."""
    cell = [[edge, 0.0, 0.0], [0.0, edge, 0.0], [0.0, 0.0, edge]]
    coords = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    return {"lattice_mat": cell, "coords": coords, "elements": list(elements), "cartesian": False}
