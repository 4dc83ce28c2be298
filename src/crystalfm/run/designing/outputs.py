"""What a design leaves behind: a table of all samples, ranked tables, CIF files, a report, pictures."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.data.records import Rejection, write_rejected
from crystalfm.generation.defects.prompts import sublattices
from crystalfm.io.files import atomic_write, write_text
from crystalfm.metrics.crystals.counts import Share, plain
from crystalfm.metrics.crystals.structures import as_structure
from crystalfm.metrics.defects import OPTIMISTIC, SAME_JUDGE, count_defects, quarter_score

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.contracts import TargetSpec
    from crystalfm.run.designing.plan import DesignPlan, JudgedConfiguration
    from crystalfm.run.designing.search import Search

CRYSTALS = "crystals"
"""Folder of the CIF files."""

SAMPLES, RANKED, RANDOM = "samples", "ranked", "random"
"""Names of the tables, each as Parquet and CSV."""

REPORT = "report.json"

_SHOWN = 200
"""Longest text shown in ``rejected.csv``."""

Columns = dict[str, tuple[Any, list[Any]]]


@dataclass(frozen=True, eq=False)
class Design:
    """A finished design.

    Attributes:
        plan: what was asked.
        samples: what the model wrote.
        generated: its configurations that keep the rules, one place a sample.
        random: as many random ones.
        specs: what the surrogate predicts.
        known: training configurations in canonical form; ``None`` where they are not at hand.
        tolerance: largest error of a hit.
        top: how many of the best a search is also judged by.
    """

    plan: DesignPlan
    samples: list[JudgedConfiguration]
    generated: Search
    random: Search
    specs: tuple[TargetSpec, ...]
    known: frozenset[Configuration] | None
    tolerance: float
    top: int

    @cached_property
    def known_types(self) -> frozenset[str] | None:
        """Names of the combinations of defects in the training part; ``None`` where it is not at hand."""
        if self.known is None:
            return None
        return frozenset(form.type_name(self.plan.supercell) for form in self.known)


def placed_defects(configuration: Configuration, supercell: Supercell) -> str:
    """Return each defect with its place: ``v_S@S2(0,3)`` is in column 0, row 3 of the cells, on the second sulfur."""
    names, places = sublattices(supercell.host), supercell.places.tolist()
    rules = configuration.rules(supercell)
    shown = []
    for (site, _), rule in zip(configuration.defects, rules, strict=True):
        basis, column, row = places[site]
        shown.append(f"{rule.name}@{names[basis]}({column},{row})")
    return " ".join(shown)


def file_name(index: int, configuration: Configuration, supercell: Supercell) -> str:
    """Return the name of a sample's CIF file."""
    kind = configuration.type_name(supercell).replace(" ", "")
    return f"{index:06d}_{kind}.cif"


def write_crystals(folder: Path, design: Design) -> int:
    """Write a CIF of every different configuration, unrelaxed, and return how many there are."""
    from pymatgen.io.cif import CifWriter

    supercell, search = design.plan.supercell, design.generated
    firsts = sorted({first for first in search.first_of if first is not None})
    for place in firsts:
        configuration = search.configurations[place]
        if configuration is None:
            continue
        path = folder / file_name(design.samples[place].sample.index, configuration, supercell)
        if not path.is_file():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="No Pauling electronegativity")
                text = str(CifWriter(as_structure(configuration.crystal(supercell))))
            write_text(path, text)
    return len(firsts)


def write_tables(folder: Path, design: Design) -> list[Path]:
    """Write all samples, the ranked configurations, those of the random search, and what was rejected."""
    indices = [item.sample.index for item in design.samples]
    tables = {SAMPLES: sample_table(design), RANKED: ranked_table(design, design.generated, indices)}
    if design.generated.values:
        tables[RANDOM] = ranked_table(design, design.random, None)
    rejected = [
        Rejection(str(item.sample.index), item.detail, " ".join(item.sample.text[:_SHOWN].split()))
        for item in design.samples
        if item.problem
    ]
    write_rejected(folder / "rejected.csv", rejected)
    files = []
    for name, table in tables.items():
        files += _write(table, folder / name)
    return files


