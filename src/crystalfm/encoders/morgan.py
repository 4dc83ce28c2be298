"""The fingerprint encoder: Morgan bits, and a linear layer with a ReLU that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.data.features import VectorStore
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.networks import FingerprintNetwork
from crystalfm.encoders.settings import check_at_least

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.encoders.cache import EmbeddingCache
    from crystalfm.encoders.networks import EncoderNetwork

ENCODER_VERSION = 1
"""Raised when the same molecule would get other bits; makes cached bits stale."""


class MorganEncoder(ModalityEncoder):
    """Morgan fingerprints of SMILES strings, mapped to vectors by a trained linear layer and a ReLU.

    The bits of each distinct string are made once and kept in the cache. Radius and length are not stated in
    LLM-Fusion (arXiv 2503.01022); the defaults are the field's usual ones.

    Args:
        modality: modality it serves (runtime).
        cache: cache of the bits (runtime).
        radius: bonds around each atom that are looked at.
        num_bits: length of the fingerprint, a multiple of eight.
        width: length D of the vectors.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        modality: str,
        cache: EmbeddingCache,
        radius: int = 2,
        num_bits: int = 2048,
        width: int = 128,
    ) -> None:
        super().__init__(modality)
        check_at_least(modality, "radius", radius, 0)
        check_at_least(modality, "num_bits", num_bits, 8)
        check_at_least(modality, "width", width, 1)
        if num_bits % 8:
            raise UserError(
                f"encoders.{modality}.num_bits={num_bits} is not a multiple of 8",
                remedy=f"use {num_bits // 8 * 8} or {(num_bits // 8 + 1) * 8}",
            )
        self._cache = cache
        self._radius = radius
        self._num_bits = num_bits
        self._width = width
        self._report = EncoderReport(modality, "morgan", frozen=False, width=width)
        self._report.notes.append(f"radius {radius}, {num_bits} bits")

    def prepare(self, values: Sequence[str | None]) -> VectorStore:
        """Return the packed bits of every row.

        Raises:
            MoleculeError: a string is not a valid SMILES.
        """
        import rdkit

        identity = {
            "encoder": "morgan",
            "version": ENCODER_VERSION,
            "radius": self._radius,
            "num_bits": self._num_bits,
            "rdkit": rdkit.__version__,
        }
        present = np.array([value is not None for value in values], dtype=bool)
        strings = [value for value in values if value is not None]
        lookup = self._cache.vectors(identity, strings, self._bits, self._num_bits // 8, dtype="uint8")
        index = np.zeros(len(values), dtype=np.int64)
        index[present] = lookup.index
        self._report.cache_hits, self._report.cache_misses = lookup.hits, lookup.misses
        return VectorStore(self.modality, present, cast("NDArray[Any]", lookup.vectors), index, "bits")

    def _bits(self, smiles: list[str]) -> NDArray[np.uint8]:
        from crystalfm.chem.molecules import morgan_fingerprints

        return morgan_fingerprints(smiles, radius=self._radius, num_bits=self._num_bits)

    def build_network(self) -> EncoderNetwork:
        """Return the linear layer with its ReLU, untrained."""
        return FingerprintNetwork(self.modality, self._num_bits, self._width)

    def state(self) -> dict[str, Any]:
        """Return the fingerprint's parameters; nothing else is fitted."""
        return {"version": ENCODER_VERSION, "radius": self._radius, "num_bits": self._num_bits}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Check that the bits mean what they meant in training.

        Raises:
            UserError: the fingerprint is another one now.
        """
        for key, value in self.state().items():
            if state[key] != value:
                raise UserError(
                    f"encoders.{self.modality}.{key} is {value}, the checkpoint was trained with {state[key]}",
                    remedy="leave the encoder's settings to the checkpoint",
                )

    def report(self) -> EncoderReport:
        """Describe the encoder; hits and misses count distinct molecules whose bits were cached or made."""
        return self._report
