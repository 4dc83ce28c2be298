"""Crystals from CIF, POSCAR, extxyz, JSON and other libraries' objects: the same crystal, or a reason."""

import gzip
import json
import subprocess
import sys
import warnings
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from crystal_samples import CIF, CUBE, EXTXYZ, POSCAR, jarvis_atoms, rock_salt

from crystalfm.chem.crystal_io import as_crystal, crystal_from_jarvis, crystal_from_text, read_crystal_file
from crystalfm.chem.crystals import CrystalError, Problem

pymatgen = pytest.importorskip("pymatgen.core.structure", reason="needs pymatgen")
ase = pytest.importorskip("ase", reason="needs ASE")

TEXTS = {"cif": CIF, "poscar": POSCAR, "extxyz": EXTXYZ, "json": rock_salt().to_json()}
NAMES = {
    "cif": ["a.cif", "A.CIF"],
    "poscar": ["POSCAR", "POSCAR-JVASP-1", "CONTCAR", "a.vasp", "a.poscar"],
    "extxyz": ["a.xyz", "a.extxyz"],
    "json": ["a.json"],
}


def assert_rock_salt(crystal):
    np.testing.assert_allclose(crystal.lattice, CUBE, atol=1e-12)
    assert crystal.atomic_numbers.tolist() == [11, 17]
    np.testing.assert_allclose(crystal.frac_coords, [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12)


def refused(function, *arguments):
    """The error of a call that must give no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CrystalError) as caught:
            function(*arguments)
    return caught.value


@pytest.mark.parametrize("kind", TEXTS)
def test_every_format_gives_the_same_crystal(kind):
    assert_rock_salt(crystal_from_text(TEXTS[kind], kind))
    assert_rock_salt(crystal_from_text(TEXTS[kind]))
    assert_rock_salt(as_crystal(TEXTS[kind]))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names])
def test_files_by_name(tmp_path, kind, name):
    (tmp_path / name).write_text(TEXTS[kind])
    assert_rock_salt(read_crystal_file(tmp_path / name))


@pytest.mark.parametrize("kind", TEXTS)
def test_files_by_content_and_compressed(tmp_path, kind):
    (tmp_path / "structure").write_text(TEXTS[kind])
    assert_rock_salt(read_crystal_file(tmp_path / "structure"))
    name = f"{NAMES[kind][0]}.gz"
    (tmp_path / name).write_bytes(gzip.compress(TEXTS[kind].encode()))
    assert_rock_salt(read_crystal_file(str(tmp_path / name)))


def test_objects_of_other_libraries():
    structure = pymatgen.Structure(CUBE, ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    atoms = ase.Atoms("NaCl", positions=[[0, 0, 0], [2, 2, 2]], cell=CUBE, pbc=True)
    jarvis = SimpleNamespace(lattice_mat=CUBE, to_dict=lambda: jarvis_atoms(4.0))
    for value in (rock_salt(), structure, structure.as_dict(), atoms, jarvis, jarvis_atoms(4.0)):
        assert_rock_salt(as_crystal(value))
    assert_rock_salt(as_crystal({"jid": "JVASP-1", "atoms": jarvis_atoms(4.0)}))
    assert_rock_salt(crystal_from_text(json.dumps(structure.as_dict())))


def test_coordinates_outside_the_cell_stay_where_they_are():
    atoms = ase.Atoms("NaCl", positions=[[0, 0, 0], [6, -2, 2]], cell=CUBE, pbc=True)
    np.testing.assert_allclose(as_crystal(atoms).frac_coords[1], [1.5, -0.5, 0.5])


def test_jarvis_coordinates_in_angstrom():
    record = jarvis_atoms(4.0) | {"coords": [[0, 0, 0], [2.0, 2.0, 2.0]], "cartesian": True}
    assert_rock_salt(crystal_from_jarvis(record))
    flat = record | {"lattice_mat": np.zeros((3, 3)).tolist()}
    assert refused(crystal_from_jarvis, flat).problem is Problem.NO_VOLUME


def test_symmetry_of_a_cif_is_applied():
    text = CIF.replace(" 'x, y, z'\n", " 'x, y, z'\n '-x, -y, -z'\n").replace("Cl1 0.5 0.5 0.5", "Cl1 0.25 0.5 0.5")
    assert crystal_from_text(text).atomic_numbers.tolist() == [11, 17, 17]


def test_deuterium_is_hydrogen():
    assert crystal_from_text(POSCAR.replace("Na", "D")).atomic_numbers.tolist() == [1, 17]
    assert crystal_from_text(CIF.replace("Na", "D")).atomic_numbers.tolist() == [1, 17]
    assert as_crystal(jarvis_atoms(4.0, ("T", "Cl"))).atomic_numbers.tolist() == [1, 17]


def test_selective_dynamics_and_volume_as_scale():
    text = POSCAR.replace("direct", "Selective dynamics\ndirect").replace("0 0 0\n0.5", "0 0 0 T T F\n0.5")
    assert_rock_salt(crystal_from_text(text.replace("0.5 0.5 0.5", "0.5 0.5 0.5 F F F").replace("1.0\n", "-64\n")))


SITE = " Cl Cl1 0.5 0.5 0.5 1"
BAD = {
    "half occupied": (CIF.replace(SITE, " Cl Cl1 0.5 0.5 0.5 0.5"), Problem.DISORDERED),
    "mixed site": (CIF.replace(SITE, " Cl Cl1 0.5 0.5 0.5 0.5\n Br Br1 0.5 0.5 0.5 0.5"), Problem.DISORDERED),
    "two on one site": (CIF.replace(SITE, " Cl Cl1 0.0 0.0 0.0 1"), Problem.OVERLAP),
    "near in a CIF": (CIF.replace(SITE, " Cl Cl1 0.0 0.05 0.0 1"), Problem.OVERLAP),
    "near in a POSCAR": (POSCAR.replace("0.5 0.5 0.5", "0.0 0.99 0.0"), Problem.OVERLAP),
    "dummy in a CIF": (CIF.replace("Na", "X"), Problem.UNKNOWN_ELEMENT),
    "dummy in a POSCAR": (POSCAR.replace("Na", "Xx"), Problem.UNKNOWN_ELEMENT),
    "dummy in extxyz": (EXTXYZ.replace("Na", "X"), Problem.UNKNOWN_ELEMENT),
    "no element in extxyz": (EXTXYZ.replace("Na", "Qq"), Problem.UNKNOWN_ELEMENT),
    "dummy in JARVIS": (json.dumps(jarvis_atoms(4.0, ("X", "Cl"))), Problem.UNKNOWN_ELEMENT),
    "no length": (CIF.replace("_cell_length_a 4.0", "_cell_length_a 0"), Problem.NO_VOLUME),
    "flat POSCAR": (POSCAR.replace("0 0 4\n", "0 0 0\n"), Problem.NO_VOLUME),
    "molecule": (EXTXYZ.replace('Lattice="4 0 0 0 4 0 0 0 4" ', ""), Problem.NO_VOLUME),
    "left-handed": (POSCAR.replace("0 0 4\n", "0 0 -4\n"), Problem.NO_VOLUME),
    "NaN in a POSCAR": (POSCAR.replace("0.5 0.5 0.5", "0.5 nan 0.5"), Problem.NOT_FINITE),
    "NaN in a CIF": (CIF.replace(SITE, " Cl Cl1 nan 0.5 0.5 1"), Problem.NOT_FINITE),
    "NaN in extxyz": (EXTXYZ.replace("2 2 2", "2 nan 2"), Problem.NOT_FINITE),
    "no sites": (CIF[: CIF.index(" Na Na1")], Problem.NO_ATOMS),
    "no counts": (POSCAR.replace("Na Cl\n1 1\n", "Na\n0\n").split("0 0 0\n0.5")[0], Problem.NO_ATOMS),
    "empty arrays": ('{"lattice":[[4,0,0],[0,4,0],[0,0,4]],"numbers":[],"coords":[]}', Problem.NO_ATOMS),
    "empty": ("", Problem.UNREADABLE),
    "blanks": (" \n\t\n", Problem.UNREADABLE),
    "prose": ("this is no structure", Problem.UNREADABLE),
    "cut CIF": (CIF[:120], Problem.UNREADABLE),
    "two CIFs": (CIF + CIF.replace("data_NaCl", "data_other"), Problem.UNREADABLE),
    "cut POSCAR": (POSCAR.removesuffix("0.5 0.5 0.5\n"), Problem.UNREADABLE),
    "too many atoms for its lines": (POSCAR.replace("1 1\n", "1 99999999\n"), Problem.UNREADABLE),
    "too many atoms for its frame": (EXTXYZ.replace("2\n", "99999999\n", 1), Problem.UNREADABLE),
    "too many columns": (EXTXYZ.replace("pos:R:3", "pos:R:399999999"), Problem.UNREADABLE),
    "nameless POSCAR": (POSCAR.replace("Na Cl\n", ""), Problem.UNREADABLE),
    "two frames": (EXTXYZ + EXTXYZ, Problem.UNREADABLE),
    "cut extxyz": (EXTXYZ[:-6], Problem.UNREADABLE),
    "broken JSON": ('{"lattice": ', Problem.UNREADABLE),
    "deep JSON": ('{"a":' * 100_000, Problem.UNREADABLE),
    "other JSON": ('{"smiles": "C"}', Problem.UNREADABLE),
    "JARVIS without elements": ('{"lattice_mat": [], "coords": []}', Problem.UNREADABLE),
    "pymatgen without sites": ('{"lattice": {}, "sites": [{}]}', Problem.UNREADABLE),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_texts_have_a_reason_and_no_warning(case):
    text, problem = BAD[case]
    error = refused(crystal_from_text, text)
    assert error.problem is problem
    assert error.reason.startswith(problem.value)
    assert "\n" not in error.reason


@pytest.mark.parametrize("kind", TEXTS)
def test_damaged_texts_are_read_or_refused_and_never_crash(kind):
    random = np.random.default_rng(7)
    words = ["nan", "-1", "0", "X", "1e400", "99999999", "{", "]", '"', "\n", "loop_", "?", "é"]
    for _ in range(60):
        text = TEXTS[kind]
        for _ in range(random.integers(1, 4)):
            start, length = random.integers(0, len(text)), random.integers(0, 12)
            text = text[:start] + words[random.integers(len(words))] + text[start + length :]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with suppress(CrystalError):
                assert crystal_from_text(text, kind).num_atoms > 0


def test_names_that_lie_are_unreadable(tmp_path):
    (tmp_path / "a.cif").write_text(POSCAR)
    assert refused(read_crystal_file, tmp_path / "a.cif").problem is Problem.UNREADABLE
    (tmp_path / "b.json").write_text("[1, 2]")
    assert "list" in refused(read_crystal_file, tmp_path / "b.json").reason


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.cif", None, "no such file"),
        ("empty.cif", b"", "the file is empty"),
        ("latin.cif", CIF.encode().replace(b"data_NaCl", b"data_\xe9"), "decode"),
        ("cut.cif.gz", gzip.compress(CIF.encode(), mtime=0)[:60], "unreadable"),
        ("no.cif.gz", b"no gzip", "gzip"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = refused(read_crystal_file, tmp_path / name)
    assert error.problem is Problem.UNREADABLE
    assert words in error.reason
    assert error.value in {name, ""}


def test_a_folder_is_no_crystal(tmp_path):
    assert refused(read_crystal_file, tmp_path).problem is Problem.UNREADABLE


@pytest.mark.parametrize("value", [None, 3, [1], object(), b"x"])
def test_other_objects_are_unreadable(value):
    assert refused(as_crystal, value).problem is Problem.UNREADABLE


def test_disorder_in_other_libraries():
    mixed = pymatgen.Structure(CUBE, [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    error = refused(as_crystal, mixed)
    assert error.problem is Problem.DISORDERED
    assert "1 of 2" in error.reason
    atoms = ase.Atoms("NaCl", positions=[[0, 0, 0], [2, 2, 2]], cell=CUBE, info={"occupancy": {"0": {"Na": 0.5}}})
    assert refused(as_crystal, atoms).problem is Problem.DISORDERED


def test_cell_without_extent_in_ase():
    assert refused(as_crystal, ase.Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]])).problem is Problem.NO_VOLUME


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys\n"
        "from crystalfm.chem.crystal_io import crystal_from_jarvis\n"
        f"crystal_from_jarvis({jarvis_atoms(4.0)!r})\n"
        "print(sorted({'pymatgen', 'ase', 'jarvis', 'torch', 'rdkit'} & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
