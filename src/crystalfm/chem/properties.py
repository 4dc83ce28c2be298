"""Properties of molecules that RDKit computes from the structure alone."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.molecules import MoleculeError, RowProblem, parse_smiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from rdkit.Chem import Mol


def logp_and_qed(smiles: Sequence[str | None]) -> tuple[NDArray[np.float64], list[RowProblem]]:
    """Return Crippen's logP and the quantitative estimate of drug-likeness (QED) of molecules.

    LogP: the logarithm of the octanol/water partition coefficient as a sum over atoms, Wildman and Crippen, J. Chem.
    Inf. Comput. Sci. 39, 868 (1999). QED: between 0 and 1, weighted mean of eight desirabilities, Bickerton et al.,
    Nature Chemistry 4, 90 (2012). Both are dimensionless.

    Args:
        smiles: N SMILES strings; ``None`` marks a row without a molecule, which is no problem.

    Returns:
        (N, 2) values, NaN where there is none, and the rows for which they cannot be computed.
    """
    from rdkit import rdBase
    from rdkit.Chem import QED
    from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors

    qed: Callable[[Mol], float] = QED.qed
    values = np.full((len(smiles), 2), np.nan)
    problems: list[RowProblem] = []
    with rdBase.BlockLogs():
        for row, text in enumerate(smiles):
            if text is None:
                continue
            try:
                molecule = parse_smiles(text)
                computed = float(CalcCrippenDescriptors(molecule)[0]), float(qed(molecule))
            except MoleculeError as error:
                problems.append(RowProblem(row, error.reason, text))
            except (ValueError, ArithmeticError) as error:
                problems.append(RowProblem(row, f"RDKit computes no logP or QED: {error}", text))
            else:
                if all(map(isfinite, computed)):
                    values[row] = computed
                else:
                    problems.append(RowProblem(row, "logP or QED is not finite", text))
    return values, problems
