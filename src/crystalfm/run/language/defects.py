"""Defects of a data set as examples of a language model."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystals import Crystal
from crystalfm.chem.defects.hosts import Host
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.chem.molecules import RowProblem
from crystalfm.contracts import UserError
from crystalfm.data.crystal_texts import MODALITY, CrystalTextStore
from crystalfm.data.records import enforce_rejection_limit
from crystalfm.generation.defects.answers import write_answer
from crystalfm.generation.defects.examples import DefectExamples
from crystalfm.generation.defects.prompts import PROPERTIES, DefectPromptSettings
from crystalfm.generation.wording import grammar_of
from crystalfm.run.language.prepare import DEFECTS, TextSettings, asked_conditions, texts_with, too_long, without_rows
from crystalfm.run.prepare import PreparedData, load_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omegaconf import DictConfig

    from crystalfm.chem.defects.rules import DefectRule
    from crystalfm.data.dataset import Dataset
    from crystalfm.data.records import RecordTable


def defect_text_settings(model: Mapping[str, Any], answer: str, dataset: Dataset) -> TextSettings[DefectPromptSettings]:
    """Read the settings of the node ``model``; hosts and rules are those of the data.

    Args:
        model: node of a ``CrystalLLM``.
        answer: ``edits`` or ``full``.
        dataset: the data set.

    Raises:
        UserError: a setting is out of range, or a property is asked for that the data do not know.
    """
    table = dataset.load()
    known = np.isfinite(table.targets)
    given = {target.name for column, target in enumerate(table.target_specs) if known[:, column].any()}
    asked = asked_conditions(model, PROPERTIES, [name for name in PROPERTIES if name in given])
    hosts, rules = _hosts_and_rules(read_records(table))
    prompts = DefectPromptSettings(
        hosts=hosts,
        rules=rules,
        answer="full" if answer == "full" else "edits",
        properties=tuple(asked),
        max_properties=model["max_conditions"],
        move=model["translate"],
        coord_digits=model["coord_digits"],
    )
    return texts_with(model, prompts)


def prepare_defects(
    cfg: DictConfig,
    dataset: Dataset,
    texts: TextSettings[DefectPromptSettings],
    tokenizer: Any,
    *,
    all_rows: bool = False,
) -> PreparedData:
    """Load, split and word the configurations; those of unknown hosts or with too long texts are rejected.

    Args:
        cfg: configuration with ``data``, ``seed`` and ``max_rejected_fraction``.
        dataset: the data set.
        texts: how its configurations are worded.
        tokenizer: tokenizer of the language model.
        all_rows: put every row into the test part instead of splitting.

    Raises:
        UserError: too many rows or all were rejected, or the tokenizer does not fit the grammar.
    """
    limit = float(cfg.max_rejected_fraction)
    table, _, splits = load_table(dataset, [MODALITY], max_rejected_fraction=limit, all_rows=all_rows, fitted=True)
    prompts = texts.prompts
    records = read_records(table)
    problems = _unwritable(records, texts, tokenizer)
    if problems and len(problems) == len(records):
        _refuse_lengths(records, texts, tokenizer)
    if problems:
        table, splits, records = without_rows(table, splits, records, problems)
        enforce_rejection_limit(table.rejected, len(table) + len(table.rejected), limit)
    source = DefectExamples(records, _properties(table), prompts)
    features = CrystalTextStore(
        source,
        tokenizer,
        pack_length=texts.pack_length,
        learn=texts.learn,
        seed=cfg.seed,
        grammar=grammar_of(prompts, tokenizer),
    )
    sizes = "; ".join(f"{host.name} {list(host.default_size)}" for host in prompts.hosts)
    notes = {
        "texts": f"answer={prompts.answer}, {features.costs.mean():.0f} tokens with the prompt,"
        f" {features.costs.max():,} at most",
        "hosts": sizes,
        "properties": ", ".join(prompts.properties) or "none",
    }
    return PreparedData(dataset, table, splits, [MODALITY], {}, {MODALITY: features}, notes)


def read_records(table: RecordTable) -> list[DefectRecord]:
    """Return the configuration of each row."""
    return [DefectRecord.from_json(text or "") for text in table.fields[DEFECTS]]


def _hosts_and_rules(records: Sequence[DefectRecord]) -> tuple[tuple[Host, ...], dict[str, tuple[DefectRule, ...]]]:
    """Return the hosts, each with its most frequent size, and what is done to their sites, by name.

    Raises:
        UserError: a host has two different unit cells.
    """
    cells: dict[str, str] = {}
    sizes: dict[str, Counter[tuple[int, int, int]]] = {}
    rules: dict[str, set[DefectRule]] = {}
    for record in records:
        if cells.setdefault(record.host, record.cell) != record.cell:
            raise UserError(
                f"the data have two different unit cells of {record.host}",
                remedy="train on one part of the release (data.density=low or data.path=FOLDER)",
            )
        sizes.setdefault(record.host, Counter())[record.size] += 1
        rules.setdefault(record.host, set()).update(record.rules)
    hosts = tuple(
        Host(name, Crystal.from_json(cells[name]), sizes[name].most_common(1)[0][0]) for name in sorted(cells)
    )
    return hosts, {name: tuple(sorted(rules[name])) for name in sorted(cells)}


def _unwritable(
    records: Sequence[DefectRecord], texts: TextSettings[DefectPromptSettings], tokenizer: Any
) -> list[RowProblem]:
    """Return the rows whose host the wording does not know, or whose answer is too long."""
    known = {host.name for host in texts.prompts.hosts}
    problems = []
    for row, record in enumerate(records):
        reason = f"unknown host: {record.host}" if record.host not in known else ""
        answer = "" if reason else write_answer(record.configuration, record.supercell, texts.prompts)
        reason = reason or too_long(answer, texts.max_length, tokenizer)
        if reason:
            problems.append(RowProblem(row, reason, f"{record.host} {record.type_name}"))
    return problems


def _refuse_lengths(records: Sequence[DefectRecord], texts: TextSettings[DefectPromptSettings], tokenizer: Any) -> None:
    """Name the length that would do, where every answer is too long.

    Raises:
        UserError: the answers are too long.
    """
    known = {host.name for host in texts.prompts.hosts}
    answers = [
        write_answer(each.configuration, each.supercell, texts.prompts) for each in records if each.host in known
    ]
    longest = max((len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers), default=0)
    if longest > texts.max_length:
        raise UserError(
            f"answer={texts.prompts.answer} has up to {longest:,} tokens, model.max_length is {texts.max_length:,}",
            remedy=f"model.max_length={longest}, or answer=edits",
        )


def _properties(table: RecordTable) -> list[dict[str, float]]:
    """Return what is known of each row, by name."""
    names = [target.name for target in table.target_specs]
    return [dict(zip(names, values, strict=True)) for values in table.targets.tolist()]
