"""How samples lie among reference crystals: coverage, distances of distributions, diversity, novelty by fingerprints.

The definitions and cut-offs are those of CDVAE's evaluation (Xie et al., ICLR 2022) for crystals of up to twenty atoms,
novelty those of Gruver et al. ("Fine-tuned language models generate stable inorganic materials as text", ICLR 2024).
Distances of distributions and diversity look at valid samples only, as the protocol does: they say nothing about how
many there are, so read them beside validity and uniqueness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.metrics.crystals.counts import Mean, Share, plain
from crystalfm.metrics.crystals.structures import density, num_elements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from crystalfm.chem.crystals import Crystal
    from crystalfm.metrics.crystals.fingerprints import CompositionScaler, Fingerprints

STRUCTURE_CUTOFF = 0.4
"""A structure is covered by one whose fingerprint is at most this far."""

COMPOSITION_CUTOFF = 10.0
"""A composition is covered by one whose standardised fingerprint is at most this far."""

NOVEL_STRUCTURE = 0.1
"""A structure is novel if the fingerprints of all training crystals are farther than this."""

NOVEL_COMPOSITION = 2.0
"""A composition is novel if the standardised fingerprints of all training crystals are farther than this."""

_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Coverage:
    """How much of the reference samples cover, and how many samples the reference covers.

    A crystal counts as covered if some crystal of the other set is near in structure and some crystal, not
    necessarily the same, is near in composition.

    Attributes:
        num_covered: reference crystals that samples cover.
        num_references: reference crystals, those without a fingerprint included.
        num_fingerprinted_references: those with one.
        num_precise: samples that reference crystals cover.
        num_samples: samples, those not parsed or without a fingerprint included.
        num_fingerprinted: those with one.
        structure_cutoff: largest distance of structures.
        composition_cutoff: largest distance of compositions.
    """

    num_covered: int
    num_references: int
    num_fingerprinted_references: int
    num_precise: int
    num_samples: int
    num_fingerprinted: int
    structure_cutoff: float
    composition_cutoff: float

    @property
    def recall(self) -> Share:
        """Covered ones among the reference crystals that have a fingerprint, as the protocol has it."""
        return Share(self.num_covered, self.num_fingerprinted_references)

    @property
    def precision(self) -> Share:
        """Covered ones among all samples, failures included."""
        return Share(self.num_precise, self.num_samples)

    @property
    def precision_of_fingerprinted(self) -> Share:
        """Covered ones among the samples that have a fingerprint, as the language-model protocol has it."""
        return Share(self.num_precise, self.num_fingerprinted)


@dataclass(frozen=True)
class Wasserstein:
    """Wasserstein distance (first order) of a quantity's distributions.

    Attributes:
        value: in the quantity's unit; NaN where one of the sets is empty.
        num_samples: samples used.
        num_references: reference crystals used.
    """

    value: float
    num_samples: int
    num_references: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the numbers as plain values that JSON can hold."""
        return {
            "value": plain(self.value),
            "num_samples": self.num_samples,
            "num_references": self.num_references,
        }


@dataclass(frozen=True)
class Diversity:
    """Mean distance of two samples.

    Attributes:
        structure: of their structures' fingerprints, with the number of samples.
        composition: of their compositions' standardised fingerprints, with the number of samples.
    """

    structure: Mean
    composition: Mean


@dataclass(frozen=True)
class FingerprintNovelty:
    """How many samples are far from all training crystals by fingerprint: in structure or in composition.

    Attributes:
        novel: of each sample; ``None`` where it has no fingerprint.
        num_train: training crystals with a fingerprint.
    """

    novel: tuple[bool | None, ...]
    num_train: int

    @property
    def among_fingerprinted(self) -> Share:
        """Novel ones among the samples with a fingerprint."""
        return Share(sum(entry is True for entry in self.novel), sum(entry is not None for entry in self.novel))

    @property
    def among_all(self) -> Share:
        """Novel ones among all samples."""
        return Share(sum(entry is True for entry in self.novel), len(self.novel))


