"""A whole training of ALIGNN: ours against the alignn package's own loop, on the same split, with the same sizes.

Formation energies of the Materials Project where CRYSTALFM_MIRROR has them, else made-up ones. Both sides train
``--layers`` + ``--layers`` layers of ``--width`` with layer norm on the package's radius graphs (5 angstrom, triplets
within 3.5; the bonds and triplets that are printed must agree), with AdamW, learning rate 1e-3, weight decay 1e-5, the
mean absolute error as loss and batches of ``--batch``. Each keeps its own ways otherwise: the package has its OneCycle
schedule, its LMDB of graphs and its last weights, we have warm-up, a cosine, scaled targets, clipped gradients and the
best weights. Its output is kept off the terminal. Errors and times come last.

    python benchmarks/alignn_training.py [--crystals 500] [--epochs 5] [--layers 4] [--width 256] [--precision 32-true]

By default the package keeps the nearest twelve bonds of an atom alone: ``--neighbors 12`` lets it, on its side.

The peer: pip install alignn==2026.8.11 lmdb; without it our side runs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crystalfm.chem.crystals import Crystal, make_crystal

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = "formation_energy_per_atom"
CUTOFF_ANGSTROM = 5.0
ANGLE_CUTOFF_ANGSTROM = 3.5
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """A crystal with its energy and the part of the split that it belongs to."""

    name: str
    part: str
    crystal: Crystal
    energy: float


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        mae: mean absolute error of the test crystals, in eV/atom.
        training: wall seconds of the epochs, validation included.
        total: wall seconds of everything: graphs, training, test.
        cpu: CPU seconds of everything, which other processes disturb less.
        bonds: directed bonds of all training crystals.
        triplets: their pairs of bonds.
    """

    mae: float
    training: float
    total: float
    cpu: float
    bonds: int
    triplets: int


def rows_of(count: int) -> tuple[list[Row], str]:
    """Return crystals, and where they are from."""
    if (Path(os.environ.get("CRYSTALFM_MIRROR", "")) / "mp" / "train.csv.gz").is_file():
        from crystalfm.assets.store import AssetStore
        from crystalfm.data.materials_project import MaterialsProject

        cache = os.environ.get("CRYSTALFM_CACHE", "~/.cache/crystalfm")
        store = AssetStore(cache, mirror=os.environ["CRYSTALFM_MIRROR"], offline=True)
        table = MaterialsProject(store=store, limit=count, targets=[TARGET]).load()
        if table.parts is None:
            raise SystemExit("the Materials Project's files have no official split")
        texts = [Crystal.from_json(str(text)) for text in table.fields["structure"]]
        columns = zip(table.ids.tolist(), table.parts.tolist(), texts, table.targets[:, 0].tolist(), strict=True)
        return [Row(*values) for values in columns], "mp"
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        numbers = rng.integers(3, 60, 2)
        lattice = np.eye(3) * rng.uniform(3.5, 5.0)
        crystal = make_crystal(lattice, numbers, [[0, 0, 0], rng.uniform(0.4, 0.6, 3)])
        part = PARTS[0] if number % 4 else PARTS[1 + number % 8 // 4]
        found.append(Row(f"made-{number}", part, crystal, float(-numbers.sum() / 40 + lattice[0, 0] / 4)))
    return found, "made up"


def write_tables(rows: list[Row], folder: Path) -> None:
    """Write the crystals as MP-20's files, whose split both sides then follow."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    folder.mkdir()
    for part in PARTS:
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["material_id", TARGET, "cif"])
            for row in rows:
                if row.part == part:
                    crystal = row.crystal
                    species = crystal.atomic_numbers.tolist()
                    structure = Structure(Lattice(crystal.lattice), species, crystal.frac_coords)
                    writer.writerow([row.name, repr(row.energy), str(CifWriter(structure, significant_figures=12))])


def ours(options: argparse.Namespace, rows: list[Row], tables: Path, folder: Path) -> Outcome:
    """Train with this framework."""
    from crystalfm.chem.crystal_graph import GraphSettings
    from crystalfm.chem.graph_arrays import build_arrays
    from crystalfm.config.compose import Composer
    from crystalfm.config.preflight import preflight
    from crystalfm.run.train import train

    encoder = {
        "strategy": "radius", "cutoff_angstrom": CUTOFF_ANGSTROM, "angle_cutoff_angstrom": ANGLE_CUTOFF_ANGSTROM,
        "alignn_layers": options.layers, "gcn_layers": options.layers, "hidden_features": options.width,
        "norm": "layer",
    }  # fmt: skip
    overrides = [
        "experiment=alignn_mp_formation_energy", "baselines=[]", f"data.path={tables}", "trainer=cpu",
        f"data.batch_size={options.batch}", f"trainer.max_epochs={options.epochs}", f"seed={options.seed}",
        f"trainer.precision={options.precision}", f"trainer.num_threads={options.threads}",
        f"paths.cache={folder / 'cache'}", f"paths.runs={folder}", "callbacks.progress_bar=false",
        *(f"encoders.crystal_graph.{key}={value}" for key, value in encoder.items()),
    ]  # fmt: skip
    with Composer("train") as composer:
        (cfg,) = preflight(composer, overrides)
    started, cpu_started = time.perf_counter(), time.process_time()
    metrics = train(cfg, folder / "run")
    total, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    settings = GraphSettings("radius", cutoff_angstrom=CUTOFF_ANGSTROM, angle_cutoff_angstrom=ANGLE_CUTOFF_ANGSTROM)
    graphs = build_arrays([row.crystal for row in rows if row.part == "train"], settings)
    return Outcome(
        metrics[f"test/mae_{TARGET}_eV_per_atom"], float(summary["training"]["train_time_seconds"]), total, cpu,
        int(graphs.num_edges.sum()), int(graphs.num_triplets.sum()),
    )  # fmt: skip


class Marked:
    """A loader of the peer that notes when it is first asked for a batch: its test begins when training has ended."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.dataset = loader.dataset
        self.first_asked = float("nan")

    def __iter__(self) -> Iterator[Any]:
        if np.isnan(self.first_asked):
            self.first_asked = time.perf_counter()
        return iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader)


