"""A count with what it was counted among: no figure of generated crystals stands without its denominator."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """So many of so many.

    Attributes:
        count: how many have the property.
        total: among how many.
    """

    count: int
    total: int

    @property
    def fraction(self) -> float:
        """Count by total, 0 to 1; NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the three numbers as plain values that JSON can hold (NaN becomes ``None``)."""
        return {"count": self.count, "total": self.total, "fraction": plain(self.fraction)}


@dataclass(frozen=True)
class Mean:
    """A mean with the number of values it is taken over.

    Attributes:
        value: the mean; NaN of nothing.
        total: how many values.
    """

    value: float
    total: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the two numbers as plain values that JSON can hold (NaN becomes ``None``)."""
        return {"value": plain(self.value), "total": self.total}


def plain(value: float) -> float | None:
    """Return a number that JSON can hold: ``None`` in place of NaN and infinities."""
    return float(value) if math.isfinite(value) else None
