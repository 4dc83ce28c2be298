"""Writing crystals, or defects of layers, with a trained model: from a configuration to files and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from crystalfm.assets.progress import RichProgress
from crystalfm.contracts import UserError
from crystalfm.generation.defects.prompts import DefectPromptSettings
from crystalfm.io.files import write_json
from crystalfm.metrics.crystals.validity import composition_valid
from crystalfm.report.tables import closing_panel, next_steps, shown_path
from crystalfm.run.build import asset_store
from crystalfm.run.designing.design import design_defects
from crystalfm.run.designing.known import newest_generator
from crystalfm.run.exporting.hub import local_folder
from crystalfm.run.folder import RunFolder
from crystalfm.run.generation.engine import make_engine
from crystalfm.run.generation.outputs import CRYSTALS, REPORT, report_of, write_crystals, write_tables
from crystalfm.run.generation.plan import JudgedSample, Plan, make_plan, sampling_settings
from crystalfm.run.generation.sampling_loop import write_samples
from crystalfm.run.generator_pages.sampled import sampled_page
from crystalfm.run.language.restore import restore_writer
from crystalfm.run.page import publish
from crystalfm.run.setup import resolved_config, seed_everything
from crystalfm.run.tracking.console import run_console
from crystalfm.run.tracking.quiet import quiet_lightning
from crystalfm.run.tracking.wandb_job import TrackedJob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from omegaconf import DictConfig
    from rich.console import Console

_SALT = ((11, 1), (17, 1))
_NUM_PROBLEMS = 5


def generate(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Write ``cfg.n`` samples with the model of ``cfg.ckpt``.

    Args:
        cfg: checked configuration (``conf/generate.yaml``).
        run_dir: folder of the results; with ``cfg.resume`` that of the generation to go on with.

    Returns:
        shares of parsed, valid, and valid and different samples; see ``design_defects`` for those of defects.

    Raises:
        UserError: something the user can mend.
    """
    job = TrackedJob("generate", cfg, run_dir)
    console = run_console()
    metrics = _generate(cfg, run_dir, console)
    job.send(resolved_config(cfg), metrics, [cfg.ckpt], console)
    return metrics


def _generate(cfg: DictConfig, run_dir: Path, console: Console) -> dict[str, float]:
    """Write and show samples; see ``generate``. The checkpoint that is found is put into ``cfg``."""
    quiet_lightning()
    seed_everything(cfg)
    if cfg.ckpt is not None:
        cfg.ckpt = local_folder(cfg.ckpt, offline=bool(cfg.paths.offline))
    cfg.ckpt = newest_generator(cfg)
    sampling_settings(cfg)  # says what is out of range before the model is read
    writer = restore_writer(cfg.ckpt, asset_store(cfg, RichProgress(console)))
    if isinstance(writer.prompts, DefectPromptSettings):
        return design_defects(cfg, writer, lambda: make_engine(cfg, writer, run_dir), run_dir, console)
    _refuse_defect_settings(cfg)
    composition_valid(_SALT)  # says what is not installed before anything is written
    plan = make_plan(cfg, writer.crystal_prompts)
    written = write_samples(
        cfg,
        plan,
        run_dir,
        console,
        lambda: make_engine(cfg, writer, run_dir),
        lambda done: _start_lines(cfg, plan, done),
    )
    report = report_of(plan, written.samples)
    report["checkpoint"] = written.checkpoint
    report["sampling"] = written.sampling | {"prompt": plan.prompt, "task": plan.task}
    report["sampling"]["constraint"] = plan.identity()["constraint"]
    report["speed"] = written.speed
    return _conclude(cfg, plan, run_dir, written.samples, report, console)


def _refuse_defect_settings(cfg: DictConfig) -> None:
    """Refuse what is not asked of crystals.

    Raises:
        UserError: names the key.
    """
    asked = [key for key in ("rules", "size", "surrogate") if cfg[key] is not None]
    if cfg.condition.host is not None:
        asked.append("condition.host")
    if asked:
        raise UserError(
            f"{', '.join(asked)}: {cfg.ckpt} writes crystals, and this is asked of a model of defects",
            remedy="give a run of model=crystal_llm data=2dmd",
        )


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
    run_folder = RunFolder(folder)
    publish(run_folder, lambda: sampled_page(run_folder), console)
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
