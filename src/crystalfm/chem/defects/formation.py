"""Formation energies of defects out of total energies and chemical potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.chem.defects.rules import DefectRule


def formation_energy(
    energy: float, pristine_energy: float, rules: Sequence[DefectRule], chemical_potentials: Mapping[str, float]
) -> float:
    """Return E - E_pristine + the sum of potentials of what was taken, minus those of what was added, in eV.

    Equations 1 and 2 of npj 2D Materials and Applications' 2DMD paper (npj Comput. Mater. 9, 113, 2023). Divided by the
    number of defects it is the formation energy per site.

    Args:
        energy: total energy of the supercell with the defects, in eV.
        pristine_energy: that of the same supercell without them, from the same release.
        rules: what was done to each defect's site.
        chemical_potentials: energy of an atom by symbol, in eV.

    Raises:
        UserError: a potential is not known.
    """
    elements = {symbol for rule in rules for symbol in (rule.removed, rule.added) if symbol}
    if missing := sorted(elements - set(chemical_potentials)):
        raise UserError(
            f"no chemical potential is known of {', '.join(missing)}",
            remedy=f"the table has {', '.join(sorted(chemical_potentials))}",
        )
    taken = sum(chemical_potentials[rule.removed] for rule in rules)
    added = sum(chemical_potentials[rule.added] for rule in rules if rule.added)
    return energy - pristine_energy + taken - added
