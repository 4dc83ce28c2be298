"""The page of judged crystals: validity, uniqueness, novelty, coverage, stability, and the crystals to turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.metrics.stability.sun import IMPLAUSIBLE_EV_PER_ATOM, METASTABLE_EV_PER_ATOM
from crystalfm.report.crystal_figures import HULL_EDGES
from crystalfm.report.page.content import Card, Distribution, Figure, FigureGroup, Gallery, GalleryRow, PageContent
from crystalfm.report.summary import environment_facts
from crystalfm.run.generator_pages.pieces import (
    NO_ROOM,
    NOT_READ,
    counts_group,
    crystals_of,
    different,
    filled,
    first_rows,
    number_figure,
    read_report,
    read_rows,
    share_figure,
    share_group,
    yes_no,
)
from crystalfm.run.generator_pages.sampled import asked_group
from crystalfm.run.page_facts import environment_rows, rejected_rows, repeated_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.report.page.markup import Cell
    from crystalfm.run.folder import RunFolder
    from crystalfm.run.generator_pages.pieces import Report, Row

_SOUND = "structurally valid samples"
_VALIDITY = {
    "parsed": ("readable", "samples"),
    "structurally_valid": ("structurally valid", "samples"),
    "compositionally_valid": ("compositionally valid", "samples"),
    "valid": ("valid: both", "samples"),
}
_SAMENESS = {
    "unique": ("unique, of the structurally valid", _SOUND),
    "unique_of_all": ("unique", "samples"),
    "valid_and_unique": ("valid and unique", "samples"),
    "distinct_formulas": ("different formulas", _SOUND),
    "novel": ("novel, of the structurally valid", _SOUND),
    "novel_of_all": ("novel", "samples"),
    "new_formulas": ("new formulas", _SOUND),
    "valid_unique_and_novel": ("valid, unique and novel", "samples"),
}
_COVERAGE = {
    "coverage_recall": ("coverage: recall", "references with a fingerprint"),
    "coverage_precision": ("coverage: precision", "samples"),
    "coverage_precision_of_fingerprinted": ("precision, with a fingerprint", "samples with a fingerprint"),
    "fingerprint_novel": ("novel by fingerprint", "samples with a fingerprint"),
    "fingerprint_novel_of_all": ("novel by fingerprint, of all", "samples"),
    "space_group_p1": ("without symmetry (P1)", f"{_SOUND} with a space group"),
}
_DISTANCES = {
    "density_wasserstein": ("distance of densities", "g/cm³, Wasserstein"),
    "num_elements_wasserstein": ("distance of numbers of elements", "Wasserstein"),
}
_DIVERSITIES = {"structure_diversity": "diversity of structures", "composition_diversity": "diversity of compositions"}
_STABILITY = {
    "relaxed": "relaxed",
    "stable": "stable: on or below the hull",
    "stable_unique": "stable, unique",
    "sun": "stable, unique, novel (S.U.N.)",
    "metastable": f"metastable: less than {METASTABLE_EV_PER_ATOM:g} eV/atom above",
    "metastable_unique": "metastable, unique",
    "metastable_sun": "metastable, unique, novel",
    "unique": "unique after the relaxation",
    "converged": "converged",
    "undefined": "no hull defined",
    "implausible": "implausibly low",
}
_GROUPS = {
    "sun": "stable, unique, novel",
    "stable": "stable",
    "metastable": "metastable, stable ones included",
    "implausible": "implausibly low in energy",
    "new": "valid, unique, novel",
    "valid": "valid",
    "invalid": "not valid",
    "unread": "not readable",
}
_RANKS = ("sun", "stable", "metastable", "relaxed", "new", "valid", "sound", "read")
"""What is listed first; what is implausibly low in energy comes last of the relaxed."""

_MEANING = (
    "Energies in eV/atom above the hull, after the relaxation; implausibly low ones come after the other relaxed ones. "
    "The columns unique and novel speak of the crystals as they were written."
)
_NOT_DRAWN = "not drawn"
_NUM_KINDS_OF_ELEMENTS = 9


def judged_page(folder: RunFolder) -> PageContent:
    """Return what is on the page of judged crystals.

    Raises:
        OSError: a file cannot be read.
        KeyError: a file lacks something.
        ValueError: a file is malformed.
    """
    report = read_report(folder.root)
    rows = sorted(read_rows(folder.root / "samples.parquet"), key=_order)
    shown, note = first_rows(rows, "samples.csv")
    texts = {row["id"]: (row["structure"], row.get("relaxed_structure")) for row in shown}
    structures, left_out = crystals_of(texts)
    return PageContent(
        title=f"{report['samples']['count']:,} crystals judged",
        kind=f"evaluation, {folder.root.name}",
        facts=_facts(report),
        command=repeated_command(folder, "evaluate.py"),
        headline=_headline(report),
        figures=_figures(report),
        gallery=_gallery(shown, note, report),
        distributions=[*_distributions(report), *_energies(rows, report)],
        data=_data(report),
        rejected=rejected_rows(folder.rejected),
        structures=structures,
        structures_left_out=left_out,
        environment=environment_rows(environment_facts()),
    )


def _facts(report: Report) -> dict[str, str]:
    crystals, stability = report["crystals"], report["stability"]
    facts = {
        "samples": report["samples"]["source"],
        "oxidation states": crystals["oxidation_states"],
        "space groups": f"within {crystals['settings']['symprec_angstrom']:g} Å",
    }
    tolerances = crystals["settings"]["tolerances"]
    facts["copies"] = (
        f"sites within {tolerances['site']:g}, lengths {tolerances['length']:g}, "
        f"angles {tolerances['angle_degrees']:g}°"
    )
    if stability is not None:
        drawn = "" if stability["judged"] == stability["asked"] else ", drawn at random"
        facts["relaxed"] = f"{stability['judged']:,} of {stability['asked']:,} samples{drawn}, by CHGNet"
        limits = report["relaxation"]
        facts["limits"] = f"{limits['steps']:,} steps, {limits['max_force']:g} eV/Å, {limits['time_limit_seconds']:g} s"
        hull = stability["hull"]
        fitted = f", {hull['elements_fitted']} elements fitted" if hull.get("elements_fitted") else ""
        facts["hull"] = f"{hull['source']}{fitted}"
    return facts


def _data(report: Report) -> dict[str, str]:
    reference = report["reference"]
    return {
        "reference": reference["name"],
        "content": reference["content_hash"][:12],
        "training crystals": f"{reference['train']:,}",
        "test crystals compared": f"{reference['test_compared']:,} of {reference['test']:,}",
    }


def _headline(report: Report) -> list[Figure]:
    crystals, stability = report["crystals"], report["stability"]
    names = {"valid": "valid", "unique_of_all": "unique", "novel_of_all": "novel"}
    names["valid_unique_and_novel"] = "valid, unique, novel"
    found = [share_figure(name, crystals[key], "samples") for key, name in names.items() if key in crystals]
    if stability is not None:
        wanted = {"stable": "stable", "metastable": "metastable", "sun": "stable, unique, novel"}
        found += [share_figure(name, stability[key], "relaxed") for key, name in wanted.items() if stability[key]]
    return [Figure(one.name, one.value, one.of.replace(" relaxed", " drawn")) for one in found]


def _figures(report: Report) -> list[FigureGroup]:
    crystals, stability = report["crystals"], report["stability"]
    coverage = share_group("Beside the reference", crystals, _COVERAGE)
    numbers = [
        number_figure(
            name,
            crystals[key]["value"],
            f"{of}; {crystals[key]['num_samples']:,} valid samples, {crystals[key]['num_references']:,} references",
        )
        for key, (name, of) in _DISTANCES.items()
        if key in crystals
    ]
    numbers += [
        number_figure(name, crystals[key]["value"], f"{crystals[key]['total']:,} valid samples")
        for key, name in _DIVERSITIES.items()
        if key in crystals
    ]
    groups = [
        share_group("Validity", crystals, _VALIDITY),
        share_group("Uniqueness and novelty", crystals, _SAMENESS),
        FigureGroup(coverage.title, [*coverage.figures, *numbers]),
        asked_group(report.get("conditions")),
    ]
    if stability is not None:
        groups.append(_stability(stability))
        groups.append(counts_group("Why others were not relaxed", stability["failures"], stability["judged"]))
    return filled(groups)


def _stability(stability: Mapping[str, Any]) -> FigureGroup:
    of = "samples drawn"
    shares = [share_figure(name, stability[key], of) for key, name in _STABILITY.items() if stability.get(key)]
    median = number_figure("median energy above the hull", stability["median_energy_above_hull"], "eV/atom")
    gained = number_figure("gained by the relaxation, mean", stability["mean_relaxation_energy"], "eV/atom")
    below = stability["implausible_below"]
    note = f"Implausibly low: below {below:g} eV/atom, where the calculator is more likely wrong than right."
    return FigureGroup("Stability", [*shares, median, gained], note.replace("-", "\N{MINUS SIGN}"))


def _marks(row: Row) -> list[str]:
    """Return the groups that a sample belongs to."""
    marks = []
    if row.get("stable") and row.get("relaxed_unique") and row.get("relaxed_novel"):
        marks.append("sun")
    marks += [key for key in ("stable", "metastable") if row.get(key)]
    marks += ["relaxed"] * (row.get("relaxation") == "relaxed")
    energy = row.get("energy_above_hull")
    marks += ["implausible"] * (energy is not None and energy < IMPLAUSIBLE_EV_PER_ATOM)
    marks += ["new"] * bool(row["valid"] and row["unique"] and row["novel"])
    marks += ["valid" if row["valid"] else "invalid"]
    marks += ["sound"] * bool(row["structural_valid"])
    return [*marks, "read" if row["parsed"] else "unread"]


def _order(row: Row) -> tuple[int, float]:
    marks = _marks(row)
    key = "relaxed" if "implausible" in marks else next((key for key in _RANKS if key in marks), "")
    energy = row.get("energy_above_hull")
    last = energy is None or "implausible" in marks
    return (*_RANKS, "").index(key), float("inf") if last or energy is None else energy


def _gallery(rows: Sequence[Row], note: str, report: Report) -> Gallery:
    relaxed = report["stability"] is not None
    listed = [_row(row, relaxed=relaxed) for row in rows]
    present = {key for row in listed for key in row.groups}
    headings = ["id", "formula", "atoms", *(["E above hull", "stable"] if relaxed else [])]
    headings += ["space group", "valid", "unique", "novel", "remark"]
    good = [row for row in rows if "implausible" not in _marks(row) and {"sun", "new", "valid"} & set(_marks(row))]
    cards = [Card(row["id"], _card(row)) for row in different(good)]
    order = (
        "Stable, unique and novel ones first, by their energy." if relaxed else "Valid, unique and novel ones first."
    )
    meaning = _MEANING if relaxed else ""
    return Gallery(
        title="Crystals",
        headings=headings,
        rows=listed,
        groups={key: name for key, name in _GROUPS.items() if key in present},
        cards=cards,
        note=" ".join(part for part in (order, meaning, note) if part),
    )


def _card(row: Row) -> str:
    energy = row.get("energy_above_hull")
    return f"{row['num_atoms']} atoms" if energy is None else f"{_signed(energy)} eV/atom"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _row(row: Row, *, relaxed: bool) -> GalleryRow:
    cells: list[Cell] = [row["id"], row["formula"] or "", row["num_atoms"]]
    if relaxed:
        cells += [row["energy_above_hull"], _stable(row)]
    cells += [row["space_group"], *(yes_no(row[key]) for key in ("valid", "unique", "novel")), _remark(row)]
    parts = ["valid" if row["valid"] else row["problem"] or "not valid"]
    if row["unique"] is False:
        parts.append(f"the same as {row['same_as']}")
    parts += ["novel"] * bool(row["novel"])
    if row.get("energy_above_hull") is not None:
        parts.append(f"{_signed(row['energy_above_hull'])} eV/atom above the hull")
    absent = NO_ROOM if row["parsed"] else NOT_READ
    return GalleryRow(row["id"], cells, f"{row['id']}: {', '.join(parts)}", _marks(row), absent)


def _stable(row: Row) -> Cell:
    if row["relaxation"] == _NOT_DRAWN:
        return None
    if "implausible" in _marks(row):
        return "implausible"
    return "stable" if row["stable"] else "metastable" if row["metastable"] else "no"


def _remark(row: Row) -> str:
    """Return what is wrong with a sample, or why it was not relaxed."""
    relaxation = row.get("relaxation")
    failed = "" if relaxation in {None, "relaxed", _NOT_DRAWN} else relaxation
    same = f"the same as {row['same_as']}" if row["unique"] is False else ""
    return str(row["problem"] or failed or same)


def _distributions(report: Report) -> list[Distribution]:
    crystals, known = report["crystals"], report.get("distributions", {})
    found = []
    if "density" in known:
        note = "The last bin holds what is above."
        series = _shares(known["density"])
        edges = known["density"]["edges"]
        found.append(Distribution("Density", series, edges=edges, x_label="density (g/cm³)", note=note))
    if "num_elements" in known:
        series = _shares(known["num_elements"])
        found.append(Distribution("Number of elements", *_few_kinds(series)))
    systems = {
        name: crystals[key]["systems"] for name, key in (("samples", "symmetry"), ("reference", "reference_symmetry"))
    }
    kinds = list(systems["reference"])
    counts = {name: [found[kind] for kind in kinds] for name, found in systems.items()}
    note = f"Within {crystals['symmetry']['symprec_angstrom']:g} Å; of structurally valid samples."
    found.append(Distribution("Crystal system", _shares(counts), kinds=kinds, note=note))
    return found


def _few_kinds(series: Mapping[str, Sequence[float]]) -> tuple[dict[str, list[float]], tuple[float, ...], list[str]]:
    """Return shares by number of elements, the large numbers together, without borders, and the names of the bins."""
    length = max(len(heights) for heights in series.values())
    few = min(length, _NUM_KINDS_OF_ELEMENTS)
    names = [str(number) for number in range(1, few + 1)]
    if length > few:
        names[-1] += " or more"
    return {name: [*heights[: few - 1], sum(heights[few - 1 :])] for name, heights in series.items()}, (), names


def _shares(counts: Mapping[str, Sequence[int]]) -> dict[str, list[float]]:
    found = {}
    for name in ("samples", "reference"):
        total = sum(counts[name]) or 1
        found[name] = [count / total for count in counts[name]]
    return found


def _energies(rows: Sequence[Row], report: Report) -> list[Distribution]:
    """Return how many samples lie how far above the hull; nothing where none was relaxed."""
    known = [row["energy_above_hull"] for row in rows if row.get("energy_above_hull") is not None]
    if report["stability"] is None or not known:
        return []
    energies = np.array(known, dtype=np.float64)
    stable, unstable = energies <= 0, energies >= METASTABLE_EV_PER_ATOM
    parts = {"stable": stable, "metastable": ~stable & ~unstable, "unstable": unstable}
    within = np.clip(energies, HULL_EDGES[0], HULL_EDGES[-1] - 1e-9)
    within[stable] = np.minimum(within[stable], -1e-9)  # on the hull is stable, and its bin lies below
    series = {name: np.histogram(within[part], HULL_EDGES)[0].tolist() for name, part in parts.items()}
    without = report["stability"]["judged"] - len(known)
    note = f"{len(known):,} relaxed samples; {without:,} more have no energy. The ends hold what is beyond."
    return [
        Distribution(
            "Energy above the hull, relaxed",
            series,
            edges=HULL_EDGES,
            x_label="energy above the hull (eV/atom)",
            y_label="samples",
            note=note,
        )
    ]
