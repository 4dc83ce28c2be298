"""What judging leaves behind: a row for each sample, a report, figures."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from crystalfm.io.files import atomic_write, write_text
from crystalfm.metrics.crystals.histograms import density_histogram, num_elements_histogram
from crystalfm.report.crystal_figures import distributions_plot, hull_plot, shares_plot
from crystalfm.run.judging.stability import NOT_DRAWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from crystalfm.chem.crystals import Crystal
    from crystalfm.metrics.crystals.counts import Share
    from crystalfm.metrics.crystals.report import CrystalReport
    from crystalfm.run.judging.reference import Reference
    from crystalfm.run.judging.samples import Samples
    from crystalfm.run.judging.stability import JudgedStability

Columns = dict[str, list[Any]]


def sample_columns(samples: Samples, report: CrystalReport, stability: JudgedStability | None) -> Columns:
    """Return the table of samples, a column each, ``None`` where something is not known.

    Energies are in eV/atom. ``same_as`` is the id of the first sample that is the same crystal. ``relaxation`` says
    why there is no relaxed structure, ``relaxed_unique`` and ``relaxed_novel`` speak of relaxed structures.
    ``structure`` and ``relaxed_structure`` are crystals as JSON with all digits.
    """
    reasons, judged = samples.reasons, report.validity.samples
    firsts = report.uniqueness.first_of
    columns: Columns = {
        "id": list(samples.ids),
        "parsed": [crystal is not None for crystal in samples.crystals],
        "problem": [reasons.get(name, "") for name in samples.ids],
        "formula": [None if crystal is None else crystal.formula for crystal in samples.crystals],
        "num_atoms": [None if crystal is None else crystal.num_atoms for crystal in samples.crystals],
        "structural_valid": [one.structural for one in judged],
        "compositional_valid": [one.compositional for one in judged],
        "valid": [one.valid for one in judged],
        "space_group": list(report.groups),
        "unique": [None if first is None else first == place for place, first in enumerate(firsts)],
        "same_as": [None if first is None else samples.ids[first] for first in firsts],
        "novel": [None] * len(firsts) if report.novelty is None else list(report.novelty.novel),
    }
    if stability is not None:
        columns |= _stability_columns(len(samples.ids), stability)
    columns["structure"] = [None if crystal is None else crystal.to_json() for crystal in samples.crystals]
    if stability is not None:
        relaxed = dict(zip(stability.drawn, stability.relaxed, strict=True))
        found = [relaxed.get(place) for place in range(len(samples.ids))]
        columns["relaxed_structure"] = [None if crystal is None else crystal.to_json() for crystal in found]
    return columns


def _stability_columns(num_samples: int, stability: JudgedStability) -> Columns:
    by_place = stability.by_place
    found = [by_place.get(place) for place in range(num_samples)]
    relaxed = [one if one is not None and not one.reason else None for one in found]
    return {
        "relaxation": [NOT_DRAWN if one is None else one.reason or "relaxed" for one in found],
        "converged": [None if one is None else one.converged for one in relaxed],
        "relaxation_energy": [None if one is None else one.relaxation_energy for one in relaxed],
        "energy_above_hull": [None if one is None else one.energy_above_hull for one in relaxed],
        "missing_elements": [None if one is None else " ".join(one.missing_elements) for one in relaxed],
        "stable": [None if one is None else one.stable for one in found],
        "metastable": [None if one is None else one.metastable for one in found],
        "relaxed_unique": [None if one is None else one.unique for one in relaxed],
        "relaxed_novel": [None if one is None else one.novel for one in relaxed],
    }


def write_sample_tables(folder: Path, columns: Columns) -> None:
    """Write ``samples.parquet`` and ``samples.csv``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(folder / "samples.parquet") as stream:
        pq.write_table(pa.table(columns), stream)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(folder / "samples.csv", buffer.getvalue())


def report_dict(
    samples: Samples, reference: Reference, report: CrystalReport, stability: JudgedStability | None
) -> dict[str, Any]:
    """Return the content of ``report.json``: every figure with its denominator, and what it was held against."""
    return {
        "samples": {"source": samples.source, "count": len(samples.ids), "unreadable": len(samples.rejected)},
        "reference": {
            "name": reference.name,
            "content_hash": reference.content_hash,
            "train": len(reference.train),
            "test": reference.num_test,
            "test_compared": len(reference.test),
        },
        "crystals": report.as_dict(),
        "distributions": _distributions(_valid_crystals(samples, report), reference),
        "stability": None if stability is None else stability.report.as_dict() | {"hull": stability.hull.as_dict()},
    }


def _valid_crystals(samples: Samples, report: CrystalReport) -> list[Crystal]:
    """Return the valid samples."""
    pairs = zip(samples.crystals, report.validity.samples, strict=True)
    return [crystal for crystal, judged in pairs if crystal is not None and judged.valid]


def _distributions(valid: Sequence[Crystal], reference: Reference) -> dict[str, Any]:
    """Return the counts that figures are drawn of."""
    found = {"density": density_histogram, "num_elements": num_elements_histogram}
    return {name: count(valid, reference.test).as_dict() for name, count in found.items()}


def write_judging_figures(
    folder: Path,
    samples: Samples,
    reference: Reference,
    report: CrystalReport,
    stability: JudgedStability | None,
    *,
    title: str,
) -> list[Path]:
    """Draw the figures and return their files."""
    valid = _valid_crystals(samples, report)
    files = [
        shares_plot(_share_groups(report, stability), folder / "shares.png", title=title),
        distributions_plot(
            valid,
            reference.test,
            report.symmetry,
            report.reference_symmetry,
            folder / "distributions.png",
            title=f"{title}: {len(valid):,} valid samples, {len(reference.test):,} reference crystals",
        ),
    ]
    if stability is not None:
        above = [one.energy_above_hull for one in stability.samples if one.energy_above_hull is not None]
        files.append(hull_plot(above, stability.report.num_judged, folder / "energy_above_hull.png", title=title))
    return files


def _share_groups(report: CrystalReport, stability: JudgedStability | None) -> list[Mapping[str, Share]]:
    """Return the shares of all samples that the first figure shows, by group."""
    validity = {
        "readable": report.validity.parsed,
        "structurally valid": report.validity.structural,
        "compositionally valid": report.validity.compositional,
        "valid": report.validity.valid,
    }
    sameness = {"unique": report.uniqueness.among_all, "valid, unique": report.valid_unique}
    if report.novelty is not None:
        sameness["novel"] = report.novelty.among_all
    if report.valid_unique_novel is not None:
        sameness["valid, unique, novel"] = report.valid_unique_novel
    groups: list[Mapping[str, Share]] = [validity, sameness]
    if stability is not None:
        left_out = {"converged", "no hull defined", "unique after relaxation"}
        rows = [(name, share) for name, share in stability.report.rows() if share is not None]
        groups.append({name: share for name, share in rows if name not in left_out})
    return groups
