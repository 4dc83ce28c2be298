"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

MakeConfig = Callable[..., DictConfig]

TINY = [
    "llm.width=16",
    "llm.num_layers=1",
    "llm.num_heads=2",
    "encoders.smiles.width=16",
    "encoders.smiles.num_layers=1",
    "encoders.smiles.num_heads=2",
    "encoders.smiles.dropout=0.1",
    "encoders.fingerprint.num_bits=64",
    "modalities=[smiles,fingerprint]",
    "data=csv",
    "data.targets=[energy,gap]",
    "data.units={energy:eV,gap:hartree}",
    "data.batch_size=8",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "callbacks.progress_bar=false",
]


def molecules(num: int) -> list[str]:
    """Return distinct chains of carbon, nitrogen and oxygen."""
    found: list[str] = []
    length = 2
    while len(found) < num:
        for place in range(length):
            for atom in "NOS":
                chain = ["C"] * length
                chain[place] = atom
                text = "".join(chain)
                if place < (length + 1) // 2:
                    found.append(text)
        length += 1
    return found[:num]


def last_state(folder: Path) -> dict[str, Any]:
    """Return the newest training state of a run folder."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
