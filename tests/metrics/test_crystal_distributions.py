"""Coverage, distances of distributions, diversity and fingerprint novelty on numbers that can be checked by hand."""

import math

import numpy as np
import pytest
from known_crystals import bcc, fcc, perovskite, repeated, rock_salt
from scipy.spatial.distance import pdist
from scipy.stats import wasserstein_distance

from crystalfm.contracts import UserError
from crystalfm.metrics.crystals import distributions
from crystalfm.metrics.crystals.distributions import (
    coverage,
    density_distance,
    diversity,
    fingerprint_novelty,
    num_elements_distance,
)
from crystalfm.metrics.crystals.fingerprints import CompositionScaler, Fingerprints
from crystalfm.metrics.crystals.structures import as_structure, density, num_elements

PLAIN = CompositionScaler(np.zeros(132), np.ones(132))


def prints(*pairs):
    """Fingerprints that differ in one number each; ``None`` for a failure."""
    structure, composition = np.full((len(pairs), 61), math.nan), np.full((len(pairs), 132), math.nan)
    for row, pair in enumerate(pairs):
        if pair is not None:
            structure[row], composition[row] = 0, 0
            structure[row, 0], composition[row, 0] = pair
    return Fingerprints(structure, composition, tuple("" if pair else "not parsed" for pair in pairs))


def test_coverage_by_hand():
    reference = prints((0, 0), (1, 0), (5, 100), None)
    samples = prints((0.3, 0), (0.3, 50), (3, 0), None, None)
    found = coverage(samples, reference, PLAIN)
    # Of the reference only the first is near in structure (0.3) and in composition; of the samples only the first.
    assert (found.recall.count, found.recall.total) == (1, 3)
    assert (found.precision.count, found.precision.total) == (1, 5)
    assert (found.precision_of_fingerprinted.count, found.precision_of_fingerprinted.total) == (1, 3)
    assert (found.num_references, found.num_samples) == (4, 5)
    assert (found.structure_cutoff, found.composition_cutoff) == (0.4, 10.0)


def test_structure_and_composition_may_be_covered_by_different_crystals():
    reference = prints((0, 100), (9, 0))
    assert coverage(prints((0, 0)), reference, PLAIN).precision.count == 1


def test_cutoffs_count_as_near():
    assert coverage(prints((0.4, 10)), prints((0, 0)), PLAIN).precision.count == 1
    assert coverage(prints((0.41, 10)), prints((0, 0)), PLAIN).precision.count == 0
    assert coverage(prints((0.4, 10.1)), prints((0, 0)), PLAIN).precision.count == 0


def test_coverage_of_itself_is_whole_and_of_nothing_is_none():
    generator = np.random.default_rng(0)
    own = Fingerprints(generator.random((30, 61)), generator.random((30, 132)), ("",) * 30)
    found = coverage(own, own, CompositionScaler.fit(own))
    assert found.recall.fraction == found.precision.fraction == 1.0
    nothing = coverage(prints(None, None), own, CompositionScaler.fit(own))
    assert (nothing.recall.count, nothing.recall.total) == (0, 30)
    assert (nothing.precision.count, nothing.precision.total) == (0, 2)
    assert math.isnan(nothing.precision_of_fingerprinted.fraction)


def test_chunks_change_nothing(monkeypatch):
    generator = np.random.default_rng(1)
    samples = Fingerprints(generator.random((25, 61)), generator.random((25, 132)), ("",) * 25)
    reference = Fingerprints(generator.random((18, 61)), generator.random((18, 132)), ("",) * 18)
    limits = {"structure_cutoff": 2.9, "composition_cutoff": 4.4}
    whole = coverage(samples, reference, PLAIN, **limits), diversity(samples, PLAIN).structure.value
    assert 0 < whole[0].num_precise < 25
    monkeypatch.setattr(distributions, "_CHUNK_ROWS", 4)
    parts = coverage(samples, reference, PLAIN, **limits), diversity(samples, PLAIN).structure.value
    assert parts[0] == whole[0]
    assert parts[1] == pytest.approx(whole[1])


