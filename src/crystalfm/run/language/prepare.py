"""Crystals of a data set as examples of a language model, with what is known of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystal_text import CrystalTextError, CrystalTextFormat
from crystalfm.chem.crystals import Crystal
from crystalfm.chem.molecules import RowProblem
from crystalfm.contracts import UserError
from crystalfm.data.crystal_texts import MODALITY, CrystalTextStore
from crystalfm.data.records import enforce_rejection_limit
from crystalfm.data.splits import carry_over
from crystalfm.generation.prompts import CONDITIONS, PromptSettings
from crystalfm.io.files import sha256_json, write_json
from crystalfm.metrics.crystals.symmetry import SYMPREC_ANGSTROM, space_group
from crystalfm.models.settings import check_range
from crystalfm.run.build import construct
from crystalfm.run.prepare import PreparedData, load_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.dataset import Dataset
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits

SPACEGROUP = "spacegroup"
_DERIVED = ("formula", SPACEGROUP)
"""Conditions that follow from the crystal itself."""


@dataclass(frozen=True)
class TextSettings:
    """Settings of the node ``model`` that say how crystals become tokens; see ``CrystalLLM``.

    Attributes:
        prompts: wording and drawing of examples.
        pack_length: tokens of a packed row.
        max_length: crystals with longer texts are rejected.
        learn: tokens that count for the loss.
    """

    prompts: PromptSettings
    pack_length: int
    max_length: int
    learn: Any


def text_settings(model: Mapping[str, Any], known: Sequence[str]) -> TextSettings:
    """Read the settings of the node ``model``.

    Args:
        model: node of a ``CrystalLLM``.
        known: conditions that the data know.

    Raises:
        UserError: a setting is out of range, or a condition is asked for that the data do not know.
    """
    check_range("model.pack_length", model["pack_length"], low=1)
    check_range("model.max_length", model["max_length"], low=1)
    asked = known if model["conditions"] is None else list(model["conditions"])
    missing = [name for name in asked if name in CONDITIONS and name not in known]
    if missing:
        raise UserError(
            f"model.conditions: the data do not know {', '.join(missing)}", remedy=f"they know {', '.join(known)}"
        )
    prompts = PromptSettings(
        text=CrystalTextFormat(model["length_digits"], model["angle_digits"], model["coord_digits"]),
        conditions=tuple(asked),
        infill_fraction=model["infill_fraction"],
        max_conditions=model["max_conditions"],
        translate=model["translate"],
        permute=model["permute"],
    )
    return TextSettings(prompts, model["pack_length"], model["max_length"], model["learn"])


def language_dataset(cfg: DictConfig, store: AssetStore) -> Dataset:
    """Build the data set with everything it knows that a prompt can ask for, unless ``data.targets`` chooses."""
    dataset: Dataset = construct(cfg.data, store=store, seed=cfg.seed)
    if dataset.targets is None:
        offered = [target.name for target in dataset.spec().targets if target.name in CONDITIONS]
        dataset.targets = offered or None
    return dataset


def known_conditions(dataset: Dataset) -> list[str]:
    """Return the conditions that a data set's crystals can be asked by, in their order."""
    names = {*_DERIVED, *(target.name for target in dataset.selected_targets())}
    return [name for name in CONDITIONS if name in names]


