"""How many samples are stable, and of those how many are unique and novel: always out of all that were asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.metrics.crystals.counts import Share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METASTABLE_EV_PER_ATOM = 0.1
"""Below this energy above the hull a crystal counts as metastable, as in the literature on generators."""

IMPLAUSIBLE_EV_PER_ATOM = -0.5
"""So far below the hull of what is known a calculator's energy is more likely wrong than the discovery right."""


@dataclass(frozen=True)
class SampleStability:
    """What the calculator says of a sample.

    Attributes:
        reason: why it has no relaxed structure, empty where it has one; unreadable samples have theirs too.
        energy_above_hull: eV/atom of the relaxed structure; ``None`` where there is none or no hull is defined.
        missing_elements: elements without a reference phase, where they are why no hull is defined.
        converged: whether the relaxation came below its limit.
        relaxation_energy: eV/atom that the relaxation gained; ``None`` where there was none.
        unique: whether its relaxed structure is the first of its kind among the samples.
        novel: whether its relaxed structure is not in the training set; ``None`` where there is none to compare with.
    """

    reason: str = ""
    energy_above_hull: float | None = None
    missing_elements: tuple[str, ...] = ()
    converged: bool = False
    relaxation_energy: float | None = None
    unique: bool = False
    novel: bool | None = None

    @property
    def stable(self) -> bool:
        """Whether it lies on or below the hull of the reference."""
        return self.energy_above_hull is not None and self.energy_above_hull <= 0.0

    @property
    def metastable(self) -> bool:
        """Whether it lies less than ``METASTABLE_EV_PER_ATOM`` above the hull; stable samples do too."""
        return self.energy_above_hull is not None and self.energy_above_hull < METASTABLE_EV_PER_ATOM


@dataclass(frozen=True)
class StabilityReport:
    """Counts, and their denominator.

    Attributes:
        num_asked: samples there are, readable or not.
        num_judged: those drawn for relaxation, unreadable ones among them: the denominator of every share.
        num_relaxed: those with a relaxed structure.
        num_converged: those whose relaxation came below its limit.
        num_undefined: relaxed ones with an element for which the hull has no phase; they count as not stable.
        num_stable: on or below the hull.
        num_metastable: less than 0.1 eV/atom above it, stable ones among them.
        num_unique: metastable or not, first of their kind among the relaxed.
        num_stable_unique: stable and unique.
        num_metastable_unique: metastable and unique.
        num_sun: stable, unique and novel; ``None`` without a training set.
        num_metastable_sun: metastable, unique and novel; ``None`` without a training set.
        num_implausible: further below the hull than is plausible; not taken out of the others.
        failures: samples without a relaxed structure by kind of reason.
        missing_elements: undefined samples by element without a phase.
        median_energy_above_hull: eV/atom over those that have one; ``None`` where none has.
        mean_relaxation_energy: eV/atom gained in relaxation, over the relaxed; ``None`` where none was.
    """

    num_asked: int
    num_judged: int
    num_relaxed: int
    num_converged: int
    num_undefined: int
    num_stable: int
    num_metastable: int
    num_unique: int
    num_stable_unique: int
    num_metastable_unique: int
    num_sun: int | None
    num_metastable_sun: int | None
    num_implausible: int
    failures: Mapping[str, int] = field(default_factory=dict)
    missing_elements: Mapping[str, int] = field(default_factory=dict)
    median_energy_above_hull: float | None = None
    mean_relaxation_energy: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return every figure with its denominator, as plain values."""
        counts = {name.removeprefix("num_"): value for name, value in vars(self).items() if name.startswith("num_")}
        asked, judged = counts.pop("asked"), counts.pop("judged")
        shares = {name: None if count is None else Share(count, judged).as_dict() for name, count in counts.items()}
        return {
            "asked": asked,
            "judged": judged,
            **shares,
            "failures": dict(self.failures),
            "missing_elements": dict(self.missing_elements),
            "median_energy_above_hull": self.median_energy_above_hull,
            "mean_relaxation_energy": self.mean_relaxation_energy,
            "metastable_below": METASTABLE_EV_PER_ATOM,
            "implausible_below": IMPLAUSIBLE_EV_PER_ATOM,
        }

    def rows(self) -> list[tuple[str, Share | None]]:
        """Return what was counted, each with its denominator, for a table."""
        counts = {
            "relaxed": self.num_relaxed,
            "converged": self.num_converged,
            "no hull defined": self.num_undefined,
            "unique after relaxation": self.num_unique,
            "stable (on or below the hull)": self.num_stable,
            "stable, unique": self.num_stable_unique,
            "S.U.N.: stable, unique, novel": self.num_sun,
            f"metastable (< {METASTABLE_EV_PER_ATOM:g} eV/atom)": self.num_metastable,
            "metastable, unique": self.num_metastable_unique,
            "metastable, unique, novel": self.num_metastable_sun,
            f"implausibly low (< {IMPLAUSIBLE_EV_PER_ATOM:g} eV/atom)": self.num_implausible,
        }
        return [(name, None if count is None else Share(count, self.num_judged)) for name, count in counts.items()]


def summarize(samples: Sequence[SampleStability], *, num_asked: int) -> StabilityReport:
    """Count.

    Args:
        samples: the samples judged, in any order.
        num_asked: samples there are; more than were judged where a limit was set.

    Raises:
        ValueError: more were judged than asked for.
    """
    if len(samples) > num_asked:
        raise ValueError(f"{len(samples)} samples judged of {num_asked}")
    relaxed = [one for one in samples if not one.reason]
    above = [one.energy_above_hull for one in relaxed if one.energy_above_hull is not None]
    gains = [one.relaxation_energy for one in relaxed if one.relaxation_energy is not None]
    knows_novelty = any(one.novel is not None for one in relaxed) or not relaxed
    stable = [one for one in relaxed if one.stable]
    metastable = [one for one in relaxed if one.metastable]

    def novel(found: Sequence[SampleStability]) -> int | None:
        return sum(one.unique and one.novel is True for one in found) if knows_novelty else None

    return StabilityReport(
        num_asked=num_asked,
        num_judged=len(samples),
        num_relaxed=len(relaxed),
        num_converged=sum(one.converged for one in relaxed),
        num_undefined=sum(one.energy_above_hull is None for one in relaxed),
        num_stable=len(stable),
        num_metastable=len(metastable),
        num_unique=sum(one.unique for one in relaxed),
        num_stable_unique=sum(one.unique for one in stable),
        num_metastable_unique=sum(one.unique for one in metastable),
        num_sun=novel(stable),
        num_metastable_sun=novel(metastable),
        num_implausible=sum(energy < IMPLAUSIBLE_EV_PER_ATOM for energy in above),
        failures=dict(Counter(_kind(one.reason) for one in samples if one.reason).most_common()),
        missing_elements=dict(Counter(name for one in relaxed for name in one.missing_elements).most_common()),
        median_energy_above_hull=float(np.median(above)) if above else None,
        mean_relaxation_energy=float(np.mean(gains)) if gains else None,
    )


def _kind(reason: str) -> str:
    """Return the part of a reason that many samples share: what comes before its details."""
    parts = reason.split(": ")
    return ": ".join(parts[:2]) if parts[0].startswith("not ") else parts[0]
