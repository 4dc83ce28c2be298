"""An epoch of LLM-Fusion with cached vectors against the same epoch with the frozen encoder run at every step.

Both sides train the same fusion network on the same batches in one process. Then the peak memory of a process that
reads batches from the cache, at ten thousand and a hundred thousand rows. The ratio of the epochs comes last.

    python benchmarks/embedding_cache.py [--encoder rxnfp] [--molecules 5000] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from crystalfm.assets.store import AssetStore, FetchedAsset
from crystalfm.data.features import FeatureStore, VectorStore
from crystalfm.encoders.cache import EmbeddingCache
from crystalfm.encoders.huggingface import HuggingFaceEncoder
from crystalfm.encoders.networks import EncoderNetwork
from crystalfm.models.backbones import TinyBackbone
from crystalfm.models.fusion import FusionNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BATCH_SIZE = 128
MEMORY_WIDTH = 768

ENCODERS: dict[str, dict[str, Any]] = {
    "rxnfp": {"asset": "rxnfp", "model_type": "bert", "tokenizer": "smiles", "pooling": "cls"},
    "minilm": {"asset": "minilm", "max_length": 256},
    "random": {"asset": "random", "tokenizer": "smiles", "pooling": "cls", "max_length": 64},
}


class RandomBert:
    """A store with one asset: a BERT over SMILES of random weights, for machines without real ones."""

    def __init__(self, folder: Path) -> None:
        from transformers import BertConfig, BertModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._folder = folder
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"CNOF()=#123"]
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokens), hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
            intermediate_size=256, max_position_embeddings=64,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder)

    def fetch(self, name: str) -> FetchedAsset:
        """Return the only asset."""
        return FetchedAsset(name, self._folder, "0" * 64, "made here", "none")


class EveryStep(EncoderNetwork):
    """Runs a frozen encoder's transformer anew for every batch."""

    def __init__(self, inner: EncoderNetwork) -> None:
        super().__init__(inner.modality, inner.width)
        self.inner = inner.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> EveryStep:
        """Leave the encoder in evaluation mode."""
        self.training = mode
        return self

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return vectors (B, D)."""
        return self.inner(batch)


@dataclass
class Side:
    """One side of the comparison."""

    features: FeatureStore
    network: FusionNetwork

    def epoch(self, targets: Tensor) -> float:
        """Train one epoch and return its seconds."""
        optimizer = torch.optim.AdamW([p for p in self.network.parameters() if p.requires_grad], lr=1e-3, fused=True)
        order = np.random.default_rng(0).permutation(len(self.features))
        self.network.train()
        start = time.perf_counter()
        for first in range(0, len(order), BATCH_SIZE):
            rows = order[first : first + BATCH_SIZE]
            output = self.network(self.features.batch(rows))
            loss = nn.functional.mse_loss(output[:, 0], targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - start


def fusion(encoder: EncoderNetwork) -> FusionNetwork:
    """Return the fusion network of both sides, equal weights."""
    torch.manual_seed(0)
    llm = TinyBackbone(width=128, num_layers=2, num_heads=4)
    return FusionNetwork(encoders={"smiles": encoder}, llm=llm, num_targets=1)


def made_up_smiles(count: int) -> list[str]:
    """Return distinct chains of about nine heavy atoms."""
    rng = np.random.default_rng(0)
    parts = np.array(["C", "N", "O", "C(C)", "C(F)", "C(=O)", "C=C", "C1CC1"])
    found: dict[str, None] = {}
    while len(found) < count:
        found["C" + "".join(rng.choice(parts, size=rng.integers(3, 9))) + "O"] = None
    return list(found)


def molecules(store: AssetStore, count: int) -> tuple[list[str], str]:
    """Return SMILES and where they are from: QM9 where its asset is at hand."""
    if not store.is_cached("qm9"):
        return made_up_smiles(count), "made up"
    from crystalfm.data.qm9 import QM9

    table = QM9(store=store, limit=count).load()
    return [smiles for smiles in table.fields["smiles"] if smiles is not None], "QM9"


def compare_epochs(name: str, store: Any, smiles: list[str], folder: Path) -> float:
    """Print both epochs' times and return their ratio."""
    runtime = {"modality": "smiles", "store": store, "cache": EmbeddingCache(folder / "embeddings")}
    targets = torch.randn(len(smiles), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    cached_encoder = HuggingFaceEncoder(**runtime, **ENCODERS[name])
    cached = Side(cached_encoder.prepare(smiles), fusion(cached_encoder.build_network()))
    print(f"encoding into the cache, once: {time.perf_counter() - start:8.2f} s")
    anew_encoder = HuggingFaceEncoder(**runtime, **ENCODERS[name], frozen=False)
    anew = Side(anew_encoder.prepare(smiles), fusion(EveryStep(anew_encoder.build_network())))
    cached.epoch(targets)  # warms up both the cache's pages and the kernels
    cached_seconds = min(cached.epoch(targets) for _ in range(3))
    anew_seconds = anew.epoch(targets)
    print(f"epoch, encoder at every step:  {anew_seconds:8.2f} s")
    print(f"epoch, from the cache:         {cached_seconds:8.2f} s")
    return anew_seconds / cached_seconds


# --------------------------------------------------------------------------- memory


def memory_strings(rows: int) -> list[str]:
    """Return the strings of the memory measurement."""
    return [f"string {row}" for row in range(rows)]


def fill(root: Path, rows: int) -> None:
    """Put random vectors into a cache."""
    rng = np.random.default_rng(0)

    def encode(strings: list[str]) -> NDArray[np.float32]:
        return rng.standard_normal((len(strings), MEMORY_WIDTH), dtype=np.float32)

    EmbeddingCache(root).vectors({"encoder": "random"}, memory_strings(rows), encode, MEMORY_WIDTH)


def status_bytes(field: str) -> int:
    """Return a size of this process as the kernel counts it, mapped pages included."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


def measure_reading(root: Path, rows: int) -> None:
    """Read two epochs of batches from a warm cache and print what that added to the peak of resident memory."""
    strings = memory_strings(rows)
    before = status_bytes("VmRSS")
    lookup = EmbeddingCache(root).vectors({"encoder": "random"}, strings, lambda _: np.empty(0), MEMORY_WIDTH)
    features = VectorStore("smiles", np.ones(rows, dtype=bool), lookup.vectors, lookup.index, "embedding")
    start = time.perf_counter()
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(rows)
        for first in range(0, rows, BATCH_SIZE):
            features.batch(order[first : first + BATCH_SIZE])
    seconds = (time.perf_counter() - start) / (2 * rows)
    print(json.dumps({"grown": status_bytes("VmHWM") - before, "seconds_per_row": seconds}))


def peak_memory(rows: int, folder: Path) -> None:
    """Print by how much a reading process of its own grows."""
    root = folder / f"memory-{rows}"
    outputs = [
        subprocess.run(
            [sys.executable, __file__, "--step", step, "--folder", str(root), "--rows", str(rows)],
            check=True, capture_output=True, text=True,
        ).stdout
        for step in ("fill", "read")
    ]  # fmt: skip
    result = json.loads(outputs[1])
    size = rows * MEMORY_WIDTH * 4
    print(
        f"{rows:7d} rows: vectors {size / 1e6:6.0f} MB on disk, reading adds {result['grown'] / 1e6:6.1f} MB at its "
        f"peak, {result['seconds_per_row'] * BATCH_SIZE * 1e3:.2f} ms a batch of {BATCH_SIZE}"
    )


def main() -> None:
    """Run the comparison, or one step of the memory measurement in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=tuple(ENCODERS), default="rxnfp")
    parser.add_argument("--molecules", type=int, default=5000)
    parser.add_argument("--cache", type=Path, help="cache of assets (default: CRYSTALFM_CACHE or ~/.cache/crystalfm)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="few molecules and random weights")
    parser.add_argument("--step", choices=("fill", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step is not None:
        (fill if options.step == "fill" else measure_reading)(options.folder, options.rows)
        return
    torch.set_num_threads(options.threads)
    default = os.environ.get("CRYSTALFM_CACHE", "~/.cache/crystalfm")
    assets = AssetStore(options.cache or Path(default), offline=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.quick:
            encoder, count, sizes = "random", 200, (1_000, 10_000)
        else:
            encoder, count, sizes = options.encoder, options.molecules, (10_000, 100_000)
        if encoder != "random" and not assets.is_cached(encoder):
            print(f"the asset {encoder} is not at hand (python -m crystalfm.fetch {encoder}): random weights instead")
            encoder = "random"
        store = RandomBert(folder / "random") if encoder == "random" else assets
        smiles, origin = (made_up_smiles(count), "made up") if options.quick else molecules(assets, count)
        print(f"{len(smiles)} molecules ({origin}), encoder {encoder}, {options.threads} threads")
        ratio = compare_epochs(encoder, store, smiles, folder)
        for rows in sizes:
            peak_memory(rows, folder)
    print(f"ratio: {ratio:.1f}")


if __name__ == "__main__":
    main()
