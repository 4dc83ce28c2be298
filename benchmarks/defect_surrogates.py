"""Cross-validated errors of surrogates of 2DMD's pilot as Markdown: R² and MAE by target and model.

usage: python benchmarks/defect_surrogates.py RUNS [--folds 5] [--by random|type] [--models mean,catboost,alignn]
       [--hybrid] [--epochs 100] [--targets homo,lumo] [--only-table] [-- KEY=VALUE ...]

Rows are dealt into folds, all copies of a configuration (``random``) or all rows of a combination of defects (``type``)
into the same one. Each fold is the test part of a run of ``train.py`` each, a tenth of the other rows validates (by
``type``: drawn from the same types as the training rows). Classical models see the modality ``defects``; ``alignn`` the
sparse graph of the defects; ``hybrid`` ALIGNN-FF's frozen vector of the whole cell beside a frozen text encoder's of
the description that is composed of facts (``data.description=chemnlp``). Runs lie below RUNS; finished ones are not
repeated.

MAE and R² are given as mean ± sample standard deviation over the folds; R² of all rows, each predicted by the run that
did not see it, stands beside. By ``type`` it stands alone: the rows of a type differ so little that R² of a fold of one
or two types says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crystalfm.data.records import RecordTable

TARGETS = ("formation_energy_per_site", "homo", "lumo", "homo_lumo_gap")
CLASSICAL = ("mean", "catboost", "xgboost")
NETWORKS = ("alignn", "hybrid")
TRAIN = Path(__file__).resolve().parents[1] / "train.py"


def load_table() -> RecordTable:
    """Return the records of the pilot, from ``CRYSTALFM_CACHE`` or ``CRYSTALFM_MIRROR``."""
    from crystalfm.assets.store import AssetStore
    from crystalfm.data.twodmd import TwoDMD

    cache = Path(os.environ.get("CRYSTALFM_CACHE", "~/.cache/crystalfm")).expanduser()
    mirror = os.environ.get("CRYSTALFM_MIRROR")
    store = AssetStore(cache, mirror=Path(mirror) if mirror else None)
    return TwoDMD(store=store, targets=list(TARGETS)).load()


def deal(groups: NDArray[np.int64], num_folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the fold (N,) of each row: groups in random order, large ones first, each into the smallest fold.

    Args:
        groups: (N,) rows of one number stay together.
        num_folds: number of folds, at most that of the groups.
        rng: source of chance.
    """
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < num_folds:
        raise SystemExit(f"{len(names)} groups of rows do not make {num_folds} folds")
    order = rng.permutation(len(names))
    fold_of_group = np.empty(len(names), dtype=np.int64)
    sizes = np.zeros(num_folds, dtype=np.int64)
    for group in sorted(order.tolist(), key=lambda number: -counts[number]):
        fold = int(sizes.argmin())
        fold_of_group[group] = fold
        sizes[fold] += counts[group]
    return fold_of_group[inverse]


def kinds(table: RecordTable) -> NDArray[np.int64]:
    """Return the number (N,) of each row's combination of defects."""
    from crystalfm.chem.defects.records import DefectRecord

    names = [DefectRecord.from_json(str(text)).type_name for text in table.fields["defects"]]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def write_folds(table: RecordTable, folder: Path, by: str, num_folds: int, seed: int) -> list[Path]:
    """Write a split file a fold, and return them."""
    from crystalfm.data.splits import Splits, write_splits

    rng = np.random.default_rng(seed)
    folds = deal(kinds(table) if by == "type" else table.groups, num_folds, rng)
    files = []
    for fold in range(num_folds):
        rest = np.flatnonzero(folds != fold)
        tenths = deal(table.groups[rest], 10, rng)
        splits = Splits(train=rest[tenths != 0], val=rest[tenths == 0], test=np.flatnonzero(folds == fold))
        files.append(folder / f"{by}-{num_folds}-{seed}-{fold}.json")
        write_splits(files[-1], table, splits, seed=seed)
    return files


def settings_of(model: str, classical: list[str], epochs: int) -> list[str]:
    """Return the overrides of a network's run; the classical models are fitted beside it, or one of them alone."""
    shared = ["scheduler=cosine", "trainer=cpu", f"trainer.max_epochs={epochs}", "data.batch_size=16"]
    if model == "alignn":
        own = ["model=alignn", "modalities=[defect_graph]", "model.loss=mae", "optimizer.lr=3e-3"]
        return [*own, *shared, f"baselines=[{','.join(classical)}]"]
    if model == "hybrid":
        return ["mode=hybrid", "data.description=chemnlp", *shared]
    others = ",".join(name for name in classical if name != model)
    return [f"model={model}", *(["modalities=[defects]"] if model != "mean" else []), f"baselines=[{others}]"]


