"""Crystal graphs with their line graphs: ours against the alignn package's two builders, in one process.

Both sides get parsed crystals and make all that a network takes: atom features, edges with vectors, pairs of edges with
the cosines of their angles. The peer makes that a crystal at a time, we for batches of 64. The sides take turns, and
each one's best pass over the crystals counts. Then the time an atom takes in ever larger cells. The ratios come last.

    python benchmarks/graphs.py [--crystals 200] [--give-back] [--quick]

The peer: pip install alignn==2026.8.11 (jarvis-tools comes with it), and dgl==1.1.3 for the classic line graph.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.atom_features import cgcnn_atom_features
from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.crystals import SYMBOLS, Crystal, make_crystal
from crystalfm.chem.graph_arrays import build_arrays
from crystalfm.run.parallel.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

BATCH_SIZE = 64
CLASSIC = GraphSettings()
CLASSIC_AS_ALIGNN = GraphSettings(as_alignn=True)
RELEASE = GraphSettings("radius", cutoff_angstrom=5.0, angle_cutoff_angstrom=3.5)
REPEATS = ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (5, 5, 5), (6, 6, 5), (7, 6, 6), (10, 10, 5))


@dataclass
class Side:
    """One way to build graphs.

    Attributes:
        name: its row in the table.
        build: makes the graphs and line graphs of all crystals.
        wall: best wall-clock seconds of a pass.
        cpu: best CPU seconds of a pass, less disturbed by other processes.
    """

    name: str
    build: Callable[[], object]
    wall: float = field(default=float("inf"))
    cpu: float = field(default=float("inf"))

    def run(self) -> None:
        """Do a pass over all crystals."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.build()
        self.wall = min(self.wall, time.perf_counter() - wall)
        self.cpu = min(self.cpu, time.process_time() - cpu)


def real_crystals(mirror: Path | None, count: int) -> tuple[list[Crystal], str]:
    """Return crystals of up to 20 atoms and where they are from: Materials Project where a mirror has it."""
    path = (mirror or Path()) / "mp" / "train.csv.gz"
    if mirror is None or not path.is_file():
        return made_up_crystals(count), "made up"
    from crystalfm.chem.crystal_io import crystal_from_text

    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [crystal_from_text(row["cif"], "cif") for row in islice(csv.DictReader(stream), count)], path.name


def made_up_crystals(count: int) -> list[Crystal]:
    """Return crystals of 2 to 20 atoms on a distorted grid, 15 cubic angstrom an atom."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        sizes = rng.integers(1, 3, 3) + np.array([0, 0, 1])
        grid = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1).reshape(-1, 3)
        coords = (grid + rng.uniform(-0.1, 0.1, grid.shape)) / sizes
        lattice = np.diag(sizes * 15 ** (1 / 3)) + rng.normal(scale=0.3, size=(3, 3))
        found.append(make_crystal(lattice, rng.integers(1, 90, len(grid)), coords))
    return found


def supercell(crystal: Crystal, repeats: tuple[int, int, int]) -> Crystal:
    """Return the crystal in a larger cell."""
    cells = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    coords = ((crystal.frac_coords + cells) / np.array(repeats)).reshape(-1, 3)
    return make_crystal(
        crystal.lattice * np.array(repeats)[:, None], np.tile(crystal.atomic_numbers, len(cells)), coords
    )


def ours(crystals: Sequence[Crystal], settings: GraphSettings) -> int:
    """Build graphs, atom features and angles by batches; return the number of triplets."""
    triplets = 0
    for start in range(0, len(crystals), BATCH_SIZE):
        batch = crystals[start : start + BATCH_SIZE]
        graph = settings.build(batch)
        first, second = settings.triplets(graph.source, graph.target, graph.vector)
        cosines = bond_cosines(graph.vector, first, second)
        features = cgcnn_atom_features()[np.concatenate([crystal.atomic_numbers for crystal in batch])]
        triplets += len(cosines) if len(features) == graph.num_atoms else 0
    return triplets


def bond_cosines(
    vector: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the cosine of the angle of each pair of edges (T,)."""
    unit = vector / np.sqrt(np.maximum(np.einsum("ei,ei->e", vector, vector), 1e-24))[:, None]
    return np.clip(-np.einsum("ti,ti->t", unit.take(first, axis=0), unit.take(second, axis=0)), -1, 1)


# --------------------------------------------------------------------------- the peer


def jarvis_atoms(crystal: Crystal) -> Any:
    """Return the crystal as the peer takes it."""
    from jarvis.core.atoms import Atoms

    elements = [SYMBOLS[number - 1] for number in crystal.atomic_numbers]
    return Atoms(lattice_mat=crystal.lattice, coords=crystal.frac_coords, elements=elements)


def classic(atoms: Any, dgl: Any) -> None:
    """Build the peer's classic graph; edges alone where DGL is missing."""
    from alignn.graphs import Graph, build_undirected_edgedata, nearest_neighbor_edges

    if dgl is not None:
        Graph.atom_dgl_multigraph(atoms, neighbor_strategy="k-nearest", cutoff=8, max_neighbors=12, use_canonize=True)
        return
    found = nearest_neighbor_edges(atoms=atoms, cutoff=8, max_neighbors=12, use_canonize=True)
    build_undirected_edgedata(atoms, found[0] if isinstance(found, tuple) else found)


