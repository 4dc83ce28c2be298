"""Small seeded models, batches and loaders that the tests of this folder share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crystalfm.contracts import TargetSpec
from crystalfm.encoders.networks import CachedVectors
from crystalfm.models.backbones import FusionBackbone, TinyBackbone
from crystalfm.models.llm_fusion import LLMFusion
from crystalfm.models.scaling import TargetScaling
from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

WIDTHS = {"smiles": 12, "selfies": 16, "fingerprint": 9}
TARGETS = (TargetSpec("gap", "hartree"), TargetSpec("mu", "1"))


def build_batch(num_rows: int, *, seed: int = 0, widths: Mapping[str, int] = WIDTHS, absent: float = 0.0):
    """A batch whose two targets are functions of the first modality's vectors; absent > 0 hides modalities."""
    generator = torch.Generator().manual_seed(seed)
    batch: dict[str, Tensor] = {"row": torch.arange(num_rows)}
    for name, width in widths.items():
        batch[f"{name}.embedding"] = torch.randn(num_rows, width, generator=generator)
        batch[f"{name}.present"] = torch.rand(num_rows, generator=generator) >= absent
    first = batch[f"{next(iter(widths))}.embedding"]
    batch["targets"] = torch.stack([0.25 + 0.05 * first[:, 0].tanh(), 3.0 * first[:, 1] - 1.0], dim=1)
    batch["target_mask"] = torch.ones(num_rows, 2, dtype=torch.bool)
    return batch


def build_model(
    *,
    widths: Mapping[str, int] = WIDTHS,
    llm: FusionBackbone | None = None,
    optimizer: OptimizerSettings | None = None,
    scheduler: SchedulerSettings | None = None,
    seed: int = 0,
    targets: Sequence[TargetSpec] = TARGETS,
    **settings: object,
) -> LLMFusion:
    torch.manual_seed(seed)
    return LLMFusion(
        encoders={name: CachedVectors(name, width) for name, width in widths.items()},
        llm=llm or TinyBackbone(width=16, num_layers=2, num_heads=2),
        targets=targets,
        scaling=TargetScaling(np.array([0.25, -1.0])[: len(targets)], np.array([0.05, 3.0])[: len(targets)]),
        optimizer=optimizer or OptimizerSettings(),
        scheduler=scheduler or SchedulerSettings(),
        **settings,
    )


class _Rows(Dataset):
    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["row"])

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        return {key: value[rows] for key, value in self.batch.items()}


def _same(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def build_loader(batch: dict[str, Tensor], batch_size: int) -> DataLoader:
    return DataLoader(_Rows(batch), batch_size=batch_size, collate_fn=_same, num_workers=0)


def build_trainer(folder: Path, **options: object) -> lightning.Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return lightning.Trainer(**(defaults | options))


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tensor]]:
    return build_batch


@pytest.fixture
def make_model() -> Callable[..., LLMFusion]:
    return build_model


@pytest.fixture
def make_loader() -> Callable[..., DataLoader]:
    return build_loader


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., lightning.Trainer]:
    def make(**options: object) -> lightning.Trainer:
        return build_trainer(tmp_path, **options)

    return make