def sample_table(design: Design) -> pa.Table:
    """Return one row a sample."""
    samples, search, supercell = design.samples, design.generated, design.plan.supercell
    found = [item.configuration for item in samples]
    indices = [item.sample.index for item in samples]
    first = [None if place is None or place == row else indices[place] for row, place in enumerate(search.first_of)]
    columns: Columns = {
        "index": (_int(), indices),
        **_configuration_columns(found, supercell),
        "prompt": (_text(), [design.plan.prompt(index) for index in indices]),
        "text": (_text(), [item.sample.text for item in samples]),
        "parsed": (_bool(), [item.configuration is not None for item in samples]),
        "problem": (_text(), [item.problem or None for item in samples]),
        "allowed": (_bool(), [item.good for item in samples]),
        "equivalent_of": (_int(), first),
        **_known_columns(search.forms, design),
        **_value_columns(search, design, range(len(samples))),
        "num_tokens": (_int(), [item.sample.num_tokens for item in samples]),
        "num_forced": (_int(), [item.sample.num_forced for item in samples]),
        "log_probability": (_float(), [item.sample.log_probability for item in samples]),
        "finished": (_bool(), [item.sample.finished for item in samples]),
    }
    return _table(columns)


def ranked_table(design: Design, search: Search, indices: Sequence[int] | None) -> pa.Table:
    """Return one row for each different configuration and target, best first.

    Args:
        design: the design.
        search: the search.
        indices: number of each of its samples, for the names of their files; ``None`` where there are none.
    """
    order, supercell = search.ranked(), design.plan.supercell
    counts = Counter(search.keys)
    found = [search.configurations[place] for place in order]
    columns: Columns = {
        "rank": (_int(), list(range(1, len(order) + 1))),
        **({"index": (_int(), [indices[place] for place in order])} if indices is not None else {}),
        "count": (_int(), [counts[search.keys[place]] for place in order]),
        **_configuration_columns(found, supercell),
        **_value_columns(search, design, order),
        **_known_columns([search.forms[place] for place in order], design),
    }
    if indices is not None:
        # The file holds the first equivalent configuration, whatever that one was asked for.
        firsts = [search.first_of[place] for place in order]
        columns["file"] = (_text(), [_file_of(search, first, indices, supercell) for first in firsts])
    return _table(columns)


def _file_of(search: Search, place: int | None, indices: Sequence[int], supercell: Supercell) -> str | None:
    configuration = None if place is None else search.configurations[place]
    if place is None or configuration is None:
        return None
    return f"{CRYSTALS}/{file_name(indices[place], configuration, supercell)}"


def _configuration_columns(found: Sequence[Configuration | None], supercell: Supercell) -> Columns:
    name, size = supercell.host.name, json.dumps(list(supercell.size))
    formulas = [None if item is None else item.crystal(supercell).formula for item in found]
    return {
        "host": (_text(), [name] * len(found)),
        "size": (_text(), [size] * len(found)),
        "type": (_text(), [None if item is None else item.type_name(supercell) for item in found]),
        "sites": (_text(), [None if item is None else placed_defects(item, supercell) for item in found]),
        "defects": (_text(), [None if item is None else item.to_json() for item in found]),
        "formula": (_text(), formulas),
        "num_defects": (_int(), [None if item is None else len(item) for item in found]),
    }


def _value_columns(search: Search, design: Design, places: Sequence[int]) -> Columns:
    """Return what was asked for, what the surrogate says, the errors, and whether it is a hit."""
    labels = {spec.name: spec.label for spec in design.specs}
    columns: Columns = {}
    for name in design.plan.properties:
        asked = [float(search.targets[place][name]) for place in places]
        columns[f"target_{labels.get(name, name)}"] = (_float(), asked)
    for name, values in search.values.items():
        columns[labels[name]] = (_float(), _plain(values, places))
    for name, values in search.errors.items():
        columns[f"error_{labels[name]}"] = (_float(), _plain(values, places))
    if search.errors:
        columns["error"] = (_float(), _plain(search.worst, places))
        columns["within_tolerance"] = (_bool(), [bool(search.worst[place] <= design.tolerance) for place in places])
    return columns


