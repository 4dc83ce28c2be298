"""Relaxing many crystals: over processes, with a time limit for each, every outcome kept and every failure named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from crystalfm.chem.crystals import Crystal
from crystalfm.data.description_cache import DescriptionCache, digest_of
from crystalfm.data.descriptions import DescriptionSettings, Generator, describe_crystals
from crystalfm.metrics.stability import calculator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crystalfm.chem.description_process import Outcome

_CHUNK_CRYSTALS = 128
"""Energies are kept on disk after so many."""


@dataclass(frozen=True)
class RelaxationSettings:
    """How crystals are relaxed with CHGNet, and against what their energies are held.

    Attributes:
        limit: samples to relax, drawn at random among all of them; ``None`` for all.
        max_force: largest force at which a relaxation ends, in eV/angstrom.
        steps: steps after which it ends whatever the forces.
        time_limit_seconds: a crystal that takes longer counts as failed.
        jobs: crystals relaxed at a time, with a thread each; ``None`` for as many as there are cores.
        device: where; ``auto`` takes a GPU where there is one.
        batch_size: reference crystals whose energies are computed at once.
        hull: file of entries for the convex hull; ``None`` for one of the reference's crystals.
    """

    limit: int | None = None
    max_force: float = 0.05
    steps: int = 500
    time_limit_seconds: float = 300.0
    jobs: int | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch_size: int = 16
    hull: str | None = None


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A crystal after its relaxation.

    Attributes:
        crystal: relaxed crystal.
        energy: its energy in eV of the cell.
        initial_energy: energy before the relaxation.
        num_steps: steps taken.
        converged: whether the forces came below the limit.
    """

    crystal: Crystal
    energy: float
    initial_energy: float
    num_steps: int
    converged: bool

    @property
    def energy_per_atom(self) -> float:
        """Energy in eV/atom."""
        return self.energy / self.crystal.num_atoms


def resolved_device(device: str) -> str:
    """Return the device that ``auto`` stands for on this machine, and any other as it is."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def relax_crystals(
    crystals: Sequence[Crystal],
    cache: Path,
    settings: RelaxationSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Relaxed | str]:
    """Relax crystals, or return why one could not be.

    What is done is kept as it comes, by crystal, settings and versions, so that an interrupted call goes on where it
    stopped. A child process that a crystal holds beyond the time limit is killed.

    Args:
        crystals: crystals to start from.
        cache: root of the cache.
        settings: how, where and how long.
        progress: called with (crystals done, crystals to do) now and then.

    Raises:
        UserError: the package is missing, or the cache cannot be written.
    """
    generator = _relaxer(settings)
    generator.require()
    how = DescriptionSettings("loky", settings.jobs, settings.time_limit_seconds)
    done = describe_crystals([one.to_json() for one in crystals], generator, cache, how, progress=progress)
    return [_relaxed(outcome) for outcome in done.outcomes]


def _relaxer(settings: RelaxationSettings) -> Generator:
    arguments = {
        "max_force": settings.max_force,
        "max_steps": settings.steps,
        "device": resolved_device(settings.device),
    }
    return Generator(
        "chgnet",
        f"{calculator.__name__}:relax",
        calculator.CALCULATOR_VERSION,
        calculator.PACKAGES,
        calculator.relaxation_versions,
        arguments,
        verb="relaxed",
        kind="relaxations",
        setting="stability",
        extra="generate",
    )


def _relaxed(outcome: Outcome) -> Relaxed | str:
    if outcome.text is None:
        return outcome.reason
    found = json.loads(outcome.text)
    return Relaxed(
        Crystal.from_json(found["structure"]),
        float(found["energy"]),
        float(found["initial_energy"]),
        int(found["num_steps"]),
        bool(found["converged"]),
    )


def single_point_energies(
    crystals: Sequence[Crystal],
    cache: Path,
    *,
    device: str = "auto",
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[float | str]:
    """Return the energy of each crystal as it is, in eV of the cell, or why there is none.

    Computed in this process, a batch at a time, and kept on disk like relaxations.

    Args:
        crystals: crystals that the calculator is fit for, such as those of a data set.
        cache: root of the cache.
        device: see ``RelaxationSettings``.
        batch_size: crystals computed at once.
        progress: called with (crystals done, crystals to do) now and then.

    Raises:
        UserError: the package is missing, or the cache cannot be written.
    """
    from crystalfm.chem.description_process import Outcome

    generator = energy_generator()
    kept = DescriptionCache(cache / generator.kind, generator.identity())
    names = [digest_of(crystal.to_json()) for crystal in crystals]
    known = kept.outcomes()
    missing = {name: one for name, one in zip(names, crystals, strict=True) if name not in known}
    # Crystals of like size fill a batch best.
    ordered = sorted(missing.items(), key=lambda item: (item[1].num_atoms, item[0]))
    for start in range(0, len(ordered), _CHUNK_CRYSTALS):
        chunk = ordered[start : start + _CHUNK_CRYSTALS]
        found = calculator.energies([one for _, one in chunk], device=resolved_device(device), batch_size=batch_size)
        outcomes = {
            name: Outcome(repr(one)) if isinstance(one, float) else Outcome(None, one.reason)
            for (name, _), one in zip(chunk, found, strict=True)
        }
        kept.add(outcomes)
        if progress is not None:
            progress(min(start + _CHUNK_CRYSTALS, len(ordered)), len(ordered))
    kept.merge()
    known = kept.outcomes()
    return [known[name].reason if (text := known[name].text) is None else float(text) for name in names]


def energy_generator() -> Generator:
    """Return what identifies energies in the cache."""
    return Generator(
        "chgnet",
        f"{calculator.__name__}:energies",
        calculator.CALCULATOR_VERSION,
        calculator.PACKAGES,
        calculator.library_versions,
        kind="energies",
        setting="stability",
        extra="generate",
    )
