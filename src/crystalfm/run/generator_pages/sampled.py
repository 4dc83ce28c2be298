"""The page of ``generate.py`` for crystals: what was asked, how much of it is valid, and the crystals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalfm.report.page.content import Card, Figure, FigureGroup, Gallery, GalleryRow, PageContent
from crystalfm.report.summary import environment_facts
from crystalfm.run.generator_pages.pieces import (
    NO_ROOM,
    NOT_READ,
    WRONG,
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
from crystalfm.run.page_facts import duration, environment_rows, rejected_rows, repeated_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.run.folder import RunFolder
    from crystalfm.run.generator_pages.pieces import Report, Row

_VALIDITY = {
    "parsed": ("read as a crystal", "samples"),
    "structural_valid": ("structurally valid", "samples"),
    "compositional_valid": ("compositionally valid", "samples"),
    "valid": ("valid: both", "samples"),
    "finished": ("written to the end", "samples"),
}
_SAMENESS = {
    "valid_unique": ("valid and different", "samples"),
    "unique_among_valid": ("different, of the valid", "valid samples"),
    "formulas_among_valid": ("different formulas, of the valid", "valid samples"),
}
_HEADLINE = {"valid": "valid", "valid_unique": "valid and different", "structural_valid": "structurally valid"}
_HEADLINE |= {"compositional_valid": "compositionally valid"}
_GROUPS = {
    "valid": "valid",
    "structural": "structurally valid",
    "compositional": "compositionally valid",
    "invalid": "not valid",
    "unread": "not read",
}
_HEADINGS = ("sample", "formula", "atoms", "valid", "structure", "composition", "log p", "tokens", "problem")
_NUM_ANSWERS = 12


def sampled_page(folder: RunFolder) -> PageContent:
    """Return what is on the page of a finished generation of crystals.

    Raises:
        OSError: a file cannot be read.
        KeyError: a file lacks something.
        ValueError: a file is malformed.
    """
    report = read_report(folder.root)
    rows = sorted(read_rows(folder.root / "samples.parquet"), key=_order)
    shown, note = first_rows(rows, "samples.csv")
    structures, left_out = crystals_of({str(row["index"]): (row["structure"], None) for row in shown})
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    return PageContent(
        title=f"{report['num_samples']:,} generated crystals",
        kind=f"sampling, {folder.root.name}",
        facts=sampling_facts(report, len(report.get("conditions", {}))),
        command=repeated_command(folder, "generate.py"),
        prompt=prompts[0] if len(prompts) == 1 else None,
        headline=[share_figure(name, report[key], "samples") for key, name in _HEADLINE.items()],
        figures=_figures(report),
        gallery=_gallery(shown, note, several_prompts=len(prompts) > 1),
        rejected=rejected_rows(folder.rejected),
        structures=structures,
        structures_left_out=left_out,
        environment=environment_rows(environment_facts()),
    )


def sampling_facts(report: Report, num_conditions: int = 0) -> dict[str, str]:
    """Return how samples were written, from ``report.json``; of what was asked for the number alone."""
    sampling, speed = report["sampling"], report["speed"]
    facts = {
        "checkpoint": report["checkpoint"]["location"],
        "weights (SHA-256)": (report["checkpoint"]["sha256"] or "")[:12],
        "task": {"generate": "crystals", "infill": "a hidden element", "defects": "defects"}.get(sampling["task"], ""),
        "constraint": str((sampling.get("constraint") or {}).get("kind", "")),
        "temperature": f"{sampling['temperature']:g}",
        "top-p": "" if sampling["top_p"] is None else f"{sampling['top_p']:g}",
        "top-k": "" if sampling["top_k"] is None else f"{sampling['top_k']}",
        "seed": str(sampling["seed"]),
        "engine": f"{sampling['engine']}, {sampling['precision']}",
        "time": f"{duration(speed['seconds'])}, {speed['samples_per_second']:.3g} samples a second",
    }
    if num_conditions:
        asked = report["conditions"]["asked"]
        facts["asked for"] = ", ".join(f"{name} {value}" for name, value in asked.items())
    return {name: value for name, value in facts.items() if value}


def _figures(report: Report) -> list[FigureGroup]:
    total = report["num_samples"]
    return filled(
        [
            share_group("Validity", report, _VALIDITY),
            share_group("Sameness", report, _SAMENESS),
            asked_group(report.get("conditions")),
            counts_group("Elements written", dict([*report.get("answers", {}).items()][:_NUM_ANSWERS]), total),
            counts_group(WRONG, report["problems"], total),
            FigureGroup("Writing", writing_figures(report)),
        ]
    )


def writing_figures(report: Report) -> list[Figure]:
    """Return figures of the texts: tokens and probabilities."""
    tokens = report["tokens"]
    return [
        number_figure("mean log-probability of a sample", report["mean_log_probability"], "nats"),
        number_figure("tokens written", tokens["written"]),
        share_figure("tokens without a choice", tokens["without_choice"], "tokens"),
    ]


def asked_group(conditions: Mapping[str, Any] | None) -> FigureGroup:
    """Return how far samples are from what was asked for; empty where nothing was."""
    conditions = conditions or {}
    found: list[Figure] = []
    for name, value in conditions.get("asked", {}).items():
        judged = conditions.get(name)
        label = f"{name.replace('_', ' ')} {value}"
        if judged is None:
            found.append(Figure(label, "\N{EN DASH}", "not measured: no predictor"))
        elif "fraction" in judged:
            found.append(share_figure(f"{label}, as asked", judged, "samples"))
        else:
            error, source = judged["mean_absolute_error"], judged["source"]
            of = f"eV, mean absolute error of {error['total']:,} of {judged['asked']:,}, by {source}"
            found.append(number_figure(label, error["value"], of))
    return FigureGroup("What was asked for", found)


def _order(row: Row) -> tuple[bool, bool, bool, int]:
    return not row["valid"], not row["structural_valid"], not row["parsed"], row["index"]


def _gallery(rows: Sequence[Row], note: str, *, several_prompts: bool) -> Gallery:
    listed = [_row(row, several_prompts=several_prompts) for row in rows]
    present = {key for row in listed for key in row.groups}
    headings = [*_HEADINGS, "prompt"] if several_prompts else list(_HEADINGS)
    cards = [Card(str(row["index"]), f"{row['num_atoms']} atoms") for row in different(r for r in rows if r["valid"])]
    order = "Valid samples first. Log-probabilities in nats."
    return Gallery(
        title="Crystals",
        headings=headings,
        rows=listed,
        groups={key: name for key, name in _GROUPS.items() if key in present},
        cards=cards,
        note=f"{order} {note}".strip(),
    )


def _row(row: Row, *, several_prompts: bool) -> GalleryRow:
    name = str(row["index"])
    cells = [
        row["index"],
        row["formula"] or "",
        row["num_atoms"],
        *(yes_no(row[key]) for key in ("valid", "structural_valid", "compositional_valid")),
        row["log_probability"],
        row["num_tokens"],
        row["problem"] or "",
    ]
    flags = {"valid": "valid", "structural": "structural_valid", "compositional": "compositional_valid"}
    groups = [key for key, column in flags.items() if row[column]]
    groups += ["invalid"] * (not row["valid"]) + ["unread"] * (not row["parsed"])
    told = f"sample {name}: {'valid' if row['valid'] else row['problem'] or 'not valid by its composition'}"
    absent = NO_ROOM if row["parsed"] else NOT_READ
    return GalleryRow(name, [*cells, row["prompt"]] if several_prompts else cells, told, groups, absent)
