"""Robocrystallographer's text, sooner: the library's own words, and its classes untouched."""

import csv
import gzip
import itertools
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from crystalfm.chem import robocrys_text
from crystalfm.chem.crystal_io import crystal_from_text
from crystalfm.chem.crystals import make_crystal
from crystalfm.chem.robocrys_text import cleaned, describe, library_versions
from crystalfm.contracts import UserError

MIRROR = os.environ.get("CRYSTALFM_MIRROR")
FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
HEXAGONAL = np.array([[1.0, 0.0, 0.0], [-0.5, 0.75**0.5, 0.0], [0.0, 0.0, 1.0]])
OCTAHEDRON = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
CRYSTALS = {
    "rock salt": make_crystal(FCC * 5.64, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "diamond": make_crystal(FCC * 5.43, [14, 14], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "perovskite": make_crystal(np.eye(3) * 3.905, [38, 22, 8, 8, 8], [[0, 0, 0], [0.5, 0.5, 0.5], *OCTAHEDRON]),
    "layers": make_crystal(
        HEXAGONAL * np.array([[3.18], [3.18], [6.5]]),
        [42, 16, 16],
        [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.26], [2 / 3, 1 / 3, 0.74]],
    ),
    "molecules": make_crystal(np.eye(3) * 5.66, [7] * 2, [[0.0, 0.0, 0.0], [0.11, 0.11, 0.11]]),
    "strange": make_crystal(
        [[4.1, 0.2, 0.0], [0.3, 5.2, 0.1], [0.0, 0.4, 6.3]],
        [26, 8, 8, 30],
        [[0.1, 0.2, 0.3], [0.5, 0.6, 0.2], [0.3, 0.8, 0.7], [0.8, 0.3, 0.6]],
    ),
}
needs_library = pytest.mark.skipif(find_spec("robocrys") is None, reason="needs the package robocrys")


@pytest.fixture(scope="module")
def plain():
    """The library as it comes."""
    pytest.importorskip("robocrys")
    from robocrys import StructureCondenser, StructureDescriber

    from crystalfm.chem.robocrys_library import as_structure

    condenser, describer = StructureCondenser(), StructureDescriber()

    def text(crystal):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return describer.describe(condenser.condense_structure(as_structure(crystal)))

    return text


def real_crystals(count):
    path = Path(MIRROR or "") / "mp" / "train.csv.gz"
    if MIRROR is None or not path.is_file():
        pytest.skip("needs the real data: set CRYSTALFM_MIRROR to a mirror that holds mp/")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = itertools.islice(csv.DictReader(stream), 1000, 1000 + count)
        return [crystal_from_text(row["cif"], "cif") for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", CRYSTALS)
def test_text_is_the_librarys(plain, name):
    assert describe(CRYSTALS[name]) == cleaned(plain(CRYSTALS[name]))


@pytest.mark.real_data
@pytest.mark.slow
def test_text_of_real_crystals_is_the_librarys(plain):
    for crystal in real_crystals(6):
        assert describe(crystal) == cleaned(plain(crystal))


@pytest.mark.slow
@needs_library
def test_texts_do_not_depend_on_what_was_described_before():
    names = list(CRYSTALS)
    first = {name: describe(CRYSTALS[name]) for name in names}
    assert {name: describe(CRYSTALS[name]) for name in reversed(names)} == first
    assert first["rock salt"].startswith("NaCl is Halite, Rock Salt structured")
    assert "np.int64" not in first["layers"]
    assert "oriented in the (0, 0, 1) direction" in first["layers"]


@pytest.mark.slow
@needs_library
def test_few_prototypes_are_compared_and_the_same_are_found(monkeypatch):
    from pymatgen.core.structure_matcher import StructureMatcher
    from robocrys.condense.mineral import MineralMatcher

    from crystalfm.chem.robocrys_library import _MineralMatcher, _SiteFingerprints, as_structure

    calls = []
    compare = StructureMatcher.fit_anonymous
    monkeypatch.setattr(
        StructureMatcher, "fit_anonymous", lambda *args, **kwargs: calls.append(1) or compare(*args, **kwargs)
    )
    counts, names = [], []
    for matcher in (_MineralMatcher(_SiteFingerprints()), MineralMatcher()):
        calls.clear()
        names.append([found["type"] for found in matcher.get_aflow_matches(as_structure(CRYSTALS["perovskite"]))])
        counts.append(len(calls))
    assert names[0] == names[1] == ["(Cubic) Perovskite"]
    assert counts[0] < 20
    assert counts[1] >= 180


@pytest.mark.slow
@needs_library
def test_library_is_left_as_it_is():
    from robocrys.condense import condenser, site
    from robocrys.condense.molecule import MoleculeNamer

    describe(CRYSTALS["rock salt"])
    assert condenser.MoleculeNamer is MoleculeNamer
    assert condenser.SiteAnalyzer is site.SiteAnalyzer
    assert condenser.StructureCondenser.condense_structure.__globals__ is vars(condenser)
    assert site.get_site_fingerprints.__module__ == "robocrys.condense.fingerprint"


def test_integers_of_numpy_two_become_plain():
    text = "one MoS2 sheet oriented in the (np.int64(0), np.int64(-1), np.int64(12)) direction."
    assert cleaned(text) == "one MoS2 sheet oriented in the (0, -1, 12) direction."


@pytest.mark.parametrize("between", [" and ", ", and "])
def test_directions_are_sorted(between):
    one, two, three = "(0, 0, 1)", "(0, 1, 0)", "(1, 0, 0)"
    text = f"two X ribbons oriented in the {three}, {one}{between}{two} directions and (x) more."
    assert cleaned(text) == f"two X ribbons oriented in the {one}, {two}{between}{three} directions and (x) more."


def test_text_without_artefacts_is_kept():
    text = "Mg(1) is bonded in a 12-coordinate geometry. The ribbon is oriented in the (0, 0, 1) direction. A(2)."
    assert cleaned(text) == text


def test_missing_package_is_told(monkeypatch):
    monkeypatch.delitem(sys.modules, "crystalfm.chem.robocrys_library", raising=False)
    for name in ("matminer", "matminer.featurizers.site", "robocrys"):
        monkeypatch.setitem(sys.modules, name, None)
    robocrys_text._describer.cache_clear()
    with pytest.raises(UserError, match=r"needs the package (matminer|robocrys)") as error:
        describe(CRYSTALS["rock salt"])
    assert "crystalfm[describe]" in error.value.remedy


def test_versions_name_the_packages_that_are_installed():
    found = library_versions()
    assert "pymatgen" in found
    assert set(found) <= {"robocrys", "matminer", "pymatgen", "pymatgen-core", "spglib", "openbabel", "openbabel-wheel"}
