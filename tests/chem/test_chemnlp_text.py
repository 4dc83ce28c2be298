"""Texts in the manner of ChemNLP: right, complete, and one for each crystal."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from crystal_samples import rock_salt

from crystalfm.chem import chemnlp_text
from crystalfm.chem.chemnlp_text import describe
from crystalfm.chem.crystals import CrystalError, make_crystal
from crystalfm.contracts import UserError

pytest.importorskip("jarvis", reason="needs jarvis-tools")

FCC = np.array([[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]])
SALT = make_crystal(FCC, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])
PEROVSKITE = make_crystal(
    np.eye(3) * 3.905, [38, 22, 8, 8, 8], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
)
SALT_TEXT = (
    "The chemical information include: The chemical has an atomic formula of NaCl with a prototype of AB; Its "
    "molecular weight is 58.44 g/mol; The atomic fractions are Cl: 0.5, Na: 0.5, and the atomic values X and Z are "
    "3.16, 0.93 and 17, 11, respectively. The structure information include: The lattice parameters are 3.99, 3.99, "
    "3.99 with angles 60.0, 60.0, 60.0 degrees; The space group number is 225 with the symbol Fm-3m; The top 5 XRD "
    "peaks are found at 27.4, 31.7, 45.5, 53.9, 56.5 degrees; The material has a density of 2.164 g/cm³, "
    "crystallizes in a cubic system, and has a point group of m-3m; The Wyckoff positions are a, b; The number of "
    "atoms in the primitive and conventional cells are 2 and 8, respectively; The bond distances are as follows: "
    "Cl-Cl: 3.99; Cl-Na: 2.82; Na-Na: 3.99."
)


def part(text, pattern):
    return re.search(pattern, text)[1]


def test_text_of_rock_salt():
    assert describe(SALT) == SALT_TEXT


def test_blocks_can_be_told_apart_as_in_the_paper():
    marks = "The chemical information include|The structure information include|The bond distances are"
    assert [len(block) > 0 for block in re.split(marks, describe(PEROVSKITE))] == [False, True, True, True]


def test_values_of_a_perovskite():
    text = describe(PEROVSKITE)
    assert part(text, r"formula of (\S+) with a prototype of") == "SrTiO3"
    assert part(text, r"weight is (\S+) g/mol") == "183.49"
    assert part(text, r"fractions are (.*?), and") == "O: 0.6, Sr: 0.2, Ti: 0.2"
    assert part(text, r"number is (\d+) with") == "221"
    assert part(text, r"Wyckoff positions are (.*?);") == "a, b, c"
    assert "O-Ti: 1.95" in text


def test_molecular_weight_is_the_formula_units_in_any_cell():
    double = make_crystal(np.diag([8.0, 4.0, 4.0]), [11, 17] * 2, [[0, 0, 0], [0.25, 0.5, 0.5]] * 2)
    double.frac_coords[2:, 0] += 0.5
    weights = {part(describe(crystal), r"weight is (\S+) g/mol") for crystal in (rock_salt(), double, SALT)}
    assert weights == {"58.44"}


@pytest.mark.parametrize("seed", range(5))
def test_order_and_origin_of_the_atoms_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(PEROVSKITE.num_atoms)
    shift = rng.integers(0, 8, 3) / 8
    moved = make_crystal(PEROVSKITE.lattice, PEROVSKITE.atomic_numbers[order], PEROVSKITE.frac_coords[order] + shift)
    ours, theirs = (re.sub(r"Wyckoff positions are .*?;", "", describe(one)) for one in (moved, PEROVSKITE))
    assert ours == theirs


@pytest.mark.parametrize("seed", ["1", "2"])
def test_order_of_sets_does_not_matter(seed):
    code = (
        "from crystalfm.chem.chemnlp_text import describe\n"
        "from crystalfm.chem.crystals import Crystal\n"
        f"print(describe(Crystal.from_json({PEROVSKITE.to_json()!r})))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert answer.stdout.decode().strip() == describe(PEROVSKITE)


def test_distances_that_are_equal_but_for_rounding_are_named_once():
    """The edge of 3.905 lies between 3.90 and 3.91, and errors of the last bit must not make both of it."""
    assert part(describe(PEROVSKITE), r"Sr-Sr: (.*?);") == "3.9"


def test_lonely_atom_has_no_bonds_and_a_noble_gas_no_electronegativity():
    text = describe(make_crystal(np.eye(3) * 6.0, [2], [[0, 0, 0]]))
    assert text.endswith("The bond distances are as follows: none below 4 Å.")
    assert "X and Z are unknown and 2, respectively" in text


def test_crystal_without_a_space_group_is_an_error(monkeypatch):
    monkeypatch.setattr("spglib.get_symmetry_dataset", lambda *_, **__: None)
    with pytest.raises(CrystalError, match="no space group"):
        describe(SALT)


def test_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "jarvis.core.atoms", None)
    with pytest.raises(UserError, match="jarvis-tools") as error:
        describe(SALT)
    assert "crystalfm[describe]" in error.value.remedy


def test_versions_name_what_a_text_depends_on():
    assert set(chemnlp_text.library_versions()) == {"jarvis-tools", "spglib"}
