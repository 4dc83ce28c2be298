"""Robocrystallographer's text about a crystal: the library's own words, several times sooner.

The library (Ganose and Jain, MRS Communications 9, 874 (2019)) does most of its work more than once. It compares each
crystal with all 180 mineral prototypes, though a prototype of another stoichiometry can never match, and reduces every
prototype's cell anew each time; it reads its 10 MB of molecule names for each crystal; it searches the neighbours of
each atom three times and describes each site's surroundings four times. The subclasses here keep what was found, and
pass over prototypes of other stoichiometry; every sentence is still written by the library.

Importing the library takes seconds, so this module does it only when a text is asked for.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError
from crystalfm.io.versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from crystalfm.chem.crystals import Crystal

TEXT_VERSION = 1
"""Version of what this module adds to the library's text; a change makes cached texts new."""

_LIBRARIES = ("robocrys", "matminer", "pymatgen", "pymatgen-core", "spglib", "openbabel", "openbabel-wheel")
_NUMPY_INTEGER = re.compile(r"np\.int64\((-?\d+)\)")
_DIRECTIONS = re.compile(r"(?<=oriented in the )\(.*?\)(?= directions)")
_DIRECTION = re.compile(r"\([^)]*\)")


def describe(crystal: Crystal) -> str:
    """Return Robocrystallographer's description of a crystal, with the library's default settings.

    Raises:
        UserError: the library is not installed.
        Exception: whatever the library raises for a crystal that it cannot describe.
    """
    return cleaned(_describer()(crystal))


def cleaned(text: str) -> str:
    """Return the library's text without two artefacts of its making.

    Miller indices that NumPy 2 prints as ``np.int64(0)`` become ``0``; several directions, which come out of a set and
    so in another order in each process, are sorted.
    """
    text = _NUMPY_INTEGER.sub(r"\1", text)
    return _DIRECTIONS.sub(_sorted_directions, text)


def library_versions() -> dict[str, str]:
    """Return the versions of the packages on which a text depends; those not installed are left out."""
    return installed_versions(_LIBRARIES)


def _sorted_directions(match: re.Match[str]) -> str:
    directions = sorted(_DIRECTION.findall(match.group()))
    parts = iter(directions)
    return _DIRECTION.sub(lambda _: next(parts), match.group())


@cache
def _describer() -> Callable[[Crystal], str]:
    """Return the describer of this process; building it takes seconds."""
    try:
        from crystalfm.chem.robocrys_library import FastDescriber
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"robocrys", "matminer", "pymatgen"}:
            raise
        raise UserError(
            f"data.description=robocrys needs the package {error.name}", remedy="pip install 'crystalfm[describe]'"
        ) from error
    return FastDescriber()