def prepare_language(
    cfg: DictConfig,
    dataset: Dataset,
    texts: TextSettings,
    tokenizer: Any,
    *,
    all_rows: bool = False,
) -> PreparedData:
    """Load, split and word the crystals; those that cannot be written, or are too long, are rejected.

    Args:
        cfg: configuration with ``data``, ``seed``, ``paths`` and ``max_rejected_fraction``.
        dataset: the data set.
        texts: how its crystals are worded.
        tokenizer: tokenizer of the language model.
        all_rows: put every row into the test part instead of splitting.

    Raises:
        UserError: too many rows were rejected.
    """
    limit = float(cfg.max_rejected_fraction)
    table, values, splits = load_table(dataset, [MODALITY], max_rejected_fraction=limit, all_rows=all_rows, fitted=True)
    crystals = [Crystal.from_json(value or "") for value in values[MODALITY]]
    problems = _unwritable(crystals, texts, tokenizer)
    if problems:
        table, splits, crystals = _without(table, splits, crystals, problems)
        enforce_rejection_limit(table.rejected, len(table) + len(table.rejected), limit)
    properties = _properties(table, crystals, splits.train, texts.prompts, Path(cfg.paths.cache).expanduser())
    features = CrystalTextStore(
        crystals,
        properties,
        texts.prompts,
        tokenizer,
        pack_length=texts.pack_length,
        learn=texts.learn,
        seed=cfg.seed,
    )
    notes = {
        "texts": f"{features.costs.mean():.0f} tokens a crystal, {features.costs.max():,} at most",
        "conditions": ", ".join(texts.prompts.conditions) or "none",
    }
    return PreparedData(dataset, table, splits, [MODALITY], {}, {MODALITY: features}, notes)


def _unwritable(crystals: Sequence[Crystal], texts: TextSettings, tokenizer: Any) -> list[RowProblem]:
    """Return the rows whose crystals have no text, or too long a one."""
    problems = []
    for row, crystal in enumerate(crystals):
        try:
            text = texts.prompts.text.write(crystal)
        except CrystalTextError as error:
            problems.append(RowProblem(row, str(error), crystal.formula))
            continue
        # A token is one character at least: only long texts need counting.
        if len(text) > texts.max_length:
            count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            if count > texts.max_length:
                reason = f"text too long: {count:,} tokens, model.max_length is {texts.max_length:,}"
                problems.append(RowProblem(row, reason, crystal.formula))
    return problems


def _without(
    table: RecordTable, splits: Splits, crystals: list[Crystal], problems: Sequence[RowProblem]
) -> tuple[RecordTable, Splits, list[Crystal]]:
    dropped = {problem.row for problem in problems}
    kept = table.without(problems)
    remaining = [crystal for row, crystal in enumerate(crystals) if row not in dropped]
    return kept, carry_over(splits, table, kept), remaining


def _properties(
    table: RecordTable,
    crystals: Sequence[Crystal],
    train: NDArray[np.int64],
    prompts: PromptSettings,
    cache: Path,
) -> list[dict[str, float]]:
    """Return what prompts may ask for of each row; only training rows are ever asked for anything."""
    properties: list[dict[str, float]] = [{} for _ in crystals]
    for column, target in enumerate(table.target_specs):
        if target.name in prompts.conditions:
            for row in train.tolist():
                properties[row][target.name] = float(table.targets[row, column])
    if SPACEGROUP in prompts.conditions:
        numbers = _space_groups([crystals[row] for row in train.tolist()], cache)
        for row, number in zip(train.tolist(), numbers, strict=True):
            if number is not None:
                properties[row][SPACEGROUP] = number
    return properties


def _space_groups(crystals: Sequence[Crystal], cache: Path) -> list[int | None]:
    """Return the space group of each crystal, from the cache where they have been looked for before."""
    try:
        version = metadata.version("spglib")
    except metadata.PackageNotFoundError as error:
        raise UserError(
            "prompts with space groups need the package spglib",
            remedy="pip install 'crystalfm[generate]', or name other conditions in model.conditions",
        ) from error
    parts = {"crystals": [crystal.to_json() for crystal in crystals], "symprec": SYMPREC_ANGSTROM, "spglib": version}
    path = cache / "space_groups" / f"{sha256_json(parts)[:32]}.json"
    if path.is_file():
        found: list[int | None] = json.loads(path.read_text(encoding="utf-8"))
        if len(found) == len(crystals):
            return found
    found = [space_group(crystal) for crystal in crystals]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found
