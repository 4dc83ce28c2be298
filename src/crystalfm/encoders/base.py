"""What an encoder is: values of one modality in, feature store for batches and a network out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.data.features import FeatureStore
    from crystalfm.encoders.networks import EncoderNetwork


@dataclass
class EncoderReport:
    """What the start table says of one encoder.

    Attributes:
        modality: modality it encodes.
        name: name of the encoder's config.
        frozen: whether its vectors come from the cache.
        width: length of its vectors.
        cache_hits: distinct strings found in the cache.
        cache_misses: distinct strings that had to be encoded.
        notes: anything else worth a line.
    """

    modality: str
    name: str
    frozen: bool
    width: int
    cache_hits: int = 0
    cache_misses: int = 0
    notes: list[str] = field(default_factory=list)


class ModalityEncoder(ABC):
    """Turns one modality's values into features, and says which network turns those into vectors.

    An encoder lives outside the trained model: ``fit`` and ``prepare`` run once before training, and the
    network of ``build_network`` becomes a part of the model. A frozen encoder prepares vectors (from the cache)
    and its network only passes them on, so that its weights are loaded when there is something new to encode
    and never sit in the training process otherwise.

    Args:
        modality: modality the encoder serves; prefix of its batch keys.
    """

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def fit(self, values: Sequence[str | None]) -> None:
        """Learn what must come from the training split alone (a vocabulary); missing values are ``None``.

        Most encoders have nothing to learn here.
        """
        del values

    @abstractmethod
    def prepare(self, values: Sequence[str | None]) -> FeatureStore:
        """Featurize every row; ``None`` marks a row without this modality.

        Returns:
            a store with one entry a row, in order.
        """

    @abstractmethod
    def build_network(self) -> EncoderNetwork:
        """Return a new network for this encoder's features; call after ``fit`` or ``load_state``."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return plain containers from which ``load_state`` restores the fitted encoder (goes into checkpoints)."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``fit`` learned, without the training data."""

    @abstractmethod
    def report(self) -> EncoderReport:
        """Describe the encoder for the start table; complete after ``prepare``."""
