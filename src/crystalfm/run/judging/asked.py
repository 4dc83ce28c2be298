"""What a run of ``generate.py`` was asked for, and how far its crystals are from it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from crystalfm.contracts import UserError
from crystalfm.metrics.crystals.conditions import FORMULA, SPACE_GROUP, condition_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from crystalfm.chem.crystals import Crystal
    from crystalfm.metrics.crystals.conditions import ConditionScores
    from crystalfm.run.judging.samples import Samples
    from crystalfm.run.judging.stability import JudgedStability

REQUEST = "request.json"
"""In a folder of ``generate.py``: what was asked for, under ``condition``."""

_ABOVE_HULL = "e_above_hull"


@dataclass(frozen=True, eq=False)
class JudgedConditions:
    """How far samples are from what was asked for.

    Attributes:
        asked: conditions by name, the same for all samples.
        scores: how far they are.
        sources: who says what the samples' properties are, by property.
    """

    asked: Mapping[str, Any]
    scores: ConditionScores
    sources: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures with their denominators."""
        found: dict[str, Any] = {"asked": dict(self.asked)}
        if FORMULA in self.asked:
            found[FORMULA] = self.scores.formula.as_dict()
        if SPACE_GROUP in self.asked:
            found[SPACE_GROUP] = self.scores.space_group.as_dict() | {"symprec_angstrom": self.scores.symprec_angstrom}
        for name, errors in self.scores.properties.items():
            found[name] = {
                "mean_absolute_error": errors.absolute.as_dict(),
                "asked": errors.num_asked,
                "source": self.sources[name],
            }
        return found


def asked_of(structures: Path) -> dict[str, Any]:
    """Return the conditions of a run of ``generate.py``; none where ``structures`` is something else."""
    path = structures / REQUEST
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dict(content.get("condition") or {})


def judge_conditions(
    samples: Samples,
    structures: Path,
    stability: JudgedStability | None,
    predictor: str | None,
    symprec_angstrom: float,
) -> JudgedConditions | None:
    """Compare samples with what was asked of them; ``None`` where nothing was.

    Energies above the hull are those of the relaxed samples, where they were relaxed; other properties are what the
    predictor says of the samples as they are.

    Args:
        samples: crystals.
        structures: where they come from.
        stability: their stability, where it was judged.
        predictor: run of a predictor, or ``None``.
        symprec_angstrom: tolerance of space groups.

    Raises:
        UserError: the predictor predicts none of the properties that were asked for.
    """
    asked = asked_of(structures)
    if not asked:
        if predictor is not None:
            raise UserError(
                f"predictor: {structures} was not asked for a property", remedy="leave predictor out, or judge a run"
            )
        return None
    predicted: dict[str, list[float | None]] = {}
    sources: dict[str, str] = {}
    if stability is not None and _ABOVE_HULL in asked:
        places = stability.by_place
        predicted[_ABOVE_HULL] = [
            places[place].energy_above_hull if place in places else None for place in range(len(samples.crystals))
        ]
        sources[_ABOVE_HULL] = "CHGNet, after relaxation"
    if predictor is not None:
        for name, values in _predictions(samples.crystals, asked, predictor).items():
            predicted[name] = values
            sources[name] = predictor
    everywhere = [asked] * len(samples.crystals)
    scores = condition_scores(samples.crystals, everywhere, predicted=predicted, symprec_angstrom=symprec_angstrom)
    return JudgedConditions(asked, scores, sources)


def _predictions(
    crystals: Sequence[Crystal | None], asked: Mapping[str, Any], predictor: str
) -> dict[str, list[float | None]]:
    """Return what a predictor says of the crystals, for each property that was asked for."""
    from crystalfm.metrics.crystals.structures import as_structure
    from crystalfm.run.api import load

    places = [place for place, crystal in enumerate(crystals) if crystal is not None]
    found = load(predictor).predict([as_structure(crystal) for crystal in crystals if crystal is not None])
    columns = {target.name: column for column, target in enumerate(found.targets) if target.name in asked}
    if not columns:
        names = ", ".join(target.name for target in found.targets)
        raise UserError(
            f"predictor={predictor} predicts {names}; the crystals were asked for {', '.join(asked)}",
            remedy="give the run of a predictor of one of these, trained on data with the same names and units",
        )
    values: dict[str, list[float | None]] = {name: [None] * len(crystals) for name in columns}
    for name, column in columns.items():
        for place, value in zip(places, found.values[:, column].tolist(), strict=True):
            values[name][place] = value if math.isfinite(value) else None
    return values


def conditions_table(judged: JudgedConditions) -> Table:
    """Return what was asked for, and how far the samples are from it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("asked for", "value", "honoured or mean absolute error", "of"):
        table.add_column(heading)
    scores = judged.scores
    for name, value in judged.asked.items():
        if name in {FORMULA, SPACE_GROUP}:
            share = scores.formula if name == FORMULA else scores.space_group
            cells = (f"{share.fraction:.1%}", f"{share.count} of {share.total}")
        elif name in scores.properties:
            errors = scores.properties[name]
            cells = (
                f"{errors.absolute.value:.3f} eV",
                f"{errors.absolute.total} of {errors.num_asked} ({judged.sources[name]})",
            )
        else:
            cells = ("-", "no predictor (predictor=RUN)")
        table.add_row(name, str(value), *cells)
    return table
