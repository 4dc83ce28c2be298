"""Features of the elements for networks over atoms."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import SYMBOLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_CGCNN_FEATURES = 92
"""Length of an element's CGCNN features."""

_TABLE = "cgcnn_atom_features.txt"


@cache
def cgcnn_atom_features() -> NDArray[np.float32]:
    """Return CGCNN's features of the elements (119, 92), 0 or 1, one row for each atomic number; do not write to it.

    Row 0 is zero. The table ends at fermium: heavier elements get its row, as ``jarvis.core.specie`` and so the
    ``alignn`` package do. Source: Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018).
    """
    text = files("crystalfm.chem").joinpath(_TABLE).read_text(encoding="utf-8")
    features = np.zeros((len(SYMBOLS) + 1, NUM_CGCNN_FEATURES), dtype=np.float32)
    last = 0
    for line in text.splitlines():
        if not line.startswith("#"):
            number, digits = line.split()
            last = int(number)
            features[last] = [int(bit) for bit in f"{int(digits, 16):0{NUM_CGCNN_FEATURES}b}"]
    features[last + 1 :] = features[last]
    features.flags.writeable = False
    return features
