"""Fingerprints of crystals: the surroundings of their atoms, and statistics of their elements.

The structure's fingerprint is the mean over the sites of matminer's ``CrystalNNFingerprint`` with the preset ``ops``
(Zimmermann and Jain, RSC Adv. 10, 6063 (2020)), 61 numbers; the composition's is ``ElementProperty`` with the preset
``magpie`` (Ward et al., npj Comput. Mater. 2, 16028 (2016)), 132 numbers. A crystal has both or none: where CrystalNN
fails or takes too long, it counts as a failure, as in CDVAE's protocol.

The protocol standardises compositions, and not structures, by means and deviations that CDVAE fixed once. Here they
are those of the reference crystals, are part of the result, and make distances of compositions a little different.

A site takes some hundredths of a second, so crystals are spread over processes, each with a child that can be
stopped, and what was computed is kept on disk; see ``data.descriptions``, which does all that for texts.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystals import Crystal, CrystalError
from crystalfm.contracts import UserError
from crystalfm.data.descriptions import DescriptionSettings, Generator, describe_crystals
from crystalfm.io.versions import installed_versions
from crystalfm.metrics.crystals.structures import as_structure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FINGERPRINT_VERSION = 1
"""Version of what is written; a change makes what is kept on disk new."""

NOT_PARSED = "not parsed"
STRUCTURE_WIDTH = 61
COMPOSITION_WIDTH = 132

_PACKAGES = ("matminer", "pymatgen", "joblib")
_LIBRARIES = ("matminer", "pymatgen", "pymatgen-core")
_DIGITS = 10


@dataclass(frozen=True)
class FingerprintSettings:
    """How fingerprints are computed.

    Attributes:
        jobs: processes; ``None`` for as many as there are cores, 1 for one child beside this process.
        time_limit_seconds: a crystal that takes longer counts as a failure.
    """

    jobs: int | None = None
    time_limit_seconds: float = 60.0


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of N crystals.

    Attributes:
        structure: (N, 61) float64, NaN in the rows of failures.
        composition: (N, 132) float64, not standardised; NaN in the rows of failures and where Magpie's table has no
            value for an element.
        reasons: why there is none, for each crystal; empty where there is one.
    """

    structure: NDArray[np.float64]
    composition: NDArray[np.float64]
    reasons: tuple[str, ...]

    @property
    def found(self) -> NDArray[np.bool_]:
        """(N,) true where there is one."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)

    def __len__(self) -> int:
        """Return the number of crystals, failures included."""
        return len(self.reasons)

    def rows(self, chosen: NDArray[np.bool_]) -> Fingerprints:
        """Return those of some crystals, failures among them included.

        Args:
            chosen: (N,) true for each that is wanted.
        """
        reasons = tuple(reason for reason, wanted in zip(self.reasons, chosen.tolist(), strict=True) if wanted)
        return Fingerprints(self.structure[chosen], self.composition[chosen], reasons)


_LEAST_VARIED = 0.01


@dataclass(frozen=True, eq=False)
class CompositionScaler:
    """Means and standard deviations by which compositions' fingerprints are standardised.

    Attributes:
        mean: (132,) float64.
        deviation: (132,) float64, 1 where all but one in a hundred crystals have the same value.
        num_crystals: over how many crystals they were taken.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    num_crystals: int = field(default=0)

    @classmethod
    def fit(cls, fingerprints: Fingerprints) -> CompositionScaler:
        """Take them over reference crystals.

        Raises:
            UserError: none of them has a fingerprint.
        """
        known = fingerprints.composition[fingerprints.found]
        if not len(known):
            raise UserError("no reference crystal has a fingerprint, so nothing can be compared with them")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column without any value
            mean, deviation = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
            # A column that is the same for nearly all of them would blow up whatever differs.
            differs = np.abs(known - np.nanmedian(known, axis=0)) > 1e-12 * np.abs(mean)
        varies = np.isfinite(deviation) & (differs.mean(axis=0) >= _LEAST_VARIED)
        return cls(np.nan_to_num(mean), np.where(varies, deviation, 1.0), len(known))

    def transform(self, composition: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (N, 132) standardised fingerprints; what is not known becomes the mean, 0."""
        return np.nan_to_num((composition - self.mean) / self.deviation, nan=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values that JSON can hold."""
        return {
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
            "num_crystals": self.num_crystals,
        }


def fingerprints(
    crystals: Sequence[Crystal | None],
    cache_folder: Path,
    settings: FingerprintSettings = FingerprintSettings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Fingerprints:
    """Compute the fingerprints of crystals, or read those that are kept.

    Args:
        crystals: crystals; ``None`` for a sample that could not be parsed, a failure.
        cache_folder: root of the cache.
        settings: over how many processes, and how long.
        progress: called with (crystals done, crystals to do) now and then.

    Raises:
        UserError: a package is missing, or the cache cannot be written.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"fingerprints of crystals need the package {missing[0]}", remedy="pip install 'crystalfm[generate]'"
        )
    texts = [None if crystal is None else crystal.to_json() for crystal in crystals]
    described = describe_crystals(
        [text for text in texts if text is not None],
        GENERATOR,
        cache_folder,
        DescriptionSettings(
            backend="sequential" if settings.jobs == 1 else "loky",
            jobs=settings.jobs,
            time_limit_seconds=settings.time_limit_seconds,
        ),
        progress=progress,
    )
    outcomes = iter(described.outcomes)
    structure = np.full((len(texts), STRUCTURE_WIDTH), math.nan)
    composition = np.full((len(texts), COMPOSITION_WIDTH), math.nan)
    reasons = [""] * len(texts)
    for row, text in enumerate(texts):
        outcome = None if text is None else next(outcomes)
        if outcome is not None and outcome.text is not None:
            numbers = json.loads(outcome.text)
            structure[row], composition[row] = numbers["structure"], numbers["composition"]
        else:
            reasons[row] = NOT_PARSED if outcome is None else outcome.reason or "no fingerprint"
    return Fingerprints(structure, composition, tuple(reasons))


def fingerprint_text(crystal: Crystal) -> str:
    """Return both fingerprints of a crystal as JSON; what the child process calls.

    Raises:
        CrystalError: the structure's fingerprint holds something that is no number.
        Exception: whatever the library raises for a crystal of which it has no fingerprint.
    """
    from pymatgen.core.composition import Composition

    sites, elements = _featurizers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = as_structure(crystal)
        of_sites = [sites.featurize(structure, site) for site in range(len(structure))]
        composition = elements.featurize(Composition(crystal.formula))
    mean = np.mean(np.array(of_sites, dtype=np.float64), axis=0)
    if not np.isfinite(mean).all():
        raise CrystalError("the fingerprint of its structure is not finite", crystal.formula)
    numbers = {"structure": np.round(mean, _DIGITS).tolist(), "composition": np.round(composition, _DIGITS).tolist()}
    return json.dumps(numbers, separators=(",", ":"))


def library_versions() -> Mapping[str, str]:
    """Return the versions of the packages on which a fingerprint depends; those not installed are left out."""
    return installed_versions(_LIBRARIES)


GENERATOR = Generator(
    "crystalnn_magpie",
    f"{__name__}:{fingerprint_text.__name__}",
    FINGERPRINT_VERSION,
    _PACKAGES,
    library_versions,
    verb="fingerprinted",
    kind="fingerprints",
    setting="judging.fingerprints",
    extra="generate",
)
"""How ``data.descriptions`` makes fingerprints: as texts."""


@cache
def _featurizers() -> tuple[Any, Any]:
    """Return matminer's featurizers of sites and of compositions; building them takes seconds."""
    from matminer.featurizers.composition import ElementProperty
    from matminer.featurizers.site import CrystalNNFingerprint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CrystalNNFingerprint.from_preset("ops"), ElementProperty.from_preset("magpie")
