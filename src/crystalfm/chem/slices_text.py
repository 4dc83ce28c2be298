"""SLICES: a crystal as a string of its atoms and of the bonds between them, with the cells that bonds lead to.

Xiao et al., Nat. Commun. 14, 7027 (2023). The package ``slices`` imports TensorFlow and M3GNet, which it needs to go
back from strings to crystals, and a pymatgen of its time; it is none of our optional dependencies, and is imported only
when a string is asked for. Where it cannot be, the modality ``defects`` says more of a defect in fewer numbers.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError
from crystalfm.io.versions import installed_versions

if TYPE_CHECKING:
    from crystalfm.chem.crystals import Crystal

TEXT_VERSION = 1
"""Version of what this module adds; a change makes cached strings new."""

PACKAGES = ("slices", "m3gnet", "tensorflow")

REMEDY = (
    "pip install slices in an environment of its own for TensorFlow, M3GNet and an older pymatgen;"
    " or modalities=[defects], which needs none of them, or data.description=chemnlp"
)

_LIBRARIES = ("slices", "pymatgen", "pymatgen-core")


def describe(crystal: Crystal) -> str:
    """Return the SLICES string of a crystal: bonds of the local environments (EconNN), the package's own order.

    Raises:
        UserError: the package or what it imports is not installed, or does not go with the installed pymatgen.
        Exception: whatever the package raises for a crystal that it cannot encode.
    """
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    symbols = [SYMBOLS[number - 1] for number in crystal.atomic_numbers.tolist()]
    structure = Structure(Lattice(crystal.lattice), symbols, crystal.frac_coords)
    return str(_encoder().structure2SLICES(structure))


def library_versions() -> dict[str, str]:
    """Return the versions of the packages on which a string depends; those not installed are left out."""
    return installed_versions(_LIBRARIES)


@cache
def _encoder() -> Any:
    """Return the encoder of this process; without a model to relax crystals with, which only decoding needs."""
    try:
        from slices.core import SLICES
    except ImportError as error:
        raise UserError(f"data.description=slices: {error}", remedy=REMEDY) from error
    return SLICES(relax_model="")
