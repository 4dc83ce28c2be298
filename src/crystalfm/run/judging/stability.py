"""Relaxing samples, their energy above the hull of the reference, and which of them are unique and novel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.metrics.crystals.matching import novelty, uniqueness
from crystalfm.metrics.crystals.validity import is_structurally_valid
from crystalfm.metrics.stability.hull import ConvexHull, entry_of, file_hull, reference_hull
from crystalfm.metrics.stability.relaxation import Relaxed, relax_crystals
from crystalfm.metrics.stability.sun import SampleStability, StabilityReport, summarize
from crystalfm.run.tracking.progress import progress_bar

if TYPE_CHECKING:
    from crystalfm.chem.crystals import Crystal
    from crystalfm.metrics.stability.relaxation import RelaxationSettings
    from crystalfm.run.judging.reference import Reference
    from crystalfm.run.judging.samples import Samples

NOT_DRAWN = "not drawn"
"""Stands in the table of samples for those beyond ``relaxation.limit``."""

OVERLAP = "atoms nearer than 0.5 angstrom after the relaxation"


@dataclass(frozen=True, eq=False)
class JudgedStability:
    """Stability of samples.

    Attributes:
        drawn: places of the samples judged, ascending.
        samples: what was found of each of them.
        report: counts.
        hull: what their energies were held against.
        relaxed: relaxed crystal of each of them, ``None`` where there is none.
    """

    drawn: list[int]
    samples: list[SampleStability]
    report: StabilityReport
    hull: ConvexHull
    relaxed: list[Crystal | None]

    @property
    def by_place(self) -> dict[int, SampleStability]:
        """What was found, by the place of the sample."""
        return dict(zip(self.drawn, self.samples, strict=True))


def judge_stability(
    samples: Samples,
    reference: Reference,
    cache: Path,
    settings: RelaxationSettings,
    seed: int,
) -> JudgedStability:
    """Relax samples and hold their energies against the hull.

    Uniqueness and novelty are those of the relaxed structures, so that two samples that relax to one crystal are one.

    Args:
        samples: all samples; of them ``settings.limit`` are drawn, unreadable ones too.
        reference: all of its crystals make the hull, where ``settings.hull`` names no file; the training part says
            what is novel.
        cache: root of the cache.
        settings: how to relax.
        seed: seed of the drawing.

    Raises:
        UserError: a package is missing, the cache cannot be written, or the hull's file is no such file.
    """
    if settings.hull is not None:
        hull = file_hull(Path(settings.hull).expanduser())
    else:
        with progress_bar("energies of the reference") as progress:
            hull = reference_hull(
                reference.everything,
                reference.formation_energies,
                cache,
                f"{len(reference.everything)} crystals of {reference.name}, as they are",
                device=settings.device,
                batch_size=settings.batch_size,
                progress=progress,
            )
    drawn = drawn_places(len(samples.crystals), settings.limit, seed)
    readable = [place for place in drawn if samples.crystals[place] is not None]
    crystals = [crystal for place in readable if (crystal := samples.crystals[place]) is not None]
    with progress_bar("relaxing") as progress:
        outcomes = dict(zip(readable, relax_crystals(crystals, cache, settings, progress=progress), strict=True))
    found: list[Relaxed | str] = [
        _sound(outcomes[place]) if place in outcomes else samples.reasons.get(samples.ids[place], "unreadable")
        for place in drawn
    ]
    relaxed = [one.crystal if isinstance(one, Relaxed) else None for one in found]
    jobs = settings.jobs or -1
    first_of = uniqueness(relaxed, jobs=jobs).first_of
    novel = novelty(relaxed, reference.train, jobs=jobs).novel
    judged = [
        _judged(one, hull, unique=first_of[place] == place, novel=novel[place]) for place, one in enumerate(found)
    ]
    return JudgedStability(drawn, judged, summarize(judged, num_asked=len(samples.crystals)), hull, relaxed)


def drawn_places(num_samples: int, limit: int | None, seed: int) -> list[int]:
    """Return the places of the samples to relax, ascending: all, or some drawn at random.

    With the same seed, a smaller limit gives a part of a larger one's places.
    """
    order = np.random.default_rng([seed, num_samples]).permutation(num_samples)
    return sorted(order[:limit].tolist())


def _sound(outcome: Relaxed | str) -> Relaxed | str:
    """Return an outcome, or a reason where atoms fell on one another: calculators hold that for low in energy."""
    if isinstance(outcome, Relaxed) and not is_structurally_valid(outcome.crystal):
        return OVERLAP
    return outcome


def _judged(found: Relaxed | str, hull: ConvexHull, *, unique: bool, novel: bool | None) -> SampleStability:
    if isinstance(found, str):
        return SampleStability(reason=found)
    entry = entry_of(found.crystal, found.energy)
    return SampleStability(
        energy_above_hull=hull.energy_above(entry),
        missing_elements=tuple(hull.missing(entry)),
        converged=found.converged,
        relaxation_energy=(found.initial_energy - found.energy) / found.crystal.num_atoms,
        unique=unique,
        novel=novel,
    )
