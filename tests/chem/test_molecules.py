"""Molecules: reasons for bad SMILES, canonical form, SELFIES, Morgan bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalfm.chem.molecules import (
    MoleculeError,
    canonical_smiles,
    canonicalize,
    morgan_fingerprints,
    parse_smiles,
    to_selfies,
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a SMILES: empty"),
        ("   ", "not a SMILES: empty"),
        ("CCO ethanol", "not a SMILES: a blank inside"),
        ("CC(C", "not a SMILES: parentheses do not match"),
        ("C[NH3+", "not a SMILES: square brackets do not match"),
        ("C1CC", "not a SMILES: a ring is opened and not closed"),
        ("hello", "not a SMILES: unknown symbol or wrong order of symbols"),
        ("[13CH4]x", "not a SMILES: unknown symbol or wrong order of symbols"),
        ("CC(C)(C)(C)C", "impossible molecule: Explicit valence for atom # 1 C, 5, is greater than permitted"),
    ],
)
def test_bad_smiles_says_why(text, reason):
    with pytest.raises(MoleculeError) as caught:
        parse_smiles(text)
    assert caught.value.reason == reason
    assert caught.value.value == text


def test_aromatic_ring_that_cannot_be_kekulized_is_named():
    with pytest.raises(MoleculeError, match=r"impossible molecule: .*kekulize"):
        parse_smiles("c1cccc1")


def test_bad_smiles_prints_nothing(capfd):
    canonicalize(["C1CC", "CC(C)(C)(C)C", "nonsense"])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_rdkit_messages_are_back_after_a_bad_smiles(capfd):
    from rdkit import Chem

    canonicalize(["C1CC"])
    Chem.MolFromSmiles("C1CC")
    assert "unclosed ring" in capfd.readouterr().err


def test_blanks_around_are_ignored():
    assert parse_smiles(" CCO\n").GetNumAtoms() == 3


@pytest.mark.parametrize(("first", "second"), [("OCC", "CCO"), ("C1=CC=CC=C1", "c1ccccc1"), ("[H]C([H])([H])[H]", "C")])
def test_canonical_form_is_equal_for_equal_molecules(first, second):
    assert canonical_smiles(first) == canonical_smiles(second)


def test_canonical_form_keeps_stereo_and_isotopes_apart():
    assert canonical_smiles("C[C@H](N)O") != canonical_smiles("C[C@@H](N)O")
    assert canonical_smiles("[13CH4]") != canonical_smiles("C")


def test_canonicalize_keeps_rows_and_reports_bad_ones():
    canonical, problems = canonicalize(["OCC", None, "C1CC", "CCO"])
    assert canonical == ["CCO", None, None, "CCO"]
    assert [(problem.row, problem.value) for problem in problems] == [(2, "C1CC")]
    assert problems[0].reason.startswith("not a SMILES")


def test_selfies_of_a_simple_molecule():
    assert to_selfies("CCO") == "[C][C][O]"


def test_selfies_decodes_to_the_same_molecule():
    import selfies

    for smiles in ("c1ccccc1O", "C#CC1CO1", "O=N(=O)C1=CC=CO1", "C[N+](C)(C)CC([O-])=O"):
        assert canonical_smiles(selfies.decoder(to_selfies(smiles))) == canonical_smiles(smiles)


@pytest.mark.parametrize(
    ("smiles", "detail"),
    [("CI(=O)=O", "I with 5 bond"), ("*C", "failed to parse input"), ("C$C", "failed to parse input")],
)
def test_what_selfies_cannot_encode_is_an_error_with_the_reason(smiles, detail):
    with pytest.raises(MoleculeError) as caught:
        to_selfies(smiles)
    assert caught.value.reason.startswith("SELFIES cannot encode it: ")
    assert detail in caught.value.reason
    assert "\n" not in caught.value.reason


def test_selfies_of_no_molecule_is_an_error():
    with pytest.raises(MoleculeError, match="not a SMILES"):
        to_selfies("C1CC")


def test_fingerprints_equal_rdkits_own_bits():
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    smiles = ["CCO", "c1ccccc1C(=O)O", "C", "CC(C)(C)C#N"]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    expected = np.stack([generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles])
    packed = morgan_fingerprints(smiles)
    assert packed.shape == (4, 256)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(np.unpackbits(packed, axis=1), expected)


def test_fingerprints_are_the_same_over_chunks(monkeypatch):
    smiles = ["C" * length for length in range(1, 12)]
    whole = morgan_fingerprints(smiles)
    monkeypatch.setattr("crystalfm.chem.molecules._CHUNK_ROWS", 3)
    np.testing.assert_array_equal(morgan_fingerprints(smiles), whole)


def test_radius_and_number_of_bits_matter():
    assert morgan_fingerprints(["CCCCO"], num_bits=64).shape == (1, 8)
    bits = [int(np.unpackbits(morgan_fingerprints(["CCCCO"], radius=radius)).sum()) for radius in (0, 2)]
    assert bits[0] < bits[1]


def test_no_molecules_give_no_fingerprints():
    assert morgan_fingerprints([]).shape == (0, 256)


@pytest.mark.parametrize("settings", [{"num_bits": 100}, {"num_bits": 0}, {"radius": -1}])
def test_impossible_fingerprint_settings(settings):
    with pytest.raises(ValueError, match="must"):
        morgan_fingerprints(["C"], **settings)


def test_fingerprint_of_no_molecule_is_an_error():
    with pytest.raises(MoleculeError, match="not a SMILES"):
        morgan_fingerprints(["C", "C1CC"])


@given(st.text(alphabet="CNOFcno()[]=#123+-@H %", max_size=12))
def test_any_text_is_a_molecule_or_a_molecule_error(text):
    canonical, problems = canonicalize([text])
    assert (canonical[0] is None) == (len(problems) == 1)
    if canonical[0] is not None:
        assert canonical_smiles(canonical[0]) == canonical[0]