def record(row: Row) -> dict[str, Any]:
    """Return a crystal as the peer reads it."""
    crystal = row.crystal
    lattice = np.asarray(crystal.lattice)
    from pymatgen.core import Element

    atoms = {
        "lattice_mat": lattice.tolist(), "coords": np.asarray(crystal.frac_coords).tolist(),
        "elements": [Element.from_Z(int(number)).symbol for number in crystal.atomic_numbers],
        "abc": np.linalg.norm(lattice, axis=1).tolist(), "angles": [90.0] * 3, "cartesian": False,
        "props": [""] * len(crystal.atomic_numbers),
    }  # fmt: skip
    return {"jid": row.name, "atoms": atoms, TARGET: row.energy}


def theirs(options: argparse.Namespace, rows: list[Row], folder: Path) -> Outcome:
    """Train with ``alignn.train.train_dgl`` and ``alignn_atomwise_pure``."""
    from alignn.config import TrainingConfig
    from alignn.data import get_train_val_loaders
    from alignn.train import train_dgl

    started, cpu_started = time.perf_counter(), time.process_time()
    counts = {part: sum(row.part == part for row in rows) for part in PARTS}
    ordered = [record(row) for part in PARTS for row in rows if row.part == part]
    graphs = {
        "target": TARGET, "neighbor_strategy": "pure_torch", "cutoff": CUTOFF_ANGSTROM,
        "three_body_cutoff": ANGLE_CUTOFF_ANGSTROM, "max_neighbors": options.neighbors,
        "n_train": counts["train"], "n_val": counts["val"],
        "n_test": counts["test"], "keep_data_order": True, "output_dir": str(folder), "pin_memory": False,
        "filename": str(folder / "graphs_"),
    }  # fmt: skip
    # The package leaves out a last batch that is not full, so that few validation crystals would be none.
    batch = min(options.batch, counts["val"], counts["train"])
    train_loader, val_loader, test_loader, prepare = get_train_val_loaders(
        dataset="user_data", dataset_array=ordered, batch_size=batch, workers=0, use_pure_torch=True, **graphs
    )
    test_loader = Marked(test_loader)
    config = TrainingConfig(
        dataset="user_data", batch_size=batch, epochs=options.epochs, learning_rate=1e-3, weight_decay=1e-5,
        num_workers=0, random_seed=options.seed, **graphs,
        model={
            "name": "alignn_atomwise_pure", "alignn_layers": options.layers, "gcn_layers": options.layers,
            "atom_input_features": 92, "hidden_features": options.width, "calculate_gradient": False,
            "gradwise_weight": 0.0, "lg_on_fly": False, "three_body_cutoff": ANGLE_CUTOFF_ANGSTROM,
        },
    )  # fmt: skip
    counting_started, cpu_counting_started = time.perf_counter(), time.process_time()
    graphs = [train_loader.dataset[place][:2] for place in range(counts["train"])]
    bonds, triplets = (sum(pair[kind].num_edges for pair in graphs) for kind in range(2))
    training_started = time.perf_counter()
    started += training_started - counting_started
    cpu_started += time.process_time() - cpu_counting_started
    train_dgl(config, train_val_test_loaders=[train_loader, val_loader, test_loader, prepare])
    ended, cpu_ended = time.perf_counter(), time.process_time()
    with (folder / "prediction_results_test_set.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    errors = [abs(float(line["target"]) - float(line["prediction"])) for line in lines]
    return Outcome(
        float(np.mean(errors)), test_loader.first_asked - training_started, ended - started, cpu_ended - cpu_started,
        bonds, triplets,
    )  # fmt: skip


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Keep what is printed off the terminal; where it ends in an error, the file ``log`` has it."""
    stream = io.StringIO()
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BaseException:
        log.write_text(stream.getvalue(), encoding="utf-8")
        raise


def main() -> None:
    """Train both, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--neighbors", type=int, help="of the package's graphs; all within the cut-off if not given")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--precision", nargs="+", choices=["32-true", "bf16-mixed"], default=["32-true", "bf16-mixed"],
        help="ours, one training each; the package trains in float32",
    )  # fmt: skip
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, source = rows_of(options.crystals)
    counts = ", ".join(f"{part} {sum(row.part == part for row in rows)}" for part in PARTS)
    print(f"{len(rows)} crystals ({source}): {counts}; {options.layers} + {options.layers} layers of {options.width}, "
          f"{options.epochs} epochs, batches of {options.batch}, {options.threads} threads", flush=True)  # fmt: skip
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = Path(tempfile.gettempdir()) / "alignn_training.log"
        write_tables(rows, folder / "tables")
        for precision in options.precision:
            options_of = argparse.Namespace(**{**vars(options), "precision": precision})
            with quiet(log):
                found[f"crystalfm, {precision}"] = ours(options_of, rows, folder / "tables", folder / precision)
        if find_spec("alignn") is not None and find_spec("lmdb") is not None:
            (folder / "peer").mkdir()
            with quiet(log):
                found["alignn"] = theirs(options, rows, folder / "peer")
    energies = {part: np.array([row.energy for row in rows if row.part == part]) for part in PARTS}
    mean_mae = np.abs(energies["test"] - energies["train"].mean()).mean()
    print(f"{'':24}{'test MAE':>12}{'training':>11}{'in all':>10}{'CPU':>10}{'bonds':>10}{'triplets':>11}")
    print(f"{'mean':24}{mean_mae:12.4f}")
    for name, outcome in found.items():
        times = f"{outcome.training:10.1f}s{outcome.total:9.1f}s{outcome.cpu:9.1f}s"
        print(f"{name:24}{outcome.mae:12.4f}{times}{outcome.bonds:10,}{outcome.triplets:11,}")
    if "alignn" not in found:
        print("no ratio without the peer: pip install alignn==2026.8.11 lmdb")
        return
    peer = found.pop("alignn")
    for name, outcome in found.items():
        print(
            f"ratio {name} over alignn: training {peer.training / outcome.training:.2f}x, "
            f"in all {peer.total / outcome.total:.2f}x (CPU {peer.cpu / outcome.cpu:.2f}x), "
            f"MAE {outcome.mae / peer.mae:.3f}"
        )


if __name__ == "__main__":
    main()