def test_density_and_elements_against_pymatgen():
    for crystal in (rock_salt(), bcc(), fcc(), perovskite()):
        assert density(crystal) == pytest.approx(as_structure(crystal).density, rel=1e-6)
        assert density(repeated(crystal, 3)) == pytest.approx(density(crystal))
    assert [num_elements(crystal) for crystal in (fcc(), rock_salt(), perovskite())] == [1, 2, 3]
    assert density(rock_salt()) == pytest.approx(2.164, abs=0.005)


def test_wasserstein_against_scipy():
    samples, reference = [rock_salt(), bcc(), perovskite()], [fcc(), rock_salt("K", "Br", 6.6)]
    found = density_distance(samples, reference)
    assert found.value == pytest.approx(
        wasserstein_distance(list(map(density, samples)), list(map(density, reference)))
    )
    assert (found.num_samples, found.num_references) == (3, 2)
    assert num_elements_distance(samples, reference).value == pytest.approx(wasserstein_distance([2, 1, 3], [1, 2]))
    assert num_elements_distance(samples, reference).value == pytest.approx(0.5)
    assert density_distance(samples, samples[::-1]).value == pytest.approx(0.0)
    assert math.isnan(density_distance([], reference).value)


def test_diversity_against_scipy():
    generator = np.random.default_rng(2)
    own = Fingerprints(generator.random((12, 61)), generator.random((12, 132)), ("",) * 12)
    scaler = CompositionScaler.fit(own)
    found = diversity(own, scaler)
    assert found.structure.value == pytest.approx(pdist(own.structure).mean())
    assert found.composition.value == pytest.approx(pdist(scaler.transform(own.composition)).mean())
    assert found.structure.total == 12
    assert diversity(prints((1, 2), (1, 2), None), PLAIN).structure.value == 0.0
    assert math.isnan(diversity(prints((1, 2), None), PLAIN).structure.value)


def test_novelty_is_far_in_either():
    train = prints((0, 0), (1, 5))
    found = fingerprint_novelty(prints((0.05, 1), (0.3, 1), (0.05, 2.5), None), train, PLAIN)
    assert found.novel == (False, True, True, None)
    assert (found.among_fingerprinted.count, found.among_fingerprinted.total) == (2, 3)
    assert (found.among_all.count, found.among_all.total) == (2, 4)
    assert found.num_train == 2


def test_a_column_that_hardly_varies_among_references_does_not_blow_up():
    composition = np.random.default_rng(4).normal(size=(300, 132))
    composition[:, 7] = 0.0
    composition[:2, 7] = 1e-6  # two of three hundred
    composition[:4, 8] = 0.0
    composition[4:, 8] = 2.0  # four of three hundred differ
    own = Fingerprints(np.zeros((300, 61)), composition, ("",) * 300)
    scaler = CompositionScaler.fit(own)
    assert scaler.deviation[7] == 1.0
    assert scaler.deviation[8] == pytest.approx(composition[:, 8].std())
    other = composition[:1].copy()
    other[0, 7] = 3.0
    assert np.abs(scaler.transform(other)[0, 7]) == pytest.approx(3.0, abs=1e-6)


def test_scaler_standardises_and_fills():
    generator = np.random.default_rng(3)
    composition = generator.normal(7.0, 3.0, (50, 132))
    composition[:, 5] = 4.0
    composition[3, 9] = math.nan
    own = Fingerprints(np.zeros((50, 61)), composition, ("",) * 50)
    scaler = CompositionScaler.fit(own)
    scaled = scaler.transform(composition)
    assert scaled[:, 0].mean() == pytest.approx(0, abs=1e-9)
    assert scaled[:, 0].std() == pytest.approx(1)
    assert (scaled[:, 5] == 0).all()
    assert scaled[3, 9] == 0
    assert scaler.as_dict()["num_crystals"] == 50
    with pytest.raises(UserError, match="no reference crystal has a fingerprint"):
        CompositionScaler.fit(prints(None))