def release(atoms: Any) -> None:
    """Build the graph and line graph of the peer's 2026 release."""
    from alignn.torch_graph_builder import build_pure_torch_graph

    build_pure_torch_graph(atoms, two_body_cutoff=5.0, three_body_cutoff=3.5)


def optional(name: str) -> Any:
    """Return a module, or ``None`` where it cannot be imported."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        return None


def peers(crystals: Sequence[Crystal]) -> dict[str, Side]:
    """Return the peer's sides that can run here, and say what cannot."""
    os.environ.setdefault("DGLBACKEND", "pytorch")
    if optional("alignn.graphs") is None:
        print("the alignn package is not installed (pip install alignn==2026.8.11): only our own times")
        return {}
    atoms = [jarvis_atoms(crystal) for crystal in crystals]
    dgl = optional("dgl")
    name = "alignn, k-nearest and DGL" if dgl is not None else "alignn, k-nearest, edges alone"
    if dgl is None:
        print("dgl is not installed (pip install dgl==1.1.3): the k-nearest path runs without its line graph")
    found = {"k-nearest": Side(name, lambda: [classic(one, dgl) for one in atoms])}
    if optional("alignn.torch_graph_builder") is None:
        print("this alignn has no pure-torch builder (pip install alignn==2026.8.11)")
        return found
    search = "pure torch" if optional("matscipy") is None else "matscipy and torch"
    found["radius"] = Side(f"alignn 2026, {search}", lambda: [release(one) for one in atoms])
    return found


# --------------------------------------------------------------------------- the two tables


def compare(crystals: Sequence[Crystal], passes: int) -> list[str]:
    """Print the times of all sides, and return the lines with the ratios."""
    mine = {
        "k-nearest": Side("ours, k-nearest", lambda: ours(crystals, CLASSIC)),
        "as alignn": Side("ours, k-nearest as alignn", lambda: ours(crystals, CLASSIC_AS_ALIGNN)),
        "radius": Side("ours, radius", lambda: ours(crystals, RELEASE)),
        "stored": Side("ours, k-nearest into arrays", lambda: build_arrays(crystals, CLASSIC)),
    }
    theirs = peers(crystals)
    for _ in range(passes):
        for side in (*mine.values(), *theirs.values()):
            side.run()
    print(f"\n{'graph + line graph':32s} {'ms a crystal':>13s} {'ms of CPU':>10s}")
    for side in (*mine.values(), *theirs.values()):
        print(f"{side.name:32s} {side.wall / len(crystals) * 1e3:13.3f} {side.cpu / len(crystals) * 1e3:10.3f}")
    return [
        f"ratio, {kind} graph: {side.wall / mine[kind].wall:.1f} ({side.cpu / mine[kind].cpu:.1f} in CPU time)"
        for kind, side in theirs.items()
    ]


def curve(crystal: Crystal, repeats: Sequence[tuple[int, int, int]], seconds: float) -> None:
    """Print the time an atom takes in supercells of a crystal."""
    print(f"\n{'atoms':>6s} {'edges':>8s} {'triplets':>9s} {'k-nearest':>10s} {'radius':>8s}   µs of CPU an atom")
    for repeat in repeats:
        large = supercell(crystal, repeat)
        graph = CLASSIC.build([large])
        times = [cpu_seconds(large, settings, seconds) / large.num_atoms * 1e6 for settings in (CLASSIC, RELEASE)]
        triplets = int(CLASSIC.num_triplets(graph).sum())
        print(f"{large.num_atoms:6d} {len(graph.source):8d} {triplets:9d} {times[0]:10.1f} {times[1]:8.1f}")


def cpu_seconds(crystal: Crystal, settings: GraphSettings, seconds: float) -> float:
    """Return the best time of a graph with its line graph, tried for some seconds."""
    best, start = float("inf"), time.process_time()
    while best == float("inf") or time.process_time() - start < seconds:
        begin = time.process_time()
        ours([crystal], settings)
        best = min(best, time.process_time() - begin)
    return best


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--mirror", type=Path, default=os.environ.get("CRYSTALFM_MIRROR"), help="folder with mp/")
    parser.add_argument("--give-back", action="store_true", help="for large cells: do not keep freed memory as runs do")
    parser.add_argument("--quick", action="store_true", help="few, made-up crystals")
    options = parser.parse_args()
    mirror = None if options.quick or options.mirror is None else Path(options.mirror)
    crystals, origin = real_crystals(mirror, 20 if options.quick else options.crystals)
    sizes = [crystal.num_atoms for crystal in crystals]
    print(f"{len(crystals)} crystals ({origin}), {np.mean(sizes):.1f} atoms on average, {max(sizes)} at most")
    ratios = compare(crystals, options.passes)
    small = min(crystals, key=lambda crystal: abs(crystal.num_atoms - 4))
    if not options.give_back:
        keep_freed_memory()
    curve(small, REPEATS[:3] if options.quick else REPEATS, 0.05 if options.quick else 0.5)
    print()
    print("\n".join(ratios) or "no ratio without the peer")


if __name__ == "__main__":
    main()
