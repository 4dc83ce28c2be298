"""Writing crystals with a trained model: from a configuration to CIF files, a table and a report."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from crystalfm.assets.progress import RichProgress
from crystalfm.io.files import write_json
from crystalfm.metrics.crystals.validity import composition_valid
from crystalfm.report.tables import closing_panel, next_steps, shown_path
from crystalfm.run.build import asset_store
from crystalfm.run.folder import RunFolder
from crystalfm.run.generation.engine import checkpoint_digest, make_engine, sampling_precision
from crystalfm.run.generation.ledger import Ledger
from crystalfm.run.generation.outputs import CRYSTALS, REPORT, report_of, write_crystals, write_tables
from crystalfm.run.generation.plan import JudgedSample, Plan, make_plan, sampling_settings
from crystalfm.run.generation.progress import SamplingProgress
from crystalfm.run.language.restore import restore_writer
from crystalfm.run.setup import resolved_config, seed_everything
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.generation.sampling import Engine, Sample

_SALT = ((11, 1), (17, 1))
_NUM_PROBLEMS = 5
_KEEP_SECONDS = 10.0
"""Longest time between two batches that are written to disk, as far as samples come."""


def generate(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Write ``cfg.n`` samples with the model of ``cfg.ckpt``.

    Args:
        cfg: checked configuration (``conf/generate.yaml``).
        run_dir: folder of the results; with ``cfg.resume`` that of the generation to go on with.

    Returns:
        shares of parsed, valid, and valid and different samples.

    Raises:
        UserError: something the user can mend.
    """
    quiet_lightning()
    seed_everything(cfg)
    console = run_console()
    composition_valid(_SALT)  # says what is not installed before anything is written
    settings = sampling_settings(cfg)
    writer = restore_writer(cfg.ckpt, asset_store(cfg, RichProgress(console)))
    plan = make_plan(cfg, writer.prompts)
    sampling = {name: value for name, value in asdict(settings).items() if name != "batch_size"}
    source = {"sha256": checkpoint_digest(cfg.ckpt)}
    how = {"engine": str(cfg.engine), "precision": sampling_precision(cfg)}
    ledger = Ledger(run_dir, plan.identity() | {"checkpoint": source, "sampling": sampling, **how})
    with ledger.opened(resume=cfg.resume is not None):
        judged = {index: plan.judge(sample) for index, sample in ledger.samples.items()}
        missing = ledger.missing(cfg.n)
        RunFolder(run_dir).write_config(resolved_config(cfg))
        console.print(_start_lines(cfg, plan, len(judged)))
        seconds = 0.0
        if missing:
            engine = make_engine(cfg, writer, run_dir)
            seconds = _sample(cfg, plan, engine, ledger, judged, missing, console)
    samples = [judged[index] for index in sorted(judged)]
    report = report_of(plan, samples)
    report["checkpoint"] = {"location": str(cfg.ckpt), **source}
    report["sampling"] = {**sampling, **how, "batch_size": settings.batch_size, "prompt": plan.prompt}
    report["sampling"] |= {"task": plan.task, "constraint": plan.identity()["constraint"]}
    report["speed"] = {
        "samples": len(missing),
        "seconds": seconds,
        "samples_per_second": len(missing) / seconds if seconds else None,
    }
    return _conclude(cfg, plan, run_dir, samples, report, console)


def _sample(
    cfg: DictConfig,
    plan: Plan,
    engine: Engine,
    ledger: Ledger,
    judged: dict[int, JudgedSample],
    missing: Sequence[int],
    console: Console,
) -> float:
    """Write what is missing, a batch at a time, and judge it; return the seconds it took."""
    waiting: list[Sample] = []
    num_valid = sum(item.validity.valid for item in judged.values())
    started = kept = time.monotonic()
    with SamplingProgress(console, cfg.n, len(judged), num_valid, enabled=cfg.progress_bar) as progress:
        try:
            for sample in engine.sample(plan.requests(missing), sampling_settings(cfg)):
                waiting.append(sample)
                judged[sample.index] = plan.judge(sample)
                progress.advance(valid=judged[sample.index].validity.valid)
                if len(waiting) >= cfg.batch_size or time.monotonic() - kept > _KEEP_SECONDS:
                    ledger.append(waiting)
                    waiting, kept = [], time.monotonic()
        finally:
            # Also after Ctrl-C or an error: what is written is kept.
            ledger.append(waiting)
            if len(judged) < cfg.n:
                hint = f"{len(judged):,} of {cfg.n:,} samples are kept; go on with resume={shown_path(ledger.folder)}"
                console.print(hint, style="yellow", highlight=False, markup=False, soft_wrap=True)
    return time.monotonic() - started


