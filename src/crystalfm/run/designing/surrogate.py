"""What predictors say of designed configurations, and how far that is from what was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.run.api import load
from crystalfm.run.generation.engine import checkpoint_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.contracts import TargetSpec
    from crystalfm.run.api import Predictor

_UNITS = {"energy_per_atom": "eV/atom", "total_mag": "muB"}
"""Units in which properties are asked for, where they are not eV."""


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Predictors that together say which properties a configuration has.

    Attributes:
        runs: where each predictor came from.
        predictors: the predictors.
    """

    runs: tuple[str, ...]
    predictors: tuple[Predictor, ...]

    @property
    def targets(self) -> tuple[TargetSpec, ...]:
        """What they predict; of two that predict the same, the first one counts."""
        found: dict[str, TargetSpec] = {}
        for predictor in self.predictors:
            for target in predictor.targets:
                found.setdefault(target.name, target)
        return tuple(found.values())

    def values(self, configurations: Sequence[Configuration], supercell: Supercell) -> dict[str, NDArray[np.float64]]:
        """Return (N,) values by the name of a target; NaN where a predictor refuses the structure."""
        found: dict[str, NDArray[np.float64]] = {}
        crystals = [configuration.crystal(supercell) for configuration in configurations]
        for predictor in self.predictors:
            predicted = predictor.predict(crystals).values if crystals else np.empty((0, len(predictor.targets)))
            for column, target in enumerate(predictor.targets):
                found.setdefault(target.name, predicted[:, column])
        return found

    def identity(self) -> dict[str, Any]:
        """Return what the predictors are, as plain containers."""
        return {
            "runs": [{"location": run, "sha256": checkpoint_digest(run)} for run in self.runs],
            "targets": {target.name: target.unit for target in self.targets},
        }


def load_surrogate(cfg: DictConfig, properties: Sequence[str]) -> Surrogate | None:
    """Load the predictors of ``cfg.surrogate``; ``None`` where there are none.

    Args:
        cfg: configuration with ``surrogate``, ``paths`` and ``trainer``.
        properties: what is asked for.

    Raises:
        UserError: a run is none of a predictor of crystals, does not predict what is asked for, or in other units.
    """
    if cfg.surrogate is None:
        return None
    runs = (str(cfg.surrogate),) if isinstance(cfg.surrogate, str) else tuple(str(run) for run in cfg.surrogate)
    if not runs:
        return None
    paths, accelerator = cfg.paths, cfg.trainer.accelerator
    predictors = []
    for run in runs:
        predictor = load(
            run, accelerator=accelerator, cache=paths.cache, mirror=paths.mirror, offline=bool(paths.offline)
        )
        if not predictor.takes_crystals:
            raise UserError(f"surrogate={run} predicts molecules", remedy="a run of data=2dmd, such as model=catboost")
        predictors.append(predictor)
    surrogate = Surrogate(runs, tuple(predictors))
    units = {target.name: target.unit for target in surrogate.targets}
    if missing := [name for name in properties if name not in units]:
        raise UserError(
            f"surrogate={', '.join(runs)}: it does not predict {', '.join(missing)}",
            remedy=f"it predicts {', '.join(units)}; train one with data.targets=[{','.join(missing)}]",
        )
    for name in properties:
        if units[name] != (unit := _UNITS.get(name, "eV")):
            raise UserError(
                f"surrogate={', '.join(runs)} predicts {name} in {units[name]}, and it is asked for in {unit}",
                remedy="a run of data=2dmd",
            )
    return surrogate


def worst_errors(
    values: Mapping[str, NDArray[np.float64]], targets: Sequence[Mapping[str, float]]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Return errors against what was asked for.

    Args:
        values: (N,) predicted values by property.
        targets: what each of the N was asked for.

    Returns:
        (N,) predicted minus asked by property, and (N,) the largest of them in size: a configuration meets its targets
        where it meets the worst one. NaN where a value is not known, or nothing was asked for.
    """
    names = list(targets[0]) if targets else []
    errors = {name: values[name] - np.array([float(target[name]) for target in targets]) for name in names}
    if not errors:
        return {}, np.full(len(targets), math.nan)
    worst: NDArray[np.float64] = np.max(np.abs(np.stack(list(errors.values()))), axis=0)
    return errors, worst
