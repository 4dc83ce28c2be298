"""Training and prediction of networks with Lightning's Trainer."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)

from crystalfm.contracts import UserError
from crystalfm.data.module import RecordDataModule
from crystalfm.models.regression import MONITORED, RegressionModule
from crystalfm.models.scaling import TargetScaling
from crystalfm.run.build import build_module, construct
from crystalfm.run.callbacks import StopOnNonFiniteLoss, StopOnSignal
from crystalfm.run.checkpointing import AtomicCheckpointIO, read_checkpoint
from crystalfm.run.console import TrainingProgress
from crystalfm.run.folder import BEST_CHECKPOINT, RunFolder
from crystalfm.run.metrics_logger import MetricsTable
from crystalfm.run.payload import NETWORK, SavedModel, make_payload
from crystalfm.run.resume import ExactResume
from crystalfm.run.session import FittedModel, Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch.loggers import Logger
    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.assets.store import AssetStore
    from crystalfm.models.backbones import FusionBackbone
    from crystalfm.run.prepare import PreparedData


def restore_network(cfg: DictConfig, saved: SavedModel, prepared: PreparedData) -> RegressionModule:
    """Rebuild the network of a checkpoint from what the checkpoint holds, and load its weights."""
    from crystalfm.models.backbones import backbone_from_architecture

    if saved.architecture is None or saved.scaling is None:
        raise UserError(f"{saved.path} holds no network", remedy="use a checkpoint of a trained network")
    module = build_module(
        cfg,
        networks={name: encoder.build_network() for name, encoder in prepared.encoders.items()},
        llm=backbone_from_architecture(saved.architecture),
        targets=saved.targets,
        scaling=saved.scaling,
    )
    module.load_state_dict(saved.weights)
    return module


def build_datamodule(cfg: DictConfig, prepared: PreparedData) -> RecordDataModule:
    """Build the loaders over the prepared features."""
    dataset = prepared.dataset
    return RecordDataModule(
        table=prepared.table,
        splits=prepared.splits,
        stores=prepared.stores,
        batch_size=dataset.batch_size,
        eval_batch_size=dataset.eval_batch_size,
        seed=cfg.seed,
        num_workers=dataset.num_workers,
        bucket_by_length=dataset.bucket_by_length,
    )


_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def cpu_has_bf16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bfloat16 matrices itself, as far as Linux says so."""
    if not cpu_info.is_file():
        return False
    for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            return bool(_BF16_CPU_FLAGS & set(flags.split()))
    return False


def resolve_precision(cfg: DictConfig) -> str:
    """Return the precision of the training step; ``auto`` is bf16 where the hardware has it, else full."""
    if cfg.trainer.precision != "auto":
        return str(cfg.trainer.precision)
    if cfg.trainer.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    on_cpu = cfg.trainer.accelerator in {"auto", "cpu"} and not torch.backends.mps.is_available()
    return "bf16-mixed" if on_cpu and cpu_has_bf16() else "32-true"


