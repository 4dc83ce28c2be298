"""LogP and QED of molecules."""

import numpy as np
import pytest

from crystalfm.chem import properties
from crystalfm.chem.properties import logp_and_qed


def test_values_of_known_molecules():
    values, problems = logp_and_qed(["c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O"])
    # Crippen's benzene: six aromatic CH at 0.1581 and their hydrogens at 0.123.
    assert values[0, 0] == pytest.approx(6 * (0.1581 + 0.1230), abs=1e-6)
    assert values[1, 1] == pytest.approx(0.5501, abs=2e-3)
    assert problems == []


def test_does_not_depend_on_how_the_molecule_is_written():
    values, _ = logp_and_qed(["OCC", "CCO"])
    np.testing.assert_allclose(values[0], values[1])


def test_rows_without_a_molecule_are_unknown_and_no_problem():
    values, problems = logp_and_qed([None, "C"])
    assert np.isnan(values[0]).all()
    assert np.isfinite(values[1]).all()
    assert problems == []


def test_bad_smiles_are_problems_at_their_row():
    values, problems = logp_and_qed(["C", "C1CC"])
    assert [(problem.row, problem.value) for problem in problems] == [(1, "C1CC")]
    assert "ring" in problems[0].reason
    assert np.isnan(values[1]).all()


@pytest.mark.parametrize(("answer", "reason"), [(ValueError("math domain error"), "math domain"), (np.inf, "finite")])
def test_values_that_cannot_be_had_are_problems(monkeypatch, answer, reason):
    from rdkit.Chem import QED

    def compute(_molecule):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(QED, "qed", compute)
    values, problems = properties.logp_and_qed(["C"])
    assert reason in problems[0].reason
    assert np.isnan(values).all()
