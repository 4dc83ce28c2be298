"""The page of a design of defects: how many keep the rules and come near what was asked, and the best to turn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.defects.configurations import Configuration
from crystalfm.contracts import TargetSpec
from crystalfm.metrics.crystals.histograms import counts_in_bins
from crystalfm.metrics.scores import unit_symbol, with_unit
from crystalfm.report.page.content import Card, Distribution, Figure, FigureGroup, Gallery, GalleryRow, PageContent
from crystalfm.report.page.structures import crystal_structure, structures_within
from crystalfm.report.summary import environment_facts
from crystalfm.report.tables import format_number
from crystalfm.run.generator_pages.pieces import (
    NO_ROOM,
    NUM_CARDS,
    WRONG,
    counts_group,
    filled,
    first_rows,
    number_figure,
    read_report,
    read_rows,
    share_figure,
    share_group,
    yes_no,
)
from crystalfm.run.generator_pages.sampled import sampling_facts, writing_figures
from crystalfm.run.page_facts import environment_rows, rejected_rows, repeated_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.report.page.markup import Cell
    from crystalfm.report.page.structures import Structure
    from crystalfm.run.folder import RunFolder
    from crystalfm.run.generator_pages.pieces import Report, Row

_COUNTS = {
    "parsed": ("read as a configuration", "samples"),
    "valid": ("valid: of the supercell", "samples"),
    "allowed": ("allowed: rules and numbers are kept", "samples"),
    "unique": ("allowed and different", "samples"),
    "novel": ("not in the training part", "different ones"),
    "of_known_types": ("defects that it has together", "different ones"),
}
_HITS = {"hits": "within the tolerance", "unique_hits": "different ones within", "top_hits": "within, of the best"}
_SOURCES = {"generated": "written", "random": "random"}
_GROUPS = {"hit": "within the tolerance", "new": "not in the training part"}
_NUM_BINS = 40
_MAX_QUANTILE = 0.995


def designed_page(folder: RunFolder, supercell: Supercell) -> PageContent:
    """Return what is on the page of a finished design.

    Args:
        folder: its folder, with everything else written.
        supercell: the supercell that its defects are in.

    Raises:
        OSError: a file cannot be read.
        KeyError: a file lacks something.
        ValueError: a file is malformed.
    """
    report = read_report(folder.root)
    ranked = read_rows(folder.root / "ranked.parquet")
    shown, note = first_rows(ranked, "ranked.csv")
    found = {str(row["rank"]): _structure(row, supercell) for row in shown}
    structures, left_out = structures_within(found)
    surrogate = report["surrogate"] or {"targets": {}}
    specs = [TargetSpec(name, unit) for name, unit in surrogate["targets"].items()]
    size = ", ".join(map(str, supercell.size))
    return PageContent(
        title=f"{report['num_samples']:,} designs of defects in {supercell.host.name}",
        kind=f"design, {folder.root.name}",
        facts=_facts(report, f"{supercell.host.name} [{size}]", specs),
        command=repeated_command(folder, "generate.py"),
        prompt=_prompt(report),
        headline=_headline(report),
        figures=_figures(report),
        gallery=_gallery(shown, note, specs),
        distributions=_errors(folder, specs, report),
        rejected=rejected_rows(folder.rejected),
        structures=structures,
        structures_left_out=left_out,
        environment=environment_rows(environment_facts()),
    )


def _structure(row: Row, supercell: Supercell) -> Structure:
    """Return the unrelaxed layer with its changed sites marked."""
    configuration = Configuration.from_json(row["defects"])
    sites = [site for site, _ in configuration.defects]
    places = supercell.frac_coords[sites] @ supercell.lattice
    return replace(crystal_structure(configuration.crystal(supercell), marks=places), label=row["type"])


def _facts(report: Report, host: str, specs: Sequence[TargetSpec]) -> dict[str, str]:
    units = {spec.name: unit_symbol(spec.unit) for spec in specs}
    asked = [
        " and ".join(f"{name} {value:g} {units.get(name, '')}".rstrip() for name, value in target.items())
        for target in report["targets"]
    ]
    sampling = report["sampling"]
    facts = {"host": host, "asked for": "; ".join(one for one in asked if one) or "any defects"}
    facts |= {"rules": ", ".join(sampling["rules"]), "known": report["training"]}
    if report["surrogate"] is not None:
        facts["surrogate"] = ", ".join(run["location"] for run in report["surrogate"]["runs"])
    return facts | sampling_facts(report)


def _prompt(report: Report) -> str:
    prompt, number = str(report["sampling"]["prompt"]), len(report["targets"])
    return prompt if number == 1 else f"{prompt.rstrip()}\n\n(the first of {number}, which differ in their targets)"


def _headline(report: Report) -> list[Figure]:
    names = {"allowed": "allowed", "unique": "allowed and different"}
    found = [share_figure(name, report[key], "samples") for key, name in names.items()]
    if report["novel"] is not None:
        found.append(share_figure("new, of the different", report["novel"]))
    for source, name in _SOURCES.items():
        if "design" in report:
            hits = report["design"][source]["hits"]
            found.append(share_figure(f"{name}: within {report['design']['tolerance']:g}", hits))
    return found


def _figures(report: Report) -> list[FigureGroup]:
    groups = [share_group("Counts", report, _COUNTS)]
    design = report.get("design")
    if design is not None:
        groups += [_search(design, source, name) for source, name in _SOURCES.items()]
        groups += [_scores(name, found) for name, found in report["scores"]["properties"].items()]
    total = report["num_samples"]
    types = dict(sorted(report["types"].items(), key=lambda pair: -pair[1])[:NUM_CARDS])
    groups += [counts_group("Which defects", types, total), counts_group(WRONG, report["problems"], total)]
    groups.append(FigureGroup("Writing", writing_figures(report)))
    return filled(groups)


def _search(design: Mapping[str, Any], source: str, name: str) -> FigureGroup:
    score = design[source]
    figures = [share_figure(label, score[key]) for key, label in _HITS.items()]
    figures.append(number_figure("smallest error", score["best_error"]))
    title = f"Within {design['tolerance']:g} of the target: {name}"
    return FigureGroup(title, figures, design["note"] if source == "generated" else "")


def _scores(name: str, found: Mapping[str, Mapping[str, Any]]) -> FigureGroup:
    """Return errors of all samples; those of the best quarter look better whatever the model, and stay away."""
    figures = [
        number_figure(f"{label}: mean absolute error", found[source]["mae"], f"{found[source]['num']:,} configurations")
        for source, label in _SOURCES.items()
    ]
    return FigureGroup(f"{name}, against what was asked", figures)


def _gallery(rows: Sequence[Row], note: str, specs: Sequence[TargetSpec]) -> Gallery:
    shown = [spec for spec in specs if rows and spec.label in rows[0]]
    judged = bool(rows) and "error" in rows[0]
    headings = ["rank", "defects", *(with_unit(spec.name.replace("_", " "), spec.unit) for spec in shown)]
    headings += [*(["worst error", "within"] if judged else []), "new", "times", "sites"]
    listed = [_row(row, shown, judged=judged) for row in rows]
    present = {key for row in listed for key in row.groups}
    return Gallery(
        title="The best designs",
        headings=headings,
        rows=listed,
        groups={key: name for key, name in _GROUPS.items() if key in present},
        cards=[Card(str(row["rank"]), _card(row, shown)) for row in rows[:NUM_CARDS]],
        note=f"Unrelaxed; changed sites are marked. Values are the surrogate's. {note}".strip(),
    )


def _card(row: Row, specs: Sequence[TargetSpec]) -> str:
    """Return what the surrogate says of what was asked for; of the rest where nothing was."""
    asked = [spec for spec in specs if f"target_{spec.label}" in row] or specs
    return ", ".join(f"{format_number(row[spec.label])} {unit_symbol(spec.unit)}".rstrip() for spec in asked)


def _row(row: Row, specs: Sequence[TargetSpec], *, judged: bool) -> GalleryRow:
    cells: list[Cell] = [row["rank"], row["type"], *(row[spec.label] for spec in specs)]
    if judged:
        cells += [row["error"], yes_no(row["within_tolerance"])]
    new = None if row["known"] is None else not row["known"]
    cells += [yes_no(new), row["count"], row["sites"]]
    values = [
        f"{spec.name.replace('_', ' ')} {format_number(row[spec.label])} {unit_symbol(spec.unit)}" for spec in specs
    ]
    told = f"number {row['rank']}: {', '.join([*(value.rstrip() for value in values), row['formula']])}"
    groups = ["hit"] * bool(judged and row["within_tolerance"]) + ["new"] * bool(new)
    return GalleryRow(str(row["rank"]), cells, told, groups, NO_ROOM)


def _errors(folder: RunFolder, specs: Sequence[TargetSpec], report: Report) -> list[Distribution]:
    """Return how far different configurations are from what was asked for, beside random ones."""
    if "design" not in report:
        return []
    tables = {"samples": read_rows(folder.root / "ranked.parquet"), "random": read_rows(folder.root / "random.parquet")}
    found = []
    for spec in specs:
        column = f"error_{spec.label}"
        errors = {
            name: np.array([row[column] for row in rows if row.get(column) is not None], dtype=np.float64)
            for name, rows in tables.items()
        }
        both = np.abs(np.concatenate(list(errors.values())))
        if not both.size:
            continue
        edges = np.linspace(0.0, float(np.quantile(both, _MAX_QUANTILE)) or 1.0, _NUM_BINS + 1)
        series = {
            name: (counts_in_bins(np.abs(values), edges) / max(values.size, 1)).tolist()
            for name, values in errors.items()
        }
        counts = ", ".join(f"{values.size:,} {name}" for name, values in errors.items())
        found.append(
            Distribution(
                f"{spec.name.replace('_', ' ')}: distance from the target",
                series,
                edges=edges.tolist(),
                x_label=with_unit("distance", spec.unit),
                y_label="share of configurations",
                note=f"By the surrogate, different configurations: {counts}. The last bin holds what is beyond.",
            )
        )
    return found
