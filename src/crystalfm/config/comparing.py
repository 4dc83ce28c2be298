"""What ``compare.yaml`` holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CompareSettings:
    """Top-level values of ``compare.yaml``.

    Attributes:
        name: first part of the comparison's name in W&B.
    """

    name: str = "compare"
