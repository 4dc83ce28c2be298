"""Keys of ``crystalfm defects``: which host, which defects, how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EnumerateSettings:
    """Top-level values of ``defects_enumerate.yaml``.

    Attributes:
        host: name of the host (``MoS2``).
        rules: names of what may be done to its sites (``v_S``, ``Se_S``, ``W_Mo``).
        size: unit cells along the three lattice vectors; ``None`` for the host's usual supercell.
        max_defects: most defects of a configuration.
        types: ``all`` combinations of the rules, or the ``low_density`` ones of 2DMD.
        output: a new folder; ``None`` shows the table alone.
        cif: whether to write a CIF of every configuration too.
    """

    host: str
    rules: list[str]
    size: list[int] | None = None
    max_defects: int = 3
    types: Literal["all", "low_density"] = "all"
    output: str | None = None
    cif: bool = False


@dataclass(frozen=True)
class RandomSettings:
    """Top-level values of ``defects_random.yaml``.

    Attributes:
        host: name of the host (``MoS2``).
        rules: names of what may be done to its sites (``v_S``, ``Se_S``, ``W_Mo``).
        size: unit cells along the three lattice vectors; ``None`` for the host's usual supercell.
        concentration: share of the sites that get a defect.
        number: configurations to draw, no two of them equivalent.
        seed: seed of the draw.
        output: a new folder; ``None`` shows the table alone.
        cif: whether to write a CIF of every configuration too.
    """

    host: str
    rules: list[str]
    size: list[int] | None = None
    concentration: float = 0.05
    number: int = 100
    seed: int = 42
    output: str | None = None
    cif: bool = False
