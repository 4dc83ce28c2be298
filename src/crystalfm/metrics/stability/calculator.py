"""CHGNet: energies of crystals as they are, and relaxation of positions and cell.

The weights (version 0.3.0) come with the package ``chgnet``; Deng et al., Nature Machine Intelligence 5, 1031 (2023).
They were fitted to GGA and GGA+U energies of the Materials Project with its 2020 corrections, so that energies need no
correction and compare with each other across all elements, within the model's error. That error is no small matter
here: 29 meV/atom on average by the name of the file of weights, a third of what separates metastable from unstable.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import warnings
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystals import SYMBOLS, Crystal, CrystalError, make_crystal
from crystalfm.chem.description_process import failing
from crystalfm.metrics.crystals.structures import as_structure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODEL_NAME = "0.3.0"
"""Version of the weights, which the package names so."""

CALCULATOR_VERSION = 1
"""Version of what is done with them here; a change makes every cached result anew."""

PACKAGES = ("chgnet", "joblib")

_HIGHEST_NUMBER = 94
"""The model knows the elements up to plutonium."""


def library_versions() -> dict[str, str]:
    """Return the versions on which energies and relaxations depend."""
    return {"chgnet": metadata.version("chgnet"), "weights": MODEL_NAME}


def relaxation_versions() -> dict[str, str]:
    """Return the versions on which relaxations depend: the optimizer's too."""
    return library_versions() | {"ase": metadata.version("ase")}


def relax(crystal: Crystal, *, max_force: float, max_steps: int, device: str = "cpu") -> str:
    """Relax the atoms and the cell of a crystal with FIRE.

    Args:
        crystal: crystal to start from.
        max_force: largest force on an atom, and generalised force on the cell, at which to stop, in eV/angstrom.
        max_steps: steps after which to stop whatever the forces.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        JSON with ``structure`` (the relaxed crystal as ``Crystal.to_json`` writes it), ``energy`` and
        ``initial_energy`` in eV of the cell, ``num_steps`` and ``converged``.

    Raises:
        CrystalError: an element is unknown to the model, an atom has no neighbour, or the relaxation went astray.
    """
    from ase import Atoms
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from chgnet.model.dynamics import CHGNetCalculator

    cell_filter: Any = FrechetCellFilter

    _check_elements(crystal)
    with contextlib.redirect_stdout(io.StringIO()):
        calculator = CHGNetCalculator(_model(device), use_device=device, on_isolated_atoms="error")
    atoms: Any = Atoms(
        crystal.atomic_numbers,
        cell=crystal.lattice,
        scaled_positions=crystal.frac_coords,
        pbc=True,
        calculator=calculator,
    )
    initial = float(atoms.get_potential_energy())
    with FIRE(cell_filter(atoms), logfile=None) as optimizer:
        converged = bool(optimizer.run(fmax=max_force, steps=max_steps))
        num_steps = int(optimizer.nsteps)
    energy = float(atoms.get_potential_energy())
    relaxed = make_crystal(np.asarray(atoms.cell), atoms.numbers, atoms.get_scaled_positions(wrap=True))
    if not (math.isfinite(energy) and np.isfinite(relaxed.lattice).all() and np.isfinite(relaxed.frac_coords).all()):
        raise CrystalError("not relaxed: energy or positions are no numbers")
    answer = {"structure": relaxed.to_json(), "energy": energy, "initial_energy": initial}
    return json.dumps(answer | {"num_steps": num_steps, "converged": converged})


def energies(crystals: Sequence[Crystal], *, device: str = "cpu", batch_size: int = 16) -> list[float | CrystalError]:
    """Return the energy of each crystal as it is, in eV of the cell, or why there is none.

    Args:
        crystals: crystals.
        device: ``cpu``, ``cuda`` or ``mps``.
        batch_size: crystals computed at once.
    """
    model = _model(device)
    graphs: dict[int, Any] = {}
    found: dict[int, float | CrystalError] = {}
    for index, crystal in enumerate(crystals):
        try:
            with failing("computed"):
                _check_elements(crystal)
                graphs[index] = model.graph_converter(as_structure(crystal))
        except CrystalError as error:
            found[index] = error
    if graphs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a tensor made of a tensor, once a process
            answers = model.predict_graph(list(graphs.values()), task="e", batch_size=batch_size)
        answers = [answers] if len(graphs) == 1 else answers  # a single graph is answered without a list
        for index, answer in zip(graphs, answers, strict=True):
            found[index] = _energy(answer, crystals[index].num_atoms)
    return [found[index] for index in range(len(crystals))]


def _energy(answer: Mapping[str, Any], num_atoms: int) -> float | CrystalError:
    energy = float(answer["e"]) * num_atoms
    return energy if math.isfinite(energy) else CrystalError("not computed: the energy is no number")


def _check_elements(crystal: Crystal) -> None:
    highest = int(crystal.atomic_numbers.max())
    if highest > _HIGHEST_NUMBER:
        raise CrystalError(f"the calculator does not know the element {SYMBOLS[highest - 1]}", crystal.formula)


@lru_cache(maxsize=1)
def _model(device: str) -> Any:
    from chgnet.model.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):
        model = CHGNet.load(model_name=MODEL_NAME, use_device=device, verbose=False)
    model.graph_converter.set_isolated_atom_response("error")
    return model