def trainer_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Return the Trainer's arguments that training and prediction share."""
    return {
        "accelerator": cfg.trainer.accelerator,
        "devices": cfg.trainer.devices,
        "num_nodes": cfg.trainer.num_nodes,
        "strategy": cfg.trainer.strategy,
        "precision": resolve_precision(cfg),
        "deterministic": cfg.trainer.deterministic,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


class NetworkSession(Session):
    """Trains a network with Lightning.

    Args:
        cfg: configuration.
        config: the same, resolved, as it goes into the checkpoints.
        prepared: data.
        folder: run folder.
        store: where pretrained weights come from.
        console: where progress is shown.
    """

    def __init__(
        self,
        cfg: DictConfig,
        config: Mapping[str, Any],
        prepared: PreparedData,
        folder: RunFolder,
        store: AssetStore,
        console: Console,
    ) -> None:
        super().__init__()
        self._cfg = cfg
        self._folder = folder
        self._prepared = prepared
        scaling = TargetScaling.fit(prepared.table.targets, prepared.splits.train)
        llm: FusionBackbone = construct(cfg.llm, store=store)
        self._payload = make_payload(NETWORK, config, prepared, scaling=scaling, architecture=llm.architecture())
        self.module = build_module(
            cfg,
            networks={name: encoder.build_network() for name, encoder in prepared.encoders.items()},
            llm=llm,
            targets=prepared.table.target_specs,
            scaling=scaling,
        )
        self._datamodule = build_datamodule(cfg, prepared)
        self._resume = ExactResume(folder, self._datamodule.train_sampler, cfg.callbacks.checkpoint_every_n_steps)
        self._table = MetricsTable(folder.metrics)
        self._best = ModelCheckpoint(
            dirpath=folder.checkpoints,
            filename=BEST_CHECKPOINT.removesuffix(".ckpt"),
            monitor=MONITORED,
            save_top_k=cfg.callbacks.save_top_k,
            # Averaged weights reach a checkpoint through a hook that weights-only checkpoints do not call.
            save_weights_only=cfg.callbacks.ema_decay is None,
            enable_version_counter=False,
        )
        self._trainer = self._build_trainer(console)
        parameters = list(self.module.parameters())
        self.num_parameters = sum(parameter.numel() for parameter in parameters)
        self.num_trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        self.device = describe_device(self._trainer)
        self.precision = str(self._trainer.precision)

    def fit(self, resume_from: Path | None) -> FittedModel:
        """Train, go on from ``resume_from`` where given, and predict with the best weights."""
        if resume_from is not None:
            self._table.resume_from(int(read_checkpoint(resume_from)["global_step"]) - 1)
        if self._cfg.trainer.compile:
            self.module.compile()
        started = time.monotonic()
        self._trainer.fit(
            self.module,
            datamodule=self._datamodule,
            ckpt_path=None if resume_from is None else str(resume_from),
            weights_only=True,
        )
        seconds = time.monotonic() - started
        validation = self._load_best()
        return FittedModel(
            predict=lambda rows: predict_rows(self._cfg, self.module, self._datamodule, rows),
            num_epochs=self._trainer.current_epoch,
            train_seconds=seconds,
            validation=validation,
            peak_device_memory_gib=peak_device_memory_gib(),
        )

    def _load_best(self) -> dict[str, float]:
        """Load the best weights, if validation ever ran; return their validation loss."""
        if not self._best.best_model_path:
            return {}
        self.module.load_state_dict(read_checkpoint(Path(self._best.best_model_path))["state_dict"])
        score = self._best.best_model_score
        return {} if score is None else {"loss": float(score)}

    def _callbacks(self, console: Console) -> list[Callback]:
        settings = self._cfg.callbacks
        callbacks: list[Callback] = [self._resume, self._best]
        if settings.ema_decay is not None:
            callbacks.append(EMAWeightAveraging(use_buffers=False, decay=settings.ema_decay))
        if settings.stop_on_nan:
            callbacks.append(StopOnNonFiniteLoss(self._prepared.table.ids.tolist()))
        if settings.early_stopping_patience is not None:
            patience = settings.early_stopping_patience
            callbacks.append(EarlyStopping(MONITORED, patience=patience, check_finite=False))
        if settings.progress_bar:
            callbacks.append(TrainingProgress(console))
        if self._loggers():
            callbacks.append(LearningRateMonitor())
        # Last, so that it saves what every other callback has done at the end of the step.
        return [*callbacks, StopOnSignal(self._resume)]

    def _loggers(self) -> list[Logger]:
        loggers: list[Logger] = [self._table] if self._cfg.logger.csv else []
        if self._cfg.logger.tensorboard:
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(self._folder.root, name="tensorboard", version=""))
        return loggers

    def _build_trainer(self, console: Console) -> Trainer:
        settings = self._cfg.trainer
        return Trainer(
            **trainer_arguments(self._cfg),
            default_root_dir=self._folder.root,
            max_epochs=settings.max_epochs,
            max_steps=settings.max_steps,
            max_time=None if settings.max_minutes is None else timedelta(minutes=settings.max_minutes),
            accumulate_grad_batches=settings.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            val_check_interval=settings.val_check_interval,
            check_val_every_n_epoch=settings.check_val_every_n_epoch,
            limit_train_batches=settings.limit_train_batches,
            limit_val_batches=settings.limit_val_batches,
            overfit_batches=settings.overfit_batches,
            num_sanity_val_steps=settings.num_sanity_val_steps,
            log_every_n_steps=settings.log_every_n_steps,
            detect_anomaly=settings.detect_anomaly,
            profiler=settings.profiler,
            enable_progress_bar=bool(self._cfg.callbacks.progress_bar),
            callbacks=self._callbacks(console),
            logger=self._loggers() or False,
            plugins=[AtomicCheckpointIO(self._payload)],
        )


def describe_device(trainer: Trainer) -> str:
    """Return the device and how many of it a trainer uses (``cpu``, ``4 x cuda``)."""
    kind = trainer.strategy.root_device.type
    return kind if trainer.world_size == 1 else f"{trainer.world_size} x {kind}"


def peak_device_memory_gib() -> float | None:
    """Return the peak memory of the CUDA device, ``None`` where there is none."""
    return torch.cuda.max_memory_allocated() / 1024**3 if torch.cuda.is_available() else None


def predict_rows(
    cfg: DictConfig, module: RegressionModule, datamodule: RecordDataModule, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return predictions (len(rows), T) in physical units, in the order of ``rows``."""
    arguments = trainer_arguments(cfg)
    if cfg.trainer.precision == "auto":
        # Rounded to bfloat16, a prediction would depend on the batch that its row happens to be in.
        arguments["precision"] = "32-true"
    trainer = Trainer(**arguments, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    outputs: list[Any] = trainer.predict(module, dataloaders=datamodule.loader(rows)) or []
    by_row = np.full((int(rows.max(initial=-1)) + 1, len(module.targets)), np.nan)
    for output in outputs:
        by_row[output["row"].cpu().numpy()] = output["prediction"].double().cpu().numpy()
    return by_row[rows]
