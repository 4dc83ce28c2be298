"""Modalities from raw fields."""

import pytest

from crystalfm.chem.representations import modality_values

FIELDS = {"smiles": ["CCO", None, "CI(=O)=O"], "description": [None, "a liquid", "a solid"]}


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        ("smiles", FIELDS["smiles"]),
        ("fingerprint", FIELDS["smiles"]),
        ("description", FIELDS["description"]),
    ],
)
def test_raw_fields_pass_through(modality, expected):
    values, problems = modality_values(modality, FIELDS)
    assert values == expected
    assert values is not expected
    assert problems == []


def test_selfies_reports_what_it_cannot_encode_and_leaves_missing_rows_alone():
    values, problems = modality_values("selfies", FIELDS)
    assert values == ["[C][C][O]", None, None]
    assert [(problem.row, problem.value) for problem in problems] == [(2, "CI(=O)=O")]
    assert "SELFIES cannot encode it" in problems[0].reason


def test_unknown_modality_and_missing_field():
    with pytest.raises(KeyError):
        modality_values("smell", FIELDS)
    with pytest.raises(KeyError):
        modality_values("description", {"smiles": ["C"]})
