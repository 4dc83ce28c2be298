"""The whole report: every figure with its denominator, uniqueness always there; on real crystals too."""

import csv
import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from known_crystals import bcc, caesium_chloride, fcc, flat, moved, overlapping, perovskite, repeated, rock_salt

from crystalfm.chem.crystal_io import crystal_from_text
from crystalfm.contracts import UserError
from crystalfm.data.descriptions import Generator
from crystalfm.metrics.crystals import fingerprints as fingerprint_module
from crystalfm.metrics.crystals.report import JudgeSettings, judge

pytest.importorskip("smact", reason="needs smact: pip install 'crystalfm[generate]'")
pytest.importorskip("spglib", reason="needs spglib: pip install 'crystalfm[generate]'")

MIRROR = os.environ.get("CRYSTALFM_MIRROR")
QUICK = JudgeSettings(fingerprints=False, jobs=1)
REFERENCE = [rock_salt(), perovskite(), fcc()]
TRAIN = [rock_salt(), bcc()]


def samples():
    """Nine samples: two not parsed, two invalid, a copy, a copy of a training crystal, and three of their own."""
    return [
        moved(rock_salt()),
        repeated(rock_salt()),
        None,
        perovskite(),
        overlapping(),
        flat(),
        caesium_chloride(),
        caesium_chloride("Na", "Na", 4.2),
        None,
    ]


@pytest.fixture
def fake(monkeypatch):
    """Put a function that takes no time in the place of matminer."""
    generator = Generator("fake", "known_crystals:fake_fingerprint", 1, (), dict)
    monkeypatch.setattr(fingerprint_module, "GENERATOR", generator)
    monkeypatch.setattr(fingerprint_module, "_PACKAGES", ())


def test_counts_by_hand(tmp_path):
    found = judge(samples(), REFERENCE, TRAIN, cache=tmp_path, settings=QUICK)
    figures = {name: (value.count, value.total) for name, value, _ in found._figures() if hasattr(value, "count")}
    assert figures == {
        "parsed": (7, 9),
        "structurally_valid": (5, 9),
        "compositionally_valid": (7, 9),
        "valid": (5, 9),
        "unique": (4, 5),
        "unique_of_all": (4, 9),
        "distinct_formulas": (4, 5),
        "valid_and_unique": (4, 9),
        "novel": (3, 5),
        "novel_of_all": (3, 9),
        "new_formulas": (3, 5),
        "valid_unique_and_novel": (3, 9),
        "space_group_p1": (0, 5),
    }
    assert found.groups == (225, 225, None, 221, None, None, 221, 229, None)
    assert found.symmetry.systems["cubic"] == 5
    assert found.symmetry.num_unknown == 4
    assert found.density.num_samples == 5
    assert found.num_elements.value == pytest.approx(4 / 15)  # of 2, 2, 3, 2, 1 from 2, 3, 1


def test_copies_cannot_hide(tmp_path):
    found = judge([fcc()] * 50, REFERENCE, cache=tmp_path, settings=QUICK)
    rows = {name: (value, of) for name, value, of in found.rows()}
    assert rows["valid"] == ("100.0%", "50 of 50 samples")
    assert rows["unique"] == ("2.0%", "1 of 50 structurally valid samples")
    assert rows["valid and unique"] == ("2.0%", "1 of 50 samples")
    assert "novel" not in rows
    assert found.as_dict()["unique"] == {"count": 1, "total": 50, "fraction": 0.02}


def test_a_valid_copy_of_an_invalid_crystal_counts_once(tmp_path):
    strange = caesium_chloride("La", "F", 4.0)  # fluorine has one charge, lanthanum two or three
    found = judge([strange, rock_salt(), strange, moved(rock_salt())], REFERENCE, cache=tmp_path, settings=QUICK)
    assert (found.uniqueness.num_unique, found.num_valid_unique) == (2, 1)


def test_with_fingerprints(fake, tmp_path):
    settings = JudgeSettings(fingerprint_novelty=True, jobs=1)
    found = judge([*samples(), rock_salt("K")], REFERENCE, TRAIN, cache=tmp_path, settings=settings)
    scores = found.fingerprints
    assert (scores.coverage.num_samples, scores.coverage.num_fingerprinted) == (10, 7)
    assert scores.coverage.precision.total == 10
    assert scores.coverage.precision_of_fingerprinted.total == 7
    assert scores.coverage.recall.total == 3
    assert scores.scaler.num_crystals == 3
    assert scores.diversity.structure.total == 5  # the valid samples that have one
    assert scores.novelty.among_all.total == 10
    assert scores.novelty.num_train == 2
    assert scores.reasons[2] == "not parsed"
    assert "no potassium" in scores.reasons[9]
    without = judge(samples(), REFERENCE, TRAIN, cache=tmp_path, settings=JudgeSettings(jobs=1))
    assert without.fingerprints.novelty is None


def test_everything_is_plain_json(fake, tmp_path):
    found = judge([None, overlapping()], REFERENCE, TRAIN, cache=tmp_path, settings=JudgeSettings(jobs=1))
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["density_wasserstein"]["value"] is None
    assert content["valid"] == {"count": 0, "total": 2, "fraction": 0.0}
    assert content["settings"]["symprec_angstrom"] == 0.1
    assert content["oxidation_states"] == "smact14"
    assert content["coverage_cutoffs"] == {"structure": 0.4, "composition": 10.0}
    assert len(content["composition_scaler"]["mean"]) == 132
    assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in found.rows())


def test_nothing_to_judge(tmp_path):
    with pytest.raises(UserError, match="nothing to judge: 0 samples"):
        judge([], REFERENCE, cache=tmp_path, settings=QUICK)
    with pytest.raises(UserError, match="0 reference"):
        judge(samples(), [], cache=tmp_path, settings=QUICK)


@pytest.mark.real_data
@pytest.mark.slow
def test_real_crystals_are_valid_and_their_own_copies(tmp_path):
    folder = None if MIRROR is None else Path(MIRROR) / "mp"
    if folder is None or not (folder / "test.csv.gz").is_file():
        pytest.skip("needs the real data: set CRYSTALFM_MIRROR to a mirror that holds mp/")
    with gzip.open(folder / "test.csv.gz", "rt", encoding="utf-8") as stream:
        rows = [row for _, row in zip(range(100), csv.DictReader(stream), strict=False)]
    crystals = [crystal_from_text(row["cif"], "cif") for row in rows]
    copies = [moved(crystal) for crystal in crystals[:20]]
    found = judge([*crystals, *copies, None], crystals, crystals[:50], cache=tmp_path, settings=QUICK)
    assert (found.validity.structural.count, found.validity.structural.total) == (120, 121)
    assert 0.85 < found.validity.compositional.fraction < 1.0
    assert all(found.uniqueness.first_of[100 + place] == found.uniqueness.first_of[place] for place in range(20))
    assert found.uniqueness.num_unique <= 100
    assert not any(found.novelty.novel[:50])
    assert found.density.value < 1.0
    own = np.array([number or 0 for number in found.groups[:100]])
    theirs = np.array([int(row["spacegroup.number"]) for row in rows])
    assert (own == theirs).mean() > 0.85  # theirs was found with a smaller tolerance
    assert math.isclose(found.symmetry.trivial.total, 120, abs_tol=2)
