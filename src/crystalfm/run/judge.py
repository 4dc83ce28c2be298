"""Judging crystals: ``python evaluate.py structures=... reference=mp``, whoever made them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from crystalfm.assets.progress import RichProgress
from crystalfm.data.records import write_rejected
from crystalfm.io.files import write_json
from crystalfm.metrics.crystals.report import JudgeSettings, judge
from crystalfm.metrics.stability.relaxation import RelaxationSettings
from crystalfm.report.tables import closing_panel
from crystalfm.run.build import asset_store
from crystalfm.run.folder import RunFolder
from crystalfm.run.generator_pages.judged import judged_page
from crystalfm.run.judging.asked import conditions_table, judge_conditions
from crystalfm.run.judging.reference import load_reference
from crystalfm.run.judging.results import report_dict, sample_columns, write_judging_figures, write_sample_tables
from crystalfm.run.judging.samples import read_samples
from crystalfm.run.judging.stability import judge_stability
from crystalfm.run.page import publish
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.progress import progress_bar

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalfm.metrics.crystals.report import CrystalReport
    from crystalfm.run.judging.stability import JudgedStability

REPORT = "report.json"


def judge_structures(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Judge the crystals of ``cfg.structures`` and write tables, figures and ``report.json``.

    Args:
        cfg: checked configuration of ``evaluate.py``.
        run_dir: folder for the results.

    Returns:
        the shares of all samples by name.

    Raises:
        UserError: something the user can mend.
    """
    console = run_console()
    folder = RunFolder(run_dir)
    cache = Path(cfg.paths.cache).expanduser()
    samples = read_samples(Path(cfg.structures).expanduser())
    write_rejected(folder.rejected, samples.rejected)
    reference = load_reference(cfg, asset_store(cfg, RichProgress(console)))
    with progress_bar("fingerprints") as progress:
        report = judge(
            samples.crystals, reference.test, reference.train, cache=cache, settings=_settings(cfg), progress=progress
        )
    console.print(f"{samples.source}, reference {reference.name}", style="bold", highlight=False, soft_wrap=True)
    console.print(crystal_table(report))
    stability = None
    if cfg.stability:
        stability = judge_stability(samples, reference, cache, _relaxation(cfg), int(cfg.seed))
        console.print(_stability_heading(stability), style="bold", highlight=False, soft_wrap=True)
        console.print(stability_table(stability))
    conditions = judge_conditions(
        samples, Path(cfg.structures).expanduser(), stability, cfg.predictor, float(cfg.judging.symprec)
    )
    if conditions is not None:
        console.print(conditions_table(conditions))
    write_sample_tables(folder.root, sample_columns(samples, report, stability))
    content = report_dict(samples, reference, report, stability)
    content["conditions"] = None if conditions is None else conditions.as_dict()
    content["relaxation"] = dict(cfg.relaxation) if cfg.stability else None
    write_json(folder.root / REPORT, content)
    short = f"{Path(cfg.structures).name}, reference {reference.name}"
    files = write_judging_figures(folder.figures, samples, reference, report, stability, title=short)
    tables = [folder.root / name for name in (REPORT, "samples.parquet", "samples.csv", folder.rejected.name)]
    console.print(closing_panel(folder.root, [*files, *tables]))
    publish(folder, lambda: judged_page(folder), console)
    return _shares(report, stability)


def _settings(cfg: DictConfig) -> JudgeSettings:
    return JudgeSettings(
        fingerprints=bool(cfg.judging.fingerprints),
        fingerprint_novelty=bool(cfg.judging.fingerprint_novelty),
        jobs=cfg.judging.jobs,
        time_limit_seconds=float(cfg.judging.time_limit_seconds),
        symprec_angstrom=float(cfg.judging.symprec),
    )


def _relaxation(cfg: DictConfig) -> RelaxationSettings:
    return RelaxationSettings(**{item.name: cfg.relaxation[item.name] for item in fields(RelaxationSettings)})


def _shares(report: CrystalReport, stability: JudgedStability | None) -> dict[str, float]:
    found = {
        "valid": report.validity.valid.fraction,
        "unique": report.uniqueness.among_all.fraction,
        "valid_unique": report.valid_unique.fraction,
    }
    if report.novelty is not None:
        found["novel"] = report.novelty.among_all.fraction
    if stability is not None:
        found |= {name: share.fraction for name, share in stability.report.rows() if share is not None}
    return found


def crystal_table(report: CrystalReport) -> Table:
    """Return all figures of a report, each with what it was taken over."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure", style="bold")
    table.add_column("value", justify="right")
    table.add_column("of", overflow="fold")
    for row in report.rows():
        table.add_row(*row)
    return table


def _stability_heading(stability: JudgedStability) -> str:
    report = stability.report
    drawn = "" if report.num_judged == report.num_asked else ", drawn at random"
    hull = stability.hull
    fitted = f", {hull.num_fitted} elements fitted" if hull.num_fitted else ""
    return f"stability, {report.num_judged} of {report.num_asked} samples{drawn}; hull: {hull.source}{fitted}"


def stability_table(stability: JudgedStability) -> Table:
    """Return the counts of stable samples, each with its denominator, and why samples failed."""
    report = stability.report
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure", style="bold")
    table.add_column("value", justify="right")
    table.add_column("of")
    for name, share in report.rows():
        cells = (
            ("-", "no training set") if share is None else (f"{share.fraction:.1%}", f"{share.count} of {share.total}")
        )
        table.add_row(name, *cells)
    for reason, count in report.failures.items():
        table.add_row(f"failed: {reason}", f"{count / report.num_judged:.1%}", f"{count} of {report.num_judged}")
    return table
