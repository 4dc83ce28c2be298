"""Crystals of a data set as examples of a language model, with what is known of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from crystalfm.chem.crystal_text import CrystalTextError, CrystalTextFormat
from crystalfm.chem.crystals import Crystal
from crystalfm.chem.molecules import RowProblem
from crystalfm.contracts import UserError
from crystalfm.data.crystal_texts import MODALITY, CrystalTextStore
from crystalfm.data.records import enforce_rejection_limit
from crystalfm.data.splits import carry_over
from crystalfm.generation.defects.prompts import PROPERTIES, DefectPromptSettings
from crystalfm.generation.prompts import CONDITIONS, CrystalExamples, PromptSettings
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
DEFECTS = "defects"
"""Field of a data set's rows that are defects of layers: ``DefectRecord`` as JSON."""

_DERIVED = ("formula", SPACEGROUP)
"""Conditions that follow from the crystal itself."""


RowT = TypeVar("RowT")
PromptsT = TypeVar("PromptsT", PromptSettings, DefectPromptSettings)


@dataclass(frozen=True)
class TextSettings(Generic[PromptsT]):
    """Settings of the node ``model`` that say how rows become tokens; see ``CrystalLLM``.

    Attributes:
        prompts: wording and drawing of examples.
        pack_length: tokens of a packed row.
        max_length: rows with longer texts are rejected.
        learn: tokens that count for the loss.
    """

    prompts: PromptsT
    pack_length: int
    max_length: int
    learn: Any


def text_settings(model: Mapping[str, Any], known: Sequence[str]) -> TextSettings[PromptSettings]:
    """Read the settings of the node ``model``.

    Args:
        model: node of a ``CrystalLLM``.
        known: conditions that the data know.

    Raises:
        UserError: a setting is out of range, or a condition is asked for that the data do not know.
    """
    asked = asked_conditions(model, CONDITIONS, known)
    prompts = PromptSettings(
        text=CrystalTextFormat(model["length_digits"], model["angle_digits"], model["coord_digits"]),
        conditions=tuple(asked),
        infill_fraction=model["infill_fraction"],
        max_conditions=model["max_conditions"],
        translate=model["translate"],
        permute=model["permute"],
    )
    return texts_with(model, prompts)


def texts_with(model: Mapping[str, Any], prompts: PromptsT) -> TextSettings[PromptsT]:
    """Return the settings of the node ``model`` with a wording.

    Raises:
        UserError: a length is out of range.
    """
    check_range("model.pack_length", model["pack_length"], low=1)
    check_range("model.max_length", model["max_length"], low=1)
    return TextSettings(prompts, model["pack_length"], model["max_length"], model["learn"])


def asked_conditions(model: Mapping[str, Any], all_names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return what prompts may ask for: ``model.conditions``, or all that the data know.

    Args:
        model: node of a ``CrystalLLM``.
        all_names: everything that prompts have words for.
        known: what the data know of it.

    Raises:
        UserError: the data do not know what is asked for.
    """
    asked = list(known) if model["conditions"] is None else list(model["conditions"])
    missing = [name for name in asked if name in all_names and name not in known]
    if missing:
        raise UserError(
            f"model.conditions: the data do not know {', '.join(missing)}", remedy=f"they know {', '.join(known)}"
        )
    return asked


def language_dataset(cfg: DictConfig, store: AssetStore) -> Dataset:
    """Build the data set with everything it knows that a prompt can ask for, unless ``data.targets`` chooses."""
    dataset: Dataset = construct(cfg.data, store=store, seed=cfg.seed)
    if dataset.targets is None:
        names = PROPERTIES if holds_defects(dataset) else CONDITIONS
        offered = [target.name for target in dataset.spec().targets if target.name in names]
        dataset.targets = offered or None
    return dataset


def holds_defects(dataset: Dataset) -> bool:
    """Return whether a data set's rows are defects of layers."""
    return DEFECTS in dataset.spec().fields


def known_conditions(dataset: Dataset) -> list[str]:
    """Return the conditions that a data set's crystals can be asked by, in their order."""
    names = {*_DERIVED, *(target.name for target in dataset.selected_targets())}
    return [name for name in CONDITIONS if name in names]


def prepare_language(
    cfg: DictConfig,
    dataset: Dataset,
    texts: TextSettings[PromptSettings],
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
        table, splits, crystals = without_rows(table, splits, crystals, problems)
        enforce_rejection_limit(table.rejected, len(table) + len(table.rejected), limit)
    properties = _properties(table, crystals, splits.train, texts.prompts, Path(cfg.paths.cache).expanduser())
    features = CrystalTextStore(
        CrystalExamples(crystals, properties, texts.prompts),
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


def _unwritable(crystals: Sequence[Crystal], texts: TextSettings[PromptSettings], tokenizer: Any) -> list[RowProblem]:
    """Return the rows whose crystals have no text, or too long a one."""
    problems = []
    for row, crystal in enumerate(crystals):
        try:
            text = texts.prompts.text.write(crystal)
        except CrystalTextError as error:
            problems.append(RowProblem(row, str(error), crystal.formula))
            continue
        if reason := too_long(text, texts.max_length, tokenizer):
            problems.append(RowProblem(row, reason, crystal.formula))
    return problems


def too_long(text: str, max_length: int, tokenizer: Any) -> str:
    """Return why a text is too long; empty where it is not."""
    # A token is one character at least: only long texts need counting.
    if len(text) <= max_length:
        return ""
    count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return f"text too long: {count:,} tokens, model.max_length is {max_length:,}" if count > max_length else ""


def without_rows(
    table: RecordTable, splits: Splits, rows: Sequence[RowT], problems: Sequence[RowProblem]
) -> tuple[RecordTable, Splits, list[RowT]]:
    """Return table, splits and what was made of each row without those that have a problem."""
    dropped = {problem.row for problem in problems}
    kept = table.without(problems)
    remaining = [item for row, item in enumerate(rows) if row not in dropped]
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