def train(runs: Path, name: str, overrides: list[str]) -> None:
    """Run ``train.py`` unless a finished run of this name is there."""
    if any(json.loads(file.read_text())["finished"] for file in (runs / name).glob("*/summary.json")):
        return
    command = [sys.executable, str(TRAIN), f"name={name}", f"paths.runs={runs}", "data=2dmd", *overrides]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        sys.stderr.write(finished.stdout[-2000:] + finished.stderr[-2000:])
        raise SystemExit(f"{name} failed: {' '.join(command)}")


def scores(runs: Path, names: list[str]) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Return the test scores of each target and model, a fold each."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for name in names:
        summaries = [json.loads(file.read_text()) for file in sorted((runs / name).glob("*/summary.json"))]
        summary = next(one for one in reversed(summaries) if one["finished"])
        for model, of_targets in summary["metrics"]["test"].items():
            for target, score in of_targets.items():
                found.setdefault((target, model.partition(" ")[0]), []).append(score)
    return found


def table_of(found: dict[tuple[str, str], list[dict[str, float]]], spreads: dict[str, float], by: str) -> str:
    """Return the scores as Markdown.

    Args:
        found: scores by target and model.
        spreads: sum of squared differences of all rows from their mean, by target.
        by: how rows were dealt; R² over the folds is given for ``random``.
    """
    order = [*CLASSICAL, *NETWORKS]
    lines = ["| target | model | MAE (meV) | R², folds | R², all rows |", "|---|---|---:|---:|---:|"]
    for target in dict.fromkeys(target for target, _ in found):
        for model in sorted({model for of, model in found if of == target}, key=order.index):
            folds = found[target, model]
            mae = _mean_and_spread([1000 * fold["mae"] for fold in folds], ".0f")
            r2 = _mean_and_spread([fold["r2"] for fold in folds], ".3f") if by == "random" else ""
            whole = 1 - sum(fold["mse"] * fold["num_rows"] for fold in folds) / spreads[target]
            lines.append(f"| {target} | {model} | {mae} | {r2} | {whole:.3f} |")
    return "\n".join(lines)


def _mean_and_spread(values: list[float], form: str) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} ± {spread:{form}}"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options, with what follows ``--`` as overrides of every run."""
    parser = argparse.ArgumentParser(description="Cross-validated errors of surrogates of 2DMD's pilot.")
    parser.add_argument("runs", type=Path, help="folder for split files and runs")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--by", choices=["random", "type"], default="random")
    parser.add_argument("--models", default="mean,catboost,xgboost,alignn", help="of mean, catboost, xgboost, alignn")
    parser.add_argument("--hybrid", action="store_true", help="also the hybrid, in runs of its own")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--only-table", action="store_true", help="only tell of the runs that are there")
    given = sys.argv[1:] if arguments is None else arguments
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    options.overrides = given[end + 1 :]
    return options


def main(arguments: list[str] | None = None) -> int:
    """Train, and print the table."""
    options = parsed(arguments)
    table = load_table()
    names = [target.name for target in table.target_specs]
    targets = options.targets.split(",")
    models = options.models.split(",")
    classical = [name for name in CLASSICAL if name in models]
    first = "alignn" if "alignn" in models else next((name for name in reversed(classical)), None)
    kinds_of_run = [*([first] if first else []), *(["hybrid"] if options.hybrid else [])]
    options.runs.mkdir(parents=True, exist_ok=True)
    runs = options.runs.resolve()
    files = write_folds(table, runs, options.by, options.folds, options.seed)
    done: list[str] = []
    for model in kinds_of_run:
        for file in files:
            name = f"{model}-{file.stem}"
            done.append(name)
            if not options.only_table:
                wanted = f"data.targets=[{','.join(targets)}]"
                overrides = [wanted, f"data.split_file={file}", *settings_of(model, classical, options.epochs)]
                train(runs, name, [*overrides, *options.overrides])
    columns = {name: table.targets[:, names.index(name)] for name in targets}
    spreads = {name: float(((values - values.mean()) ** 2).sum()) for name, values in columns.items()}
    print(f"{len(table)} rows, {options.folds} folds by {options.by}:\n")
    print(table_of(scores(runs, done), spreads, options.by))
    return 0


if __name__ == "__main__":
    sys.exit(main())
