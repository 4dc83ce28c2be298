"""Fingerprints: over processes, kept on disk, failures counted; the real ones against matminer."""

import json
import math

import numpy as np
import pytest
from known_crystals import bcc, moved, permuted, repeated, rock_salt

from crystalfm.contracts import UserError
from crystalfm.data.descriptions import Generator
from crystalfm.metrics.crystals import fingerprints as module
from crystalfm.metrics.crystals.fingerprints import (
    GENERATOR,
    FingerprintSettings,
    fingerprint_text,
    fingerprints,
    library_versions,
)

ONE = FingerprintSettings(jobs=1, time_limit_seconds=3.0)


@pytest.fixture
def fake(monkeypatch):
    """Put a function that takes no time in the place of matminer."""
    generator = Generator("fake", "known_crystals:fake_fingerprint", 1, (), dict)
    monkeypatch.setattr(module, "GENERATOR", generator)
    monkeypatch.setattr(module, "_PACKAGES", ())


def test_rows_are_the_samples(fake, tmp_path):
    salts = [rock_salt(), None, rock_salt("K"), rock_salt("Li", "Cl", 5.1), rock_salt()]
    found = fingerprints(salts, tmp_path, ONE)
    assert len(found) == 5
    assert found.structure.shape == (5, 61)
    assert found.composition.shape == (5, 132)
    assert found.found.tolist() == [True, False, False, True, True]
    assert found.structure[0, 0] == pytest.approx(rock_salt().volume / 2)
    assert found.structure[3, 0] == pytest.approx(5.1**3 / 8)
    assert (found.structure[0] == found.structure[4]).all()
    assert math.isnan(found.structure[2, 0])
    assert found.reasons[1] == "not parsed"
    assert "no potassium" in found.reasons[2]
    assert found.rows(np.array([False, True, False, True, False])).reasons == ("not parsed", "")


def test_time_limit_counts_as_failure(fake, tmp_path):
    found = fingerprints([rock_salt("Rb"), rock_salt()], tmp_path, FingerprintSettings(1, 0.5))
    assert found.found.tolist() == [False, True]
    assert "0.5 seconds" in found.reasons[0]


def test_what_was_computed_is_kept(fake, tmp_path, monkeypatch):
    first = fingerprints([rock_salt(), rock_salt("K")], tmp_path, ONE)
    gone = Generator("fake", "known_crystals:fake_fingerprint", 1, (), dict)
    monkeypatch.setattr(module, "GENERATOR", gone)
    monkeypatch.setattr("crystalfm.data.descriptions.DescriberProcess", None)  # nothing can be computed any more
    again = fingerprints([rock_salt("K"), rock_salt()], tmp_path, ONE)
    assert (again.structure[1] == first.structure[0]).all()
    assert again.reasons == first.reasons[::-1]


def test_other_libraries_other_place():
    identity = GENERATOR.identity()
    assert identity["libraries"] == dict(library_versions())
    assert set(identity["libraries"]) >= {"matminer", "pymatgen"}


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_PACKAGES", ("no_such_package",))
    with pytest.raises(UserError, match="no_such_package") as caught:
        fingerprints([rock_salt()], tmp_path)
    assert "crystalfm[generate]" in caught.value.remedy


def test_no_samples(fake, tmp_path):
    found = fingerprints([None, None], tmp_path, ONE)
    assert found.found.tolist() == [False, False]


@pytest.mark.slow
def test_real_fingerprints_are_matminers_and_do_not_depend_on_the_cell():
    pytest.importorskip("matminer", reason="needs matminer: pip install 'crystalfm[generate]'")
    from matminer.featurizers.composition import ElementProperty
    from matminer.featurizers.site import CrystalNNFingerprint
    from matminer.featurizers.structure import SiteStatsFingerprint
    from pymatgen.core.composition import Composition

    from crystalfm.metrics.crystals.structures import as_structure

    numbers = json.loads(fingerprint_text(rock_salt()))
    sites = SiteStatsFingerprint(CrystalNNFingerprint.from_preset("ops"), stats=("mean",))
    assert numbers["structure"] == pytest.approx(sites.featurize(as_structure(rock_salt())), abs=1e-9)
    magpie = ElementProperty.from_preset("magpie").featurize(Composition("NaCl"))
    assert numbers["composition"] == pytest.approx(magpie)
    assert (len(numbers["structure"]), len(numbers["composition"])) == (61, 132)
    for other in (moved(rock_salt()), permuted(rock_salt()), repeated(rock_salt())):
        there = json.loads(fingerprint_text(other))
        assert there["structure"] == pytest.approx(numbers["structure"], abs=1e-6)
        assert there["composition"] == numbers["composition"]
    iron = json.loads(fingerprint_text(bcc()))
    assert np.linalg.norm(np.subtract(iron["structure"], numbers["structure"])) > 0.4
