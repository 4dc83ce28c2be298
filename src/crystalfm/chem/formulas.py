"""Chemical formulas as people write them, and as crystals of this package name themselves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError


def reduced_formula(formula: str) -> str:
    """Return a formula as ``Crystal.formula`` writes it: reduced, in Hill's order, without brackets.

    Raises:
        UserError: it is no formula, holds fractions of atoms or an unknown element.
    """
    counts = formula_counts(formula)
    first = [name for name in ("C", "H") if name in counts] if "C" in counts else []
    ordered = [*first, *sorted(set(counts) - set(first))]
    return "".join(name + (str(counts[name]) if counts[name] > 1 else "") for name in ordered)


@lru_cache(maxsize=1024)
def _reduced_counts(formula: str) -> tuple[tuple[str, int], ...]:
    from pymatgen.core.composition import Composition

    try:
        amounts = Composition(formula.strip()).get_el_amt_dict()
    except (ValueError, KeyError, ArithmeticError) as error:
        raise UserError(f"{formula!r} is no chemical formula: {error}", remedy="for example NaCl or Ca(OH)2") from error
    counts = {name: round(amount) for name, amount in amounts.items()}
    wrong = [name for name in counts if name not in SYMBOLS]
    broken = [name for name, amount in amounts.items() if amount != counts[name] or amount < 1]
    if wrong or broken or not counts:
        detail = f"{wrong[0]} is no element" if wrong else "atoms are counted in whole numbers"
        raise UserError(f"{formula!r} is no formula of a crystal: {detail}", remedy="for example NaCl or Ca(OH)2")
    divisor = int(np.gcd.reduce(list(counts.values())))
    return tuple((name, count // divisor) for name, count in counts.items())


def formula_counts(formula: str) -> dict[str, int]:
    """Return how often each element occurs in the reduced formula.

    Raises:
        UserError: see ``reduced_formula``.
    """
    return dict(_reduced_counts(formula))