def _conclude(
    cfg: DictConfig,
    plan: Plan,
    folder: Path,
    samples: Sequence[JudgedSample],
    report: dict[str, Any],
    console: Console,
) -> dict[str, float]:
    """Write and show the results."""
    report["num_cif_files"] = write_crystals(folder / CRYSTALS, samples)
    files = write_tables(folder, plan, samples)
    write_json(folder / REPORT, report)
    pictures = _draw(samples, folder / "figures" / "crystals.png", cfg.pictures)
    console.print(report_table(report, title=f"{cfg.name}: {report['num_samples']:,} samples"))
    console.print(closing_panel(folder, [*pictures, folder / CRYSTALS, *files, folder / REPORT]))
    shown = shown_path(folder)
    if plan.gap is None:
        console.print(
            next_steps([f"python evaluate.py structures={shown} reference=mp stability=true"]), soft_wrap=True
        )
    return {
        name: float(report[name]["fraction"])
        for name in ("parsed", "structural_valid", "compositional_valid", "valid", "valid_unique")
    }


def _draw(samples: Sequence[JudgedSample], path: Path, count: int) -> list[Path]:
    """Draw the first valid crystals, of different formulas where there are enough."""
    from crystalfm.report.crystal_pictures import draw_crystals

    by_formula: dict[str, list[Any]] = {}
    for item in samples:
        if item.crystal is not None and item.validity.valid:
            by_formula.setdefault(item.crystal.formula, []).append(item.crystal)
    chosen = [crystals[0] for crystals in by_formula.values()]
    chosen += [crystal for crystals in by_formula.values() for crystal in crystals[1:]]
    return [draw_crystals(chosen[:count], path)] if chosen[:count] else []


def _start_lines(cfg: DictConfig, plan: Plan, num_done: int) -> Text:
    asked = ", ".join(f"{name} {value}" for name, value in plan.conditions.items()) or "any crystal"
    if plan.gap is not None:
        sites = len(plan.gap.sites)
        asked = f"another element for {plan.gap.element} ({sites} sites) in {plan.gap.crystal.formula}, {plan.gap.file}"
    before = f", {num_done:,} of them from before" if num_done else ""
    return Text(f"{cfg.n:,} samples{before}: {asked}; constraint {plan.constraint.kind}, seed {cfg.seed}")


def report_table(report: dict[str, Any], *, title: str) -> Table:
    """Return a table of shares, each with its numbers, and of the commonest problems."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("of", justify="right")
    rows = {
        "parsed": report["parsed"],
        "structurally valid": report["structural_valid"],
        "compositionally valid": report["compositional_valid"],
        "valid": report["valid"],
        "valid and different": report["valid_unique"],
        "different formulas, of the valid": report["formulas_among_valid"],
    }
    asked = report.get("conditions", {})
    rows |= {f"{name} as asked": asked[key] for key, name in _CONDITION_ROWS.items() if key in asked}
    for name, share in rows.items():
        fraction = "-" if share["fraction"] is None else f"{share['fraction']:.1%}"
        table.add_row(Text(name), fraction, f"{share['count']:,} / {share['total']:,}")
    table.add_section()
    for name, count in list(report["problems"].items())[:_NUM_PROBLEMS]:
        table.add_row(Text(f"rejected: {name}"), "", f"{count:,}")
    for name, count in list(report.get("answers", {}).items())[:_NUM_PROBLEMS]:
        table.add_row(Text(f"element {name}"), "", f"{count:,}")
    return table


_CONDITION_ROWS = {"formula": "formula", "spacegroup": "space group"}
