"""All that is said of a set of samples, every figure with its denominator, and uniqueness always among them.

Samples drawn at a low temperature reach high shares of valid and stable crystals by repeating a few pure metals; a
share alone hides that. So there is no report without uniqueness.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.metrics.crystals.counts import Mean, Share
from crystalfm.metrics.crystals.distributions import (
    Coverage,
    Diversity,
    FingerprintNovelty,
    Wasserstein,
    coverage,
    density_distance,
    diversity,
    fingerprint_novelty,
    num_elements_distance,
)
from crystalfm.metrics.crystals.fingerprints import CompositionScaler, FingerprintSettings, fingerprints
from crystalfm.metrics.crystals.matching import Novelty, Tolerances, Uniqueness, novelty, uniqueness
from crystalfm.metrics.crystals.symmetry import (
    SYMPREC_ANGSTROM,
    SymmetryHistogram,
    space_groups,
    symmetry_histogram,
)
from crystalfm.metrics.crystals.validity import OXIDATION_STATES, ValidityResult, validity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crystalfm.chem.crystals import Crystal

Row = tuple[str, str, str]
"""A figure's name, its value, and what it was taken over."""


@dataclass(frozen=True)
class JudgeSettings:
    """How samples are judged.

    Attributes:
        fingerprints: whether to compute what needs fingerprints of samples and reference, the slowest part by far.
        fingerprint_novelty: whether to compute those of the training crystals too, for the protocol's novelty.
        jobs: processes; ``None`` for as many as there are cores.
        time_limit_seconds: a crystal whose fingerprint takes longer counts as one without.
        symprec_angstrom: tolerance of space groups.
        tolerances: how much copies may differ.
    """

    fingerprints: bool = True
    fingerprint_novelty: bool = False
    jobs: int | None = None
    time_limit_seconds: float = 60.0
    symprec_angstrom: float = SYMPREC_ANGSTROM
    tolerances: Tolerances = field(default_factory=Tolerances)


