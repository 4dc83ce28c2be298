"""Space groups and crystal systems of known crystals."""

import math

import numpy as np
import pytest
from known_crystals import SETTINGS, bcc, caesium_chloride, fcc, numbers, perovskite, rock_salt

from crystalfm.chem.crystals import Crystal, make_crystal
from crystalfm.metrics.crystals.symmetry import (
    CRYSTAL_SYSTEMS,
    crystal_system,
    space_group,
    space_groups,
    symmetry_histogram,
)

pytest.importorskip("spglib", reason="needs spglib: pip install 'crystalfm[generate]'")

KNOWN = [(rock_salt(), 225), (caesium_chloride(), 221), (bcc(), 229), (fcc(), 225), (perovskite(), 221)]


@pytest.mark.parametrize(("crystal", "number"), KNOWN)
def test_known_groups_in_every_setting(crystal, number):
    assert space_group(crystal) == number
    assert [space_group(setting(crystal)) for setting in SETTINGS] == [number] * len(SETTINGS)


def test_tolerance_decides():
    crystal = perovskite()
    shift = np.zeros_like(crystal.frac_coords)
    shift[1, 2] = 0.01  # 0.04 angstrom along c
    distorted = Crystal(crystal.lattice, crystal.atomic_numbers, crystal.frac_coords + shift)
    assert space_group(distorted, 0.1) == 221
    assert space_group(distorted, 0.01) == 99


def test_no_group_is_none():
    same_place = make_crystal(np.eye(3) * 3, numbers(["H", "H"]), [[0, 0, 0], [0, 0, 0.001]])
    assert space_group(same_place) is None
    assert space_groups([None, rock_salt()]) == (None, 225)


def test_systems_cover_all_groups_once():
    assert sorted(number for numbers_ in CRYSTAL_SYSTEMS.values() for number in numbers_) == list(range(1, 231))
    known = {1: "triclinic", 14: "monoclinic", 62: "orthorhombic", 139: "tetragonal", 166: "trigonal", 194: "hexagonal"}
    assert {number: crystal_system(number) for number in known} == known
    with pytest.raises(ValueError, match="1 to 230"):
        crystal_system(231)


def test_histogram_counts_every_sample():
    found = symmetry_histogram([225, 221, 1, None, 62, None], 0.05)
    assert found.systems["cubic"] == 2
    assert found.systems["hexagonal"] == 0
    assert found.num_known + found.num_unknown == 6
    assert (found.trivial.count, found.trivial.total) == (1, 4)
    assert found.symprec_angstrom == 0.05
    assert math.isnan(symmetry_histogram([None]).trivial.fraction)