def coverage(
    samples: Fingerprints,
    reference: Fingerprints,
    scaler: CompositionScaler,
    *,
    structure_cutoff: float = STRUCTURE_CUTOFF,
    composition_cutoff: float = COMPOSITION_CUTOFF,
) -> Coverage:
    """Compare samples with reference crystals.

    Args:
        samples: of all samples, failures included.
        reference: of the reference crystals.
        scaler: standardises compositions.
        structure_cutoff: largest distance of structures.
        composition_cutoff: largest distance of compositions.
    """
    ours, theirs = samples.found, reference.found
    of_structure = _nearest(samples.structure[ours], reference.structure[theirs])
    compositions = (scaler.transform(samples.composition[ours]), scaler.transform(reference.composition[theirs]))
    of_composition = _nearest(*compositions)
    precise, covered = (
        (structure <= structure_cutoff) & (composition <= composition_cutoff)
        for structure, composition in zip(of_structure, of_composition, strict=True)
    )
    return Coverage(
        num_covered=int(covered.sum()),
        num_references=len(reference),
        num_fingerprinted_references=int(theirs.sum()),
        num_precise=int(precise.sum()),
        num_samples=len(samples),
        num_fingerprinted=int(ours.sum()),
        structure_cutoff=structure_cutoff,
        composition_cutoff=composition_cutoff,
    )


def density_distance(samples: Sequence[Crystal], reference: Sequence[Crystal]) -> Wasserstein:
    """Return the Wasserstein distance of the densities, in g/cm^3.

    Args:
        samples: valid samples.
        reference: reference crystals.
    """
    return _wasserstein([density(crystal) for crystal in samples], [density(crystal) for crystal in reference])


def num_elements_distance(samples: Sequence[Crystal], reference: Sequence[Crystal]) -> Wasserstein:
    """Return the Wasserstein distance of the numbers of different elements.

    Args:
        samples: valid samples.
        reference: reference crystals.
    """
    ours, theirs = ([float(num_elements(crystal)) for crystal in crystals] for crystals in (samples, reference))
    return _wasserstein(ours, theirs)


def diversity(samples: Fingerprints, scaler: CompositionScaler) -> Diversity:
    """Return the mean distance of two samples by structure and by composition.

    Args:
        samples: of the valid samples; those without a fingerprint are left out.
        scaler: standardises compositions.
    """
    found = samples.found
    return Diversity(
        structure=_mean_distance(samples.structure[found]),
        composition=_mean_distance(scaler.transform(samples.composition[found])),
    )


def fingerprint_novelty(
    samples: Fingerprints,
    train: Fingerprints,
    scaler: CompositionScaler,
    *,
    structure_cutoff: float = NOVEL_STRUCTURE,
    composition_cutoff: float = NOVEL_COMPOSITION,
) -> FingerprintNovelty:
    """Say which samples no training crystal is near: the nearest structure or the nearest composition is far.

    Args:
        samples: of all samples, failures included.
        train: of the training crystals.
        scaler: standardises compositions.
        structure_cutoff: distance of structures up to which they are near.
        composition_cutoff: distance of compositions up to which they are near.
    """
    ours, theirs = samples.found, train.found
    of_structure, _ = _nearest(samples.structure[ours], train.structure[theirs])
    compositions = (scaler.transform(samples.composition[ours]), scaler.transform(train.composition[theirs]))
    of_composition, _ = _nearest(*compositions)
    far = iter(((of_structure > structure_cutoff) | (of_composition > composition_cutoff)).tolist())
    return FingerprintNovelty(
        novel=tuple(next(far) if found else None for found in ours.tolist()), num_train=int(theirs.sum())
    )


def _wasserstein(samples: Sequence[float], reference: Sequence[float]) -> Wasserstein:
    from scipy.stats import wasserstein_distance

    value = float(wasserstein_distance(samples, reference)) if samples and reference else math.nan
    return Wasserstein(value, len(samples), len(reference))


def _nearest(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of each of ours (N,) from the nearest of theirs, and of each of theirs (M,) from ours.

    The distances are infinite where there is nothing to be near to.
    """
    of_ours, of_theirs = np.full(len(ours), np.inf), np.full(len(theirs), np.inf)
    if len(ours) and len(theirs):
        for start, distances in _distances(ours, theirs):
            of_ours[start : start + len(distances)] = distances.min(axis=1)
            np.minimum(of_theirs, distances.min(axis=0), out=of_theirs)
    return of_ours, of_theirs


def _mean_distance(rows: NDArray[np.float64]) -> Mean:
    """Return the mean distance over all pairs of different rows; NaN of fewer than two."""
    count = len(rows)
    num_pairs = count * (count - 1)
    total = sum(float(distances.sum()) for _, distances in _distances(rows, rows))
    return Mean(total / num_pairs if num_pairs else math.nan, count)


def _distances(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield Euclidean distances (rows, M) some rows at a time, with the first row's place, so memory is bounded."""
    from scipy.spatial.distance import cdist

    for start in range(0, len(ours), _CHUNK_ROWS):
        yield start, cdist(ours[start : start + _CHUNK_ROWS], theirs)
