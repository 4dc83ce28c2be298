"""Splitting SMILES and SELFIES into tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalfm.encoders.tokenizers import spaced_selfies, tokenize_selfies, tokenize_smiles


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("CCO", ["C", "C", "O"]),
        ("ClBrB", ["Cl", "Br", "B"]),
        ("c1cc[nH]c1", ["c", "1", "c", "c", "[nH]", "c", "1"]),
        ("C[C@@H](N)C(=O)[O-]", ["C", "[C@@H]", "(", "N", ")", "C", "(", "=", "O", ")", "[O-]"]),
        ("C%12%(100)C#N", ["C", "%12", "%(100)", "C", "#", "N"]),
        ("F/C=C\\F", ["F", "/", "C", "=", "C", "\\", "F"]),
        ("CO.N>>CN", ["C", "O", ".", "N", ">>", "C", "N"]),
        ("", []),
    ],
)
def test_smiles_tokens(smiles, tokens):
    assert tokenize_smiles(smiles) == tokens


def test_selfies_tokens():
    assert tokenize_selfies("[C][=C][Branch1][C][O].[Na+1]") == [
        "[C]", "[=C]", "[Branch1]", "[C]", "[O]", ".", "[Na+1]",
    ]  # fmt: skip


@given(st.text())
def test_nothing_is_dropped(text):
    assert "".join(tokenize_smiles(text)) == text
    assert "".join(tokenize_selfies(text)) == text


def test_spaced_selfies():
    assert spaced_selfies("[C][=C][O].[N]") == "[C] [=C] [O].[N]"
