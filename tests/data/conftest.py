"""Small record tables made on the spot."""

from collections.abc import Callable

import numpy as np
import pytest

from crystalfm.contracts import DataSpec, TargetSpec
from crystalfm.data.records import RecordTable, group_numbers


@pytest.fixture
def make_table() -> Callable[..., RecordTable]:
    """Return a maker of tables with alkane-like molecules, ids ``m0`` ... and one target in electronvolt."""

    def make(
        num_rows: int = 10, *, smiles: list[str | None] | None = None, groups: list[str] | None = None
    ) -> RecordTable:
        smiles = ["C" * (row % 7 + 1) for row in range(num_rows)] if smiles is None else smiles
        keys = [str(row) for row in range(len(smiles))] if groups is None else groups
        target = TargetSpec("gap", "eV")
        return RecordTable(
            spec=DataSpec("toy", ("smiles",), (target,), ("gap",)),
            ids=np.array([f"m{row}" for row in range(len(smiles))]),
            fields={"smiles": smiles},
            targets=np.arange(len(smiles), dtype=np.float64)[:, None],
            target_specs=(target,),
            groups=group_numbers(keys),
        )

    return make
