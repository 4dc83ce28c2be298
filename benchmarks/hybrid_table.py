"""Test errors of many runs as Markdown: a row a property, a column a kind of model, mean and spread over seeds.

usage: python benchmarks/hybrid_table.py RUNS [RUNS ...] [--against gnn_only]

RUNS are folders with run folders somewhere below them (paths.runs of the trainings). A run's kind is its mode (or
model) with the descriptions it reads and their encoder; each of its baselines is a kind of its own. Of runs of one
kind, target and seed the newest counts. Nothing is computed but means and sample standard deviations of what the runs'
summary.json say, and no table is made of runs that were tested on different rows for the same seed. Seeds draw other
splits, so that kinds are to be compared seed by seed: ``--against`` adds a table of that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ORDER = ("mean", "xgboost", "scratch", "gnn_only", "llm_only", "hybrid", "paper", "fusion")
"""Order of the columns by the start of their heading; others come last."""

_HYBRID = ["crystal_graph", "description"]
OF_MODE = {
    "hybrid": _HYBRID,
    "paper": _HYBRID,
    "gnn_only": ["crystal_graph"],
    "scratch": ["crystal_graph"],
    "llm_only": ["description"],
    "fusion": [*_HYBRID, "composition"],
}
"""Modalities of each mode; a run with others says so in its heading."""

MISSING = 0.05
"""Share of a seed's test rows that a run may lack; ``max_rejected_fraction`` of the experiments."""


@dataclass(frozen=True)
class Result:
    """Test error of one model of one run.

    Attributes:
        target: name and unit.
        kind: heading of its column.
        seed: seed of the run.
        mae: mean absolute error on the test rows, in the target's unit.
        minutes: minutes of training, or ``None`` for a baseline.
        sizes: training, validation and test rows.
        test_rows: ids of the test rows.
        folder: run folder.
    """

    target: str
    kind: str
    seed: int
    mae: float
    minutes: float | None
    sizes: tuple[int, int, int]
    test_rows: frozenset[str]
    folder: Path


def kind_of(config: dict[str, Any]) -> str:
    """Return the heading for a run: its mode or model, and what its descriptions are and who reads them."""
    heading = str(config.get("mode") or config["model"]["name"])
    modalities = config["modalities"]
    usual = OF_MODE.get(heading, "auto")
    parts = [] if modalities in (usual, "auto") else [" + ".join(modalities)]
    if "description" in modalities and config["data"].get("description"):
        parts += [config["data"]["description"], config["encoders"]["description"]["name"]]
    if config.get("ensemble", 1) > 1:
        parts.append(f"{config['ensemble']} members")
    return f"{heading} ({', '.join(parts)})" if parts else heading


def read_run(folder: Path) -> list[Result]:
    """Return the results of a run, one a target and model; none for a run that has not finished."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    scores = summary.get("metrics", {}).get("test", {})
    files = (folder / "config.yaml", folder / "split.json")
    if not (summary.get("finished") and scores and all(file.is_file() for file in files)):
        return []
    config = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    test_rows = frozenset(map(str, json.loads(files[1].read_text(encoding="utf-8"))["test"]))
    sizes = summary["data"]["split_sizes"]
    own = summary["model"]["name"]
    return [
        Result(
            target=target if score["unit"] == "1" else f"{target} ({score['unit']})",
            kind=kind_of(config) if name == own else name,
            seed=int(summary["seed"]),
            mae=float(score["mae"]),
            minutes=summary["training"]["train_time_seconds"] / 60 if name == own else None,
            sizes=(sizes["train"], sizes["val"], sizes["test"]),
            test_rows=test_rows,
            folder=folder,
        )
        for name, per_target in scores.items()
        for target, score in per_target.items()
    ]


def collect(roots: list[Path]) -> list[Result]:
    """Return the results below the folders, the newest of each target, kind and seed."""
    newest: dict[tuple[str, str, int], Result] = {}
    # Folder names begin with the time, so that the last of a run's folders is the newest.
    for summary in sorted({file for root in roots for file in root.rglob("summary.json")}):
        for result in read_run(summary.parent):
            newest[result.target, result.kind, result.seed] = result
    return list(newest.values())


def different_tests(results: list[Result]) -> list[str]:
    """Say which runs of one target and seed were tested on other rows than the one with most of them.

    A run may lack ``MISSING`` of these: crystals that could not be described are in no run that reads descriptions.
    """
    found = []
    for result in results:
        alike = [other for other in results if (other.target, other.seed) == (result.target, result.seed)]
        whole = max(alike, key=lambda other: len(other.test_rows))
        few_missing = len(result.test_rows) >= (1 - MISSING) * len(whole.test_rows)
        if not (result.test_rows <= whole.test_rows and few_missing):
            where = f"{whole.folder} and {result.folder}"
            found.append(f"{result.target}, seed {result.seed}: other test rows in {where}")
    return found


def missing_note(results: list[Result]) -> str:
    """Return how many test rows the run that lacks most of them lacks, empty where none lacks any."""
    most: dict[tuple[str, int], int] = defaultdict(int)
    for result in results:
        most[result.target, result.seed] = max(most[result.target, result.seed], len(result.test_rows))
    missing = max(most[result.target, result.seed] - len(result.test_rows) for result in results)
    return f"\nUp to {missing} test rows of a seed are missing where descriptions are read.\n" if missing else ""


def mean_and_spread(values: list[float]) -> str:
    """Return ``mean ± standard deviation`` to three figures of the mean, and the number of values."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.3g} (1)"
    return f"{mean:.3g} ± {statistics.stdev(values):.2g} ({len(values)})"


