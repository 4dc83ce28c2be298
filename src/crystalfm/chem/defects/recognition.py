"""Which host and which defects an unrelaxed structure has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.crystals import Crystal
from crystalfm.chem.defects.configurations import read_configuration
from crystalfm.chem.defects.hosts import HOSTS, Host, Supercell
from crystalfm.chem.defects.records import DefectRecord, shared_supercell
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_MOST_CHANGED = 0.5
"""Where more of the sites than this have another element, or none, it is another host."""

_SAME_COSINE = 0.01


def recognise(crystal: Crystal, hosts: Iterable[Host] = ()) -> DefectRecord:
    """Return the supercell and the defects of an unrelaxed structure.

    Hosts are tried as given, then 2DMD's; the first is taken on whose sites the atoms are.

    Args:
        crystal: a structure whose atoms are on the sites of a supercell; in any order.
        hosts: hosts to try first, such as those that a model was trained on.

    Raises:
        UserError: it is of none of the hosts; the message says why.
    """
    reasons: dict[str, str] = {}
    for host in (*hosts, *HOSTS.values()):
        try:
            supercell = _supercell(crystal, host)
            configuration = read_configuration(_turned(crystal, supercell), supercell)
        except UserError as error:
            reasons.setdefault(host.name, error.message)
            continue
        if len(configuration) <= _MOST_CHANGED * supercell.num_sites:
            return DefectRecord.of(supercell, configuration)
        reasons.setdefault(host.name, f"{len(configuration)} of its {supercell.num_sites} sites are others")
    tried = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise UserError(f"it is no unrelaxed structure of a known host ({tried})")


def _supercell(crystal: Crystal, host: Host) -> Supercell:
    """Return the supercell of a host whose edges are nearest to those of a structure's cell."""
    edges = np.linalg.norm(crystal.lattice, axis=1) / np.linalg.norm(host.cell.lattice, axis=1)
    columns, rows, layers = (max(1, round(float(edge))) for edge in edges)
    if layers != 1:
        raise UserError(f"its cell is {layers} times as high as that of {host.name}")
    if crystal.num_atoms > columns * rows * host.cell.num_atoms:
        raise UserError(f"it has more atoms than {host.name} [{columns},{rows},1]")
    return shared_supercell(host.name, host.cell.to_json(), (columns, rows, 1))


def _turned(crystal: Crystal, supercell: Supercell) -> Crystal:
    """Return a structure in the supercell's orientation, where the angles between their lattice vectors agree."""
    if np.abs(_cosines(crystal) - _cosines(supercell)).max() > _SAME_COSINE:
        return crystal
    edges = np.linalg.norm(crystal.lattice, axis=1) / np.linalg.norm(supercell.lattice, axis=1)
    return Crystal(supercell.lattice * edges[:, None], crystal.atomic_numbers, crystal.frac_coords)


def _cosines(cell: Crystal | Supercell) -> NDArray[np.float64]:
    directions = cell.lattice / np.linalg.norm(cell.lattice, axis=1, keepdims=True)
    cosines: NDArray[np.float64] = directions @ directions.T
    return cosines