@dataclass(frozen=True)
class FingerprintScores:
    """What is told from fingerprints.

    Attributes:
        coverage: of the reference by samples and of samples by the reference.
        diversity: of the valid samples.
        novelty: against the training crystals; ``None`` where it was not asked for.
        scaler: by what compositions were standardised.
        reasons: why a sample has no fingerprint, for each sample; empty where it has one.
    """

    coverage: Coverage
    diversity: Diversity
    novelty: FingerprintNovelty | None
    scaler: CompositionScaler
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CrystalReport:
    """What samples are worth, stability apart.

    Attributes:
        num_samples: samples, those not parsed included.
        num_references: reference crystals.
        num_train: training crystals; ``None`` where novelty was not looked at.
        validity: of each sample.
        uniqueness: copies among the structurally valid samples.
        novelty: of the structurally valid samples against the training crystals.
        num_valid_unique: different crystals among the valid samples.
        num_valid_unique_novel: those of them that are no training crystal.
        density: distance of the distributions of the density, in g/cm^3, of valid samples and the reference.
        num_elements: the same of the number of different elements.
        symmetry: crystal systems of the structurally valid samples.
        reference_symmetry: those of the reference.
        groups: space group of each sample; ``None`` where it is not structurally valid or has none.
        fingerprints: what is told from fingerprints, where they were asked for.
        settings: how all this was found.
    """

    num_samples: int
    num_references: int
    num_train: int | None
    validity: ValidityResult
    uniqueness: Uniqueness
    novelty: Novelty | None
    num_valid_unique: int
    num_valid_unique_novel: int | None
    density: Wasserstein
    num_elements: Wasserstein
    symmetry: SymmetryHistogram
    reference_symmetry: SymmetryHistogram
    groups: tuple[int | None, ...]
    fingerprints: FingerprintScores | None
    settings: JudgeSettings

    @property
    def valid_unique(self) -> Share:
        """Different crystals that are valid, among all samples."""
        return Share(self.num_valid_unique, self.num_samples)

    @property
    def valid_unique_novel(self) -> Share | None:
        """Different crystals that are valid and no training crystal, among all samples."""
        return None if self.num_valid_unique_novel is None else Share(self.num_valid_unique_novel, self.num_samples)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures with their denominators as plain values that JSON can hold; nothing per sample."""
        found: dict[str, Any] = {
            "num_samples": self.num_samples,
            "num_references": self.num_references,
            "num_train": self.num_train,
            "oxidation_states": OXIDATION_STATES,
            "settings": asdict(self.settings),
        }
        found |= {name: value.as_dict() for name, value, _ in self._figures()}
        found["symmetry"] = asdict(self.symmetry)
        found["reference_symmetry"] = asdict(self.reference_symmetry)
        if self.fingerprints is not None:
            scores = self.fingerprints.coverage
            found["coverage_cutoffs"] = {
                "structure": scores.structure_cutoff,
                "composition": scores.composition_cutoff,
            }
            found["num_fingerprinted"] = scores.num_fingerprinted
            found["composition_scaler"] = self.fingerprints.scaler.as_dict()
        return found

    def rows(self) -> list[Row]:
        """Return a table: each figure's name, its value, and what it was taken over."""
        return [(name.replace("_", " "), _value(value), _taken_over(value, of)) for name, value, of in self._figures()]

    def _figures(self) -> list[tuple[str, Share | Mean | Wasserstein, str]]:
        """Return each figure with its name and what its denominator counts."""
        every, sound = "samples", "structurally valid samples"
        figures: list[tuple[str, Share | Mean | Wasserstein, str]] = [
            ("parsed", self.validity.parsed, every),
            ("structurally_valid", self.validity.structural, every),
            ("compositionally_valid", self.validity.compositional, every),
            ("valid", self.validity.valid, every),
            ("unique", self.uniqueness.among_compared, sound),
            ("unique_of_all", self.uniqueness.among_all, every),
            ("distinct_formulas", self.uniqueness.formulas, sound),
            ("valid_and_unique", self.valid_unique, every),
        ]
        if self.novelty is not None:
            figures += [("novel", self.novelty.among_compared, sound), ("novel_of_all", self.novelty.among_all, every)]
            figures += [("new_formulas", self.novelty.new_formulas, sound)]
        if self.valid_unique_novel is not None:
            figures.append(("valid_unique_and_novel", self.valid_unique_novel, every))
        figures += [
            ("density_wasserstein", self.density, "g/cm^3; valid samples, references"),
            ("num_elements_wasserstein", self.num_elements, "valid samples, references"),
            ("space_group_p1", self.symmetry.trivial, f"{sound} with a space group"),
        ]
        return figures + self._fingerprint_figures()

    def _fingerprint_figures(self) -> list[tuple[str, Share | Mean | Wasserstein, str]]:
        if self.fingerprints is None:
            return []
        scores, known = self.fingerprints, "samples with a fingerprint"
        figures: list[tuple[str, Share | Mean | Wasserstein, str]] = [
            ("coverage_recall", scores.coverage.recall, "references with a fingerprint"),
            ("coverage_precision", scores.coverage.precision, "samples"),
            ("coverage_precision_of_fingerprinted", scores.coverage.precision_of_fingerprinted, known),
            ("structure_diversity", scores.diversity.structure, f"valid {known}"),
            ("composition_diversity", scores.diversity.composition, f"valid {known}"),
        ]
        if scores.novelty is not None:
            figures.append(("fingerprint_novel", scores.novelty.among_fingerprinted, known))
            figures.append(("fingerprint_novel_of_all", scores.novelty.among_all, "samples"))
        return figures