def table(results: list[Result], *, minutes: bool) -> str:
    """Return the errors, or the minutes of training, as a Markdown table."""
    kinds = sorted({result.kind for result in results if not minutes or result.minutes is not None}, key=_place)
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    sizes: dict[str, tuple[int, int, int]] = {}
    for result in results:
        value = result.minutes if minutes else result.mae
        if value is not None:
            cells[result.target, result.kind].append(value)
        sizes.setdefault(result.target, result.sizes)
    lines = ["| target | train / val / test | " + " | ".join(kinds) + " |", "|---|---|" + "---:|" * len(kinds)]
    for target in sorted(sizes):
        row = [mean_and_spread(cells[target, kind]) if (target, kind) in cells else "" for kind in kinds]
        lines.append("| " + " | ".join([target, " / ".join(map(str, sizes[target])), *row]) + " |")
    return "\n".join(lines)


def compared(results: list[Result], against: str) -> str:
    """Return as Markdown how much larger the errors are than those of a kind with the same seed, in percent.

    Mean over seeds, its standard error, and the number of seeds.
    """
    errors = {(result.target, result.kind, result.seed): result.mae for result in results}
    kinds = sorted({result.kind for result in results} - {against}, key=_place)
    lines = ["| target | " + " | ".join(kinds) + " |", "|---|" + "---:|" * len(kinds)]
    for target in sorted({result.target for result in results}):
        row = [target]
        for kind in kinds:
            shares = [
                100 * (mae / errors[target, against, seed] - 1)
                for (of, name, seed), mae in errors.items()
                if (of, name) == (target, kind) and (target, against, seed) in errors
            ]
            row.append(_percent(shares))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _percent(values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:+.1f} (1)"
    return f"{mean:+.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f} ({len(values)})"


def _place(kind: str) -> tuple[int, str]:
    word = kind.partition(" ")[0]
    return ORDER.index(word) if word in ORDER else len(ORDER), kind


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; exit code 1 where there is nothing to show, or where test rows differ."""
    parser = argparse.ArgumentParser(description="Test errors of many runs as Markdown.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders with run folders below them")
    parser.add_argument("--against", help="kind (heading) with which the others are compared seed by seed")
    options = parser.parse_args(arguments)
    results = collect(options.runs)
    problems = different_tests(results) if results else ["no finished run with test rows"]
    kinds = sorted({result.kind for result in results}, key=_place)
    if not problems and options.against not in (None, *kinds):
        problems = [f"--against {options.against}: no such kind; there are: {', '.join(kinds)}"]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    print("Test MAE, mean ± sample standard deviation over seeds (number of seeds):\n")
    print(table(results, minutes=False))
    print(missing_note(results), end="")
    print("\nMinutes of training:\n")
    print(table(results, minutes=True))
    if options.against is not None:
        print(f"\nError beyond that of {options.against}, percent, mean ± standard error over seeds:\n")
        print(compared(results, options.against))
    return 0


if __name__ == "__main__":
    sys.exit(main())
