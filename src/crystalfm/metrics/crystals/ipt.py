"""How much a language model's perplexity of a crystal's text depends on where its origin lies.

A translation of all atoms does not change a crystal, though it changes the text. The increase in perplexity under
translations (Gruver et al., "Fine-tuned language models generate stable inorganic materials as text", ICLR 2024) is

    IPT(s) = E_g[PPL(t_g(s)) - PPL(t_g*(s))],    g* = argmin over the same g of PPL(t_g(s)),

the perplexity being the exponential of the mean negative log-likelihood of a token. A model that knows of the symmetry
has zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import Crystal
from crystalfm.metrics.crystals.counts import Mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

NUM_TRANSLATIONS = 20
_MIN_TRANSLATIONS = 2


@dataclass(frozen=True, eq=False)
class TranslationPerplexity:
    """Perplexities of crystals under translations.

    Attributes:
        increase: (N,) IPT of each crystal; not finite where a perplexity is not.
        lowest: (N,) perplexity at the best translation of each crystal.
        num_translations: translations of each crystal.
    """

    increase: NDArray[np.float64]
    lowest: NDArray[np.float64]
    num_translations: int

    @property
    def mean(self) -> Mean:
        """Mean IPT, over the crystals of which it is finite."""
        return _mean(self.increase)

    @property
    def median(self) -> Mean:
        """Median IPT, which single crystals of enormous perplexity leave alone; over those where it is finite."""
        finite = self.increase[np.isfinite(self.increase)]
        return Mean(float(np.median(finite)) if len(finite) else math.nan, len(finite))

    @property
    def num_failed(self) -> int:
        """Crystals whose perplexity is not finite."""
        return int((~np.isfinite(self.increase)).sum())


def translation_perplexity(
    crystals: Sequence[Crystal],
    write: Callable[[Crystal], str],
    log_likelihood: Callable[[Sequence[str]], NDArray[np.float64]],
    *,
    num_translations: int = NUM_TRANSLATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TranslationPerplexity:
    """Return the increase in perplexity under translations of each crystal.

    Args:
        crystals: crystals to translate, usually of the test set.
        write: writes a crystal as the text that the model knows.
        log_likelihood: returns the mean negative log-likelihood a token, in nats, of each text.
        num_translations: random translations of each crystal, at least two.
        seed: of the translations, which depend on a crystal's place in the list too.
        progress: is told how many crystals are done, and how many there are.

    Raises:
        ValueError: there are fewer than two translations, or ``log_likelihood`` returns another number of values.
    """
    if num_translations < _MIN_TRANSLATIONS:
        raise ValueError(f"an increase needs at least {_MIN_TRANSLATIONS} translations, not {num_translations}")
    lowest, increase = np.full(len(crystals), math.nan), np.full(len(crystals), math.nan)
    for row, crystal in enumerate(crystals):
        shifts = np.random.default_rng([seed, row]).random((num_translations, 3))
        texts = [write(translated(crystal, shift)) for shift in shifts]
        losses = np.asarray(log_likelihood(texts), dtype=np.float64)
        if losses.shape != (num_translations,):
            raise ValueError(f"{num_translations} texts have log-likelihoods of the shape {losses.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            perplexities = np.exp(losses)
            lowest[row] = perplexities.min()
            increase[row] = (perplexities - lowest[row]).mean()
        if progress is not None:
            progress(row + 1, len(crystals))
    return TranslationPerplexity(increase, lowest, num_translations)


def translated(crystal: Crystal, shift: NDArray[np.float64]) -> Crystal:
    """Return the crystal with all atoms moved.

    Args:
        crystal: crystal to move.
        shift: (3,) fractions of the lattice vectors; the coordinates are wrapped into [0, 1).
    """
    coords = (crystal.frac_coords + shift) % 1.0
    return Crystal(crystal.lattice, crystal.atomic_numbers, np.where(coords >= 1.0, 0.0, coords))


def _mean(values: NDArray[np.float64]) -> Mean:
    finite = values[np.isfinite(values)]
    return Mean(float(finite.mean()) if len(finite) else math.nan, len(finite))
