"""A training step of ALIGNN: ours against the alignn package's pure-torch class and its DGL class, in one process.

All networks have 4 + 4 layers, 256 wide, and see the same batch of crystals and graphs. A step is forward pass,
backward pass and optimizer step. The sides take turns, and each one's best step counts: wall-clock time, and CPU time,
which other processes disturb less. Peak memory is what a step adds at most to a process of its own. Ratios come last.

    python benchmarks/alignn_step.py [--crystals 64] [--steps 3] [--threads N] [--graphs radius] [--quick]

``--graphs k_nearest`` are the paper's, ``radius`` those of the package's release of 2026: 5 angstrom, triplets of bonds
within 3.5.

The peers: pip install alignn==2026.8.11 dgl==1.1.3; without them our side runs alone.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import multiprocessing
import os
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crystalfm.chem.atom_features import cgcnn_atom_features
from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.chem.crystals import Crystal, make_crystal
from crystalfm.chem.graph_arrays import build_arrays
from crystalfm.data.crystal_features import CrystalGraphStore
from crystalfm.encoders.alignn import ALIGNN, CrystalBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

QUICK_WIDTH = 16
GRAPHS = {
    "k_nearest": GraphSettings(as_alignn=True),
    "radius": GraphSettings(strategy="radius", cutoff_angstrom=5.0, angle_cutoff_angstrom=3.5),
}


@dataclass
class Side:
    """A network and how to call it.

    Attributes:
        name: its row in the table.
        network: the network.
        predict: returns predictions (B,).
        autocast: whether its steps run in bfloat16.
        step: best wall and CPU seconds of a training step.
        inference: best wall and CPU seconds of a prediction.
    """

    name: str
    network: nn.Module
    predict: Callable[[], Tensor]
    autocast: bool = False
    step: tuple[float, float] = (float("inf"), float("inf"))
    inference: tuple[float, float] = (float("inf"), float("inf"))
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        """Set the optimizer up."""
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-5)

    def train(self) -> None:
        """Take a step towards zero."""
        self.network.train()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            prediction = self.predict()
        prediction.float().square().mean().backward()
        self.optimizer.step()

    def infer(self) -> None:
        """Predict."""
        self.network.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            self.predict()

    def measure(self) -> None:
        """Time a step and a prediction."""
        self.step = tuple(map(min, self.step, timed(self.train)))
        self.inference = tuple(map(min, self.inference, timed(self.infer)))


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def crystals_of(count: int) -> tuple[list[Crystal], str]:
    """Return crystals and where they are from: Materials Project where CRYSTALFM_MIRROR has it."""
    path = Path(os.environ.get("CRYSTALFM_MIRROR", "")) / "mp" / "train.csv.gz"
    if path.is_file():
        from crystalfm.chem.crystal_io import crystal_from_text

        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return [crystal_from_text(row["cif"], "cif") for row in islice(csv.DictReader(stream), count)], "mp"
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        grid = np.stack(np.meshgrid([0, 1], [0, 1], np.arange(rng.integers(1, 5)), indexing="ij"), -1).reshape(-1, 3)
        sizes = grid.max(axis=0) + 1
        coords = (grid + rng.uniform(-0.1, 0.1, grid.shape)) / sizes
        found.append(make_crystal(np.diag(sizes * 15 ** (1 / 3)), rng.integers(1, 90, len(grid)), coords))
    return found, "made up"


def batch_of(crystals: list[Crystal], strategy: str) -> CrystalBatch:
    """Return the graphs of the crystals as one batch."""
    settings = GRAPHS[strategy]
    rows = np.arange(len(crystals))
    graphs = build_arrays(crystals, settings)
    store = CrystalGraphStore(
        "crystal_graph", np.ones(len(rows), dtype=bool), graphs=graphs, index=rows, settings=settings
    )
    return CrystalBatch.from_batch(store.gather(rows))


def table() -> Tensor:
    """Return the features of the elements."""
    return torch.tensor(cgcnn_atom_features())


def ours(batch: CrystalBatch, width: int, norm: Any, *, autocast: bool) -> Side:
    """Return our side."""
    network = ALIGNN(table(), hidden_features=width, norm=norm)
    name = f"crystalfm, {norm} norm, {'bf16' if autocast else 'fp32'}"
    return Side(name, network, lambda: network(batch).prediction[:, 0], autocast)


def pure(batch: CrystalBatch, width: int) -> Side:
    """Return ``alignn_atomwise_pure``."""
    from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig
    from alignn.torch_graph_builder import TorchGraph

    config = ALIGNNAtomWisePureConfig(
        name="alignn_atomwise_pure", alignn_layers=4, gcn_layers=4, atom_input_features=92, hidden_features=width,
        gradwise_weight=0, calculate_gradient=False, lg_on_fly=False,
    )  # fmt: skip
    network = ALIGNNAtomWisePure(config)
    graph = TorchGraph(
        src=batch.edge_source, dst=batch.edge_target, num_nodes=len(batch.atomic_numbers),
        ndata={"atom_features": table()[batch.atomic_numbers]}, edata={"r": batch.edge_vector},
        batch_num_nodes=batch.num_atoms, batch_num_edges=batch.num_edges,
    )  # fmt: skip
    line = TorchGraph(
        src=batch.triplet_first, dst=batch.triplet_second, num_nodes=len(batch.edge_source),
        edata={"h": batch.cosines()},
    )  # fmt: skip
    return Side("alignn_atomwise_pure, fp32", network, lambda: network((graph, line, None))["out"])


def classic(batch: CrystalBatch, width: int) -> Side:
    """Return the classic class over DGL."""
    import dgl
    from alignn.models import alignn as peer

    network = peer.ALIGNN(peer.ALIGNNConfig(name="alignn", hidden_features=width))
    graph = dgl.graph((batch.edge_source, batch.edge_target), num_nodes=len(batch.atomic_numbers))
    graph.ndata["atom_features"] = table()[batch.atomic_numbers]
    graph.edata["r"] = batch.edge_vector
    graph.set_batch_num_nodes(batch.num_atoms)
    graph.set_batch_num_edges(batch.num_edges)
    line = dgl.graph((batch.triplet_first, batch.triplet_second), num_nodes=len(batch.edge_source))
    line.edata["h"] = batch.cosines()
    return Side("alignn with dgl, fp32", network, lambda: network((graph, line, None)))


def builders() -> dict[str, Callable[[CrystalBatch, int], Side]]:
    """Return how to build each side that can run here."""
    found: dict[str, Callable[[CrystalBatch, int], Side]] = {
        "batch fp32": lambda batch, width: ours(batch, width, "batch", autocast=False),
        "batch bf16": lambda batch, width: ours(batch, width, "batch", autocast=True),
        "layer fp32": lambda batch, width: ours(batch, width, "layer", autocast=False),
        "layer bf16": lambda batch, width: ours(batch, width, "layer", autocast=True),
    }
    if find_spec("alignn") is not None:
        found["pure"] = pure
        if find_spec("dgl") is not None:
            found["dgl"] = classic
    return found


def peak_memory_gib(which: str, crystals: list[Crystal], strategy: str, width: int, threads: int) -> float:
    """Return what one training step of a side adds at most to the memory of this process."""
    torch.set_num_threads(threads)
    side = builders()[which](batch_of(crystals, strategy), width)
    before = high_water_kib()
    side.train()
    return (high_water_kib() - before) / 2**20


def high_water_kib() -> float:
    """Return the most memory that this process ever held, NaN where the system does not say.

    ``getrusage`` would not do: a new process starts there with the peak of the one that started it.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.is_file() else []
    return next((float(line.split()[1]) for line in lines if line.startswith("VmHWM:")), float("nan"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--graphs", choices=GRAPHS, default="k_nearest")
    parser.add_argument("--quick", action="store_true", help="four crystals, narrow networks, one step")
    options = parser.parse_args()
    if options.quick:
        options.crystals, options.steps = 4, 1
    width = QUICK_WIDTH if options.quick else 256
    torch.set_num_threads(options.threads)
    crystals, source = crystals_of(options.crystals)
    batch = batch_of(crystals, options.graphs)
    print(
        f"{len(crystals)} crystals ({source}), {len(batch.atomic_numbers):,} atoms, {len(batch.edge_source):,} bonds, "
        f"{len(batch.triplet_first):,} triplets ({options.graphs}), width {width}, {options.threads} threads"
    )
    sides = {name: build(batch, width) for name, build in builders().items()}
    for side in sides.values():
        side.train()  # warm up
    for _ in range(options.steps):
        for side in sides.values():
            side.measure()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {
            name: pool.apply(peak_memory_gib, (name, crystals, options.graphs, width, options.threads))
            for name in sides
        }
    print(f"{'':38}{'step':>9}{'CPU':>9}{'inference':>11}{'CPU':>9}{'memory':>11}")
    for name, side in sides.items():
        times = f"{side.step[0]:8.2f}s{side.step[1]:8.2f}s{side.inference[0]:10.2f}s{side.inference[1]:8.2f}s"
        print(f"{side.name:38}{times}{memory[name]:7.2f} GiB")
    if "pure" not in sides:
        print("no ratio without the peers: pip install alignn==2026.8.11 dgl==1.1.3")
    for peer in ("pure", "dgl"):
        for name in sides if peer in sides else ():
            if name not in {"pure", "dgl"}:
                print_ratio(sides[peer], sides[name], memory[peer] / max(memory[name], 1e-3))


def print_ratio(peer: Side, side: Side, memory: float) -> None:
    """Print how many times faster a side is than a peer."""
    step = f"{peer.step[0] / side.step[0]:.2f}x (CPU {peer.step[1] / side.step[1]:.2f}x)"
    inference = f"{peer.inference[0] / side.inference[0]:.2f}x (CPU {peer.inference[1] / side.inference[1]:.2f}x)"
    print(f"ratio {side.name} over {peer.name}: step {step}, inference {inference}, memory {memory:.2f}x")


if __name__ == "__main__":
    main()
