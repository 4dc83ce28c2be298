"""Designing defects with a trained model: written, read back, scored, ranked, and compared with a random search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table
from rich.text import Text

from crystalfm.contracts import UserError
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.defects.grammar import DefectGrammar
from crystalfm.generation.defects.prompts import DefectPromptSettings
from crystalfm.io.files import write_json
from crystalfm.metrics.crystals.counts import Share
from crystalfm.metrics.defects import OPTIMISTIC, SAME_JUDGE
from crystalfm.metrics.scores import unit_symbol, with_unit
from crystalfm.report.tables import closing_panel, format_number
from crystalfm.run.designing.known import training_forms
from crystalfm.run.designing.outputs import CRYSTALS, REPORT, Design, report_of, write_crystals, write_tables
from crystalfm.run.designing.plan import make_design_plan
from crystalfm.run.designing.search import make_search, random_search
from crystalfm.run.designing.surrogate import load_surrogate
from crystalfm.run.folder import RunFolder
from crystalfm.run.generation.sampling_loop import write_samples
from crystalfm.run.generator_pages.designed import designed_page
from crystalfm.run.page import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from crystalfm.generation.sampling import Engine
    from crystalfm.generation.writer import CrystalWriter
    from crystalfm.run.designing.plan import DesignPlan

_NUM_PROBLEMS = 5
_NUM_SHOWN = 5


def design_defects(
    cfg: DictConfig, writer: CrystalWriter, engine: Callable[[], Engine], folder: Path, console: Console
) -> dict[str, float]:
    """Write ``cfg.n`` configurations and rank them by what the surrogate says.

    Args:
        cfg: checked configuration (``conf/generate.yaml``) with a checkpoint.
        writer: the model; its prompts are those of defects.
        engine: makes the engine that runs it.
        folder: folder of the results.
        console: where they are shown.

    Returns:
        shares of valid, allowed and different samples; with a surrogate and targets also of hits.

    Raises:
        UserError: something the user can mend.
    """
    settings = writer.prompts
    if not isinstance(settings, DefectPromptSettings):
        raise UserError("the model writes crystals, not defects of layers", remedy="give a run of data=2dmd")
    plan = make_design_plan(cfg, settings)
    surrogate = load_surrogate(cfg, plan.properties)
    cfg = _with_room(cfg, plan, writer)
    written = write_samples(cfg, plan, folder, console, engine, lambda done: _start_lines(cfg, plan, done))
    known, known_line = training_forms(cfg, plan.supercell)
    indices = [item.sample.index for item in written.samples]
    allowed = [item.configuration if item.good else None for item in written.samples]
    design = Design(
        plan,
        written.samples,
        make_search(allowed, plan, indices, surrogate),
        random_search(plan, len(indices), cfg.seed, surrogate),
        () if surrogate is None else surrogate.targets,
        known,
        cfg.tolerance,
        cfg.top,
    )
    report = report_of(design) | {
        "training": known_line,
        "surrogate": None if surrogate is None else surrogate.identity(),
        "checkpoint": written.checkpoint,
        "sampling": written.sampling | plan.identity() | {"prompt": plan.prompt(0)},
        "speed": written.speed,
    }
    return _conclude(cfg, design, folder, report, console)


def _with_room(cfg: DictConfig, plan: DesignPlan, writer: CrystalWriter) -> DictConfig:
    """Return the configuration with as many tokens as the longest answer that is asked for may take."""
    constraint = plan.constraint
    if not isinstance(constraint, DefectConstraint):
        return cfg
    needed = DefectGrammar(writer.tokenizer, plan.settings).needed_tokens(constraint, plan.max_defects)
    if needed <= cfg.max_new_tokens:
        return cfg
    found = OmegaConf.merge(cfg, {"max_new_tokens": needed})
    if not isinstance(found, DictConfig):
        raise TypeError("a configuration is a mapping")
    return found


def _conclude(
    cfg: DictConfig, design: Design, folder: Path, report: dict[str, Any], console: Console
) -> dict[str, float]:
    """Write and show the results."""
    report["num_cif_files"] = write_crystals(folder / CRYSTALS, design)
    files = write_tables(folder, design)
    write_json(folder / REPORT, report)
    pictures = _draw(design, folder / "figures", cfg.pictures)
    title = f"{cfg.name}: {report['num_samples']:,} samples, {_host(design.plan)}"
    console.print(_report_table(report, title=title))
    if design.generated.ranked():
        console.print(_best_table(design))
    if design.generated.errors:
        console.print(f"{SAME_JUDGE}\n{OPTIMISTIC}", style="dim", highlight=False, markup=False)
    console.print(closing_panel(folder, [*pictures, folder / CRYSTALS, *files, folder / REPORT]))
    run_folder = RunFolder(folder)
    publish(run_folder, lambda: designed_page(run_folder, design.plan.supercell), console)
    found = {name: report[name]["fraction"] for name in ("valid", "allowed", "unique")}
    if "design" in report:
        found["hits"] = report["design"]["generated"]["hits"]["fraction"]
        found["random_hits"] = report["design"]["random"]["hits"]["fraction"]
    return {name: float("nan") if value is None else float(value) for name, value in found.items()}


def _draw(design: Design, folder: Path, count: int) -> list[Path]:
    """Draw the best configurations, and what was asked for against what the surrogate says."""
    import numpy as np

    from crystalfm.report.defect_pictures import DesignedValues, design_plot, draw_configurations

    search, supercell = design.generated, design.plan.supercell
    # A configuration that is ranked for several targets is drawn once.
    best = list(dict.fromkeys(search.forms[place] for place in search.ranked()))[:count]
    chosen = [form for form in best if form is not None]
    files = []
    if chosen:
        titles = [_title(design, place) for place in map(search.forms.index, chosen)]
        files.append(draw_configurations(chosen, supercell, folder / "best.png", titles=titles))
    specs = {spec.name: spec for spec in design.specs}
    columns = [
        DesignedValues(
            specs[name],
            np.array([float(target[name]) for target in search.targets]),
            search.values[name],
            design.random.values[name],
        )
        for name in search.errors
    ]
    if columns:
        title = f"{_host(design.plan)}: {len(design.samples):,} samples"
        files.append(design_plot(columns, design.tolerance, folder / "targets.png", title=title))
    return files


def _title(design: Design, place: int) -> str:
    """Return the line above a drawn configuration: its defects, and what the surrogate says of what was asked for."""
    from crystalfm.report.defect_pictures import rule_label

    search = design.generated
    form = search.forms[place]
    lines = ["" if form is None else rule_label(form.type_name(design.plan.supercell))]
    units = {spec.name: unit_symbol(spec.unit) for spec in design.specs}
    values = [f"{name} {format_number(search.values[name][place])} {units[name]}".rstrip() for name in search.errors]
    return "\n".join([*lines, *values])


def _host(plan: DesignPlan) -> str:
    return f"{plan.supercell.host.name} [{', '.join(map(str, plan.supercell.size))}]"


def _start_lines(cfg: DictConfig, plan: DesignPlan, num_done: int) -> Text:
    first = plan.targets[0]
    asked = ", ".join(f"{name} {_values_of(name, plan.targets)}" for name in first) or "any defects"
    before = f", {num_done:,} of them from before" if num_done else ""
    rules = ", ".join(rule.name for rule in plan.rules)
    count = f"{plan.min_defects} to {plan.max_defects} defects"
    held = "" if plan.constrained else ", without the grammar"
    return Text(f"{cfg.n:,} samples{before}: {_host(plan)}, {rules}, {count}, asked for {asked}{held}, seed {cfg.seed}")


def _values_of(name: str, targets: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(dict.fromkeys(str(target[name]) for target in targets))


def _report_table(report: dict[str, Any], *, title: str) -> Table:
    """Return a table of shares, each with its numbers."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("of", justify="right")
    rows = {
        "valid: a configuration of the supercell": report["valid"],
        "allowed: the rules and numbers are kept": report["allowed"],
        "allowed and different under the layer's symmetry": report["unique"],
        "of the different ones not in the training part": report["novel"],
        "of the different ones with defects that it has together": report["of_known_types"],
    }
    for name, share in rows.items():
        _add_share(table, name, share)
    if "design" in report:
        table.add_section()
        for source, name in (("generated", "written"), ("random", "random")):
            score = report["design"][source]
            _add_share(table, f"{name}: within {report['design']['tolerance']} of the target", score["hits"])
            _add_share(table, f"{name}: different ones within", score["unique_hits"])
            _add_share(table, f"{name}: within, of the best by the surrogate", score["top_hits"])
        for source, name in (("generated", "written"), ("random", "random")):
            if count := report["design"]["unscored"][source]:
                table.add_row(Text(f"{name}: allowed, but nothing the surrogate knows"), "", f"{count:,}")
    table.add_section()
    for name, count in list(report["problems"].items())[:_NUM_PROBLEMS]:
        table.add_row(Text(f"rejected: {name}"), "", f"{count:,}")
    return table


def _add_share(table: Table, name: str, share: dict[str, Any] | None) -> None:
    if share is None:
        table.add_row(Text(name), "-", "not known")
        return
    found = Share(share["count"], share["total"])
    fraction = f"{found.fraction:.1%}" if found.total else "-"
    table.add_row(Text(name), fraction, f"{found.count:,} / {found.total:,}")


def _best_table(design: Design) -> Table:
    """Return the first ranked configurations."""
    search, supercell = design.generated, design.plan.supercell
    table = Table(box=box.SIMPLE_HEAD, title="the best", title_justify="left", pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("defects")
    shown = [spec for spec in design.specs if spec.name in search.values]
    for spec in shown:
        table.add_column(with_unit(spec.name, spec.unit), justify="right")
    if search.errors:
        table.add_column("worst error", justify="right")
    for rank, place in enumerate(search.ranked()[:_NUM_SHOWN], start=1):
        form = search.forms[place]
        name = "" if form is None else form.type_name(supercell)
        values = [format_number(float(search.values[spec.name][place])) for spec in shown]
        error = [format_number(float(search.worst[place]))] if search.errors else []
        table.add_row(str(rank), Text(name), *values, *error)
    return table