def _plain(values: Any, places: Sequence[int]) -> list[float | None]:
    return [plain(float(values[place])) for place in places]


def _known_columns(forms: Sequence[Configuration | None], design: Design) -> Columns:
    """Return whether the training part has the configuration, and whether it has any with the same defects."""
    known, types, supercell = design.known, design.known_types, design.plan.supercell
    found: list[tuple[bool | None, bool | None]] = [(None, None)] * len(forms)
    for place, form in enumerate(forms):
        if form is not None and known is not None and types is not None:
            found[place] = form in known, form.type_name(supercell) in types
    return {name: (_bool(), [pair[at] for pair in found]) for at, name in enumerate(("known", "type_known"))}


def report_of(design: Design) -> dict[str, Any]:
    """Return the figures of a design, each share with what it is a share of."""
    samples, search = design.samples, design.generated
    every = [item.configuration for item in samples]
    forms = [item.configuration if form is None else form for item, form in zip(samples, search.forms, strict=True)]
    counts = count_defects(forms, [item.good for item in samples], design.plan.supercell, design.known)
    written, forced = (sum(getattr(item.sample, name) for item in samples) for name in ("num_tokens", "num_forced"))
    found: dict[str, Any] = {
        "num_samples": len(samples),
        "parsed": Share(sum(item is not None for item in every), len(every)).as_dict(),
        **counts.as_dict(),
        "of_known_types": _of_known_types(design),
        "finished": Share(sum(item.sample.finished for item in samples), len(samples)).as_dict(),
        "problems": dict(Counter(item.problem for item in samples if item.problem).most_common()),
        "tokens": {"written": written, "without_choice": Share(forced, written).as_dict()},
        "mean_log_probability": plain(
            math.fsum(item.sample.log_probability for item in samples) / len(samples) if samples else math.nan
        ),
        "targets": [dict(target) for target in design.plan.targets],
    }
    if search.errors:
        found["design"] = _searches(design)
        found["scores"] = _scores(design)
    return found


def _of_known_types(design: Design) -> dict[str, Any] | None:
    """Return how many different configurations have defects that the training part has together, too.

    Of others neither the model nor, as a rule, the surrogate has seen the like.
    """
    types = design.known_types
    if types is None:
        return None
    different = {form for form in design.generated.forms if form is not None}
    known = sum(form.type_name(design.plan.supercell) in types for form in different)
    return Share(known, len(different)).as_dict()


def _searches(design: Design) -> dict[str, Any]:
    searches = {"generated": design.generated, "random": design.random}
    return {
        "tolerance": design.tolerance,
        "top": design.top,
        **{name: search.score(design.tolerance, design.top).as_dict() for name, search in searches.items()},
        "unscored": {
            name: sum(
                form is not None and not math.isfinite(worst)
                for form, worst in zip(search.forms, search.worst.tolist(), strict=True)
            )
            for name, search in searches.items()
        },
        "note": SAME_JUDGE,
    }


def _scores(design: Design) -> dict[str, Any]:
    """Return the scores of the talk with those of all samples, for the model and for random configurations."""
    found: dict[str, Any] = {}
    for name in design.generated.errors:
        for source, search in (("generated", design.generated), ("random", design.random)):
            asked = np.array([float(target[name]) for target in search.targets])
            found.setdefault(name, {})[source] = quarter_score(asked, search.values[name]).as_dict()
    return {"properties": found, "note": OPTIMISTIC}


def _write(table: pa.Table, path: Path) -> list[Path]:
    from pyarrow import csv, parquet

    files = [path.with_suffix(".parquet"), path.with_suffix(".csv")]
    with atomic_write(files[0]) as stream:
        parquet.write_table(table, stream)
    with atomic_write(files[1]) as stream:
        csv.write_csv(table, stream)
    return files


def _table(columns: Columns) -> pa.Table:
    import pyarrow as pa

    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})


def _int() -> pa.DataType:
    import pyarrow as pa

    return pa.int64()


def _float() -> pa.DataType:
    import pyarrow as pa

    return pa.float64()


def _text() -> pa.DataType:
    import pyarrow as pa

    return pa.string()


def _bool() -> pa.DataType:
    import pyarrow as pa

    return pa.bool_()
