"""Crystals that a language model is asked for by their formula: how many come out, and how near."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from crystalfm.chem.crystal_text import CrystalTextError
from crystalfm.chem.formulas import formula_counts
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.engines.transformers_engine import TransformersEngine
from crystalfm.generation.prompts import generation_prompt
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.metrics.crystals.matching import PairMatches, match_pairs
from crystalfm.run.tracking.progress import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.chem.crystals import Crystal
    from crystalfm.generation.writer import CrystalWriter

_FORMULA = "formula"


def require_formulas(writer: CrystalWriter) -> None:
    """Refuse a model that cannot be asked for formulas.

    Raises:
        UserError: it was not trained to be, or writes no crystals.
    """
    if _FORMULA not in writer.crystal_prompts.conditions:
        raise UserError(
            "match_crystals: the model was not trained to be asked for formulas",
            remedy=f"train it with {_FORMULA} among model.conditions, or match_crystals=0",
        )


def match_by_formula(
    writer: CrystalWriter, crystals: Sequence[Crystal], *, seed: int, precision: Literal["auto", "bf16", "fp32"]
) -> PairMatches:
    """Ask once for each crystal by its formula, and compare what is written with it.

    The protocol is that of structure prediction on MP-20 (CDVAE, DiffCSP): one sample a crystal, StructureMatcher with
    ltol 0.3, stol 0.5, angle_tol 10. The grammar keeps to the formula; how often it is repeated in the cell is left to
    the model, as it is not told.

    Args:
        writer: the model; its weights are merged and turned to the precision, and stay so.
        crystals: crystals to ask for, usually of the test set.
        seed: of the sampling, at temperature 1.
        precision: of the sampling.

    Raises:
        UserError: the model was not trained to be asked for formulas, or writes no crystals.
    """
    require_formulas(writer)
    prompts = writer.crystal_prompts
    largest = max((crystal.num_atoms for crystal in crystals), default=1)
    requests = [
        Request(
            place,
            generation_prompt({_FORMULA: crystal.formula}, prompts),
            constraint=Constraint("formula", formula_counts(crystal.formula), max_atoms=largest),
        )
        for place, crystal in enumerate(crystals)
    ]
    found: list[Crystal | None] = [None] * len(crystals)
    samples = TransformersEngine(writer, precision).sample(requests, SamplingSettings(seed=seed))
    for sample in counted(samples, "writing crystals by formula", len(requests)):
        try:
            found[sample.index] = prompts.text.read(sample.text)
        except CrystalTextError:
            found[sample.index] = None
    return match_pairs(found, crystals)