def judge(
    samples: Sequence[Crystal | None],
    reference: Sequence[Crystal],
    train: Sequence[Crystal] | None = None,
    *,
    cache: Path,
    settings: JudgeSettings = JudgeSettings(),
    progress: Callable[[int, int], None] | None = None,
) -> CrystalReport:
    """Judge samples.

    Copies and novelty are looked for among the structurally valid samples; the others cannot be compared soundly.

    Args:
        samples: crystals; ``None`` for a sample that could not be parsed. Nothing may be left out: the shares are
            taken over all of them.
        reference: crystals of the test set, with whose distribution the samples' is compared.
        train: training crystals; ``None`` leaves novelty out.
        cache: root of the cache of fingerprints.
        settings: how to judge.
        progress: called with (crystals done, crystals to do) while fingerprints are computed.

    Raises:
        UserError: there are no samples or no reference crystals, or a package is missing.
    """
    if not samples or not reference:
        raise UserError(f"nothing to judge: {len(samples)} samples, {len(reference)} reference crystals")
    judged = validity(samples)
    sound = [sample.structural for sample in judged.samples]
    valid = [sample.valid for sample in judged.samples]
    unique, known = _sameness(samples, train, sound, settings)
    firsts = _first_valid(unique, valid)
    symprec = settings.symprec_angstrom
    groups = space_groups(
        [crystal if usable else None for crystal, usable in zip(samples, sound, strict=True)], symprec
    )
    valid_samples = [crystal for crystal, usable in zip(samples, valid, strict=True) if usable and crystal is not None]
    scores = None
    if settings.fingerprints:
        scores = _fingerprint_scores(samples, reference, train, valid, cache, settings, progress)
    return CrystalReport(
        num_samples=len(samples),
        num_references=len(reference),
        num_train=None if train is None else len(train),
        validity=judged,
        uniqueness=unique,
        novelty=known,
        num_valid_unique=len(firsts),
        num_valid_unique_novel=None if known is None else sum(known.novel[place] is True for place in firsts),
        density=density_distance(valid_samples, reference),
        num_elements=num_elements_distance(valid_samples, reference),
        symmetry=symmetry_histogram(groups, symprec),
        reference_symmetry=symmetry_histogram(space_groups(reference, symprec), symprec),
        groups=groups,
        fingerprints=scores,
        settings=settings,
    )


def _sameness(
    samples: Sequence[Crystal | None],
    train: Sequence[Crystal] | None,
    sound: Sequence[bool],
    settings: JudgeSettings,
) -> tuple[Uniqueness, Novelty | None]:
    """Look for copies among samples and of training crystals."""
    jobs = -1 if settings.jobs is None else settings.jobs
    unique = uniqueness(samples, sound=sound, tolerances=settings.tolerances, jobs=jobs)
    if train is None:
        return unique, None
    return unique, novelty(samples, train, sound=sound, tolerances=settings.tolerances, jobs=jobs)


def _first_valid(unique: Uniqueness, valid: Sequence[bool]) -> list[int]:
    """Return the place of the first valid sample of each different crystal."""
    firsts: dict[int, int] = {}
    for place, (first, usable) in enumerate(zip(unique.first_of, valid, strict=True)):
        if usable and first is not None:
            firsts.setdefault(first, place)
    return list(firsts.values())


def _fingerprint_scores(
    samples: Sequence[Crystal | None],
    reference: Sequence[Crystal],
    train: Sequence[Crystal] | None,
    valid: Sequence[bool],
    cache: Path,
    settings: JudgeSettings,
    progress: Callable[[int, int], None] | None,
) -> FingerprintScores:
    """Compute fingerprints and what is told from them."""
    how = FingerprintSettings(settings.jobs, settings.time_limit_seconds)
    compared = train if settings.fingerprint_novelty else None
    everything = [*samples, *reference, *(compared or ())]
    found = fingerprints(everything, cache, how, progress=progress)
    places = np.arange(len(everything))
    ours = found.rows(places < len(samples))
    theirs = found.rows((places >= len(samples)) & (places < len(samples) + len(reference)))
    scaler = CompositionScaler.fit(theirs)
    known = None if compared is None else found.rows(places >= len(samples) + len(reference))
    return FingerprintScores(
        coverage=coverage(ours, theirs, scaler),
        diversity=diversity(ours.rows(np.array(valid)), scaler),
        novelty=None if known is None else fingerprint_novelty(ours, known, scaler),
        scaler=scaler,
        reasons=ours.reasons,
    )


def _value(figure: Share | Mean | Wasserstein) -> str:
    return f"{figure.fraction:.1%}" if isinstance(figure, Share) else f"{figure.value:.4g}"


def _taken_over(figure: Share | Mean | Wasserstein, of: str) -> str:
    if isinstance(figure, Share):
        return f"{figure.count} of {figure.total} {of}"
    if isinstance(figure, Mean):
        return f"{figure.total} {of}"
    return f"{of}: {figure.num_samples}, {figure.num_references}"
