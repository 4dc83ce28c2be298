"""Training with Lightning's Trainer: checkpoints, exact resume, callbacks and loggers around any trained module."""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)

from crystalfm.models.sharding import load_weights
from crystalfm.models.trained import MONITORED
from crystalfm.run.callbacks import StopOnNonFiniteLoss, StopOnSignal, StopPredictingOnSignal
from crystalfm.run.checkpoints.checkpointing import AtomicCheckpointIO, read_checkpoint
from crystalfm.run.checkpoints.resume import ExactResume
from crystalfm.run.folder import BEST_CHECKPOINT
from crystalfm.run.parallel.distributed import gather_rows
from crystalfm.run.parallel.hardware import (
    describe_device,
    local_processes,
    one_device_arguments,
    peak_device_memory_gib,
    prediction_precision,
    trainer_arguments,
)
from crystalfm.run.session import FittedModel, Session
from crystalfm.run.tracking.console import TrainingProgress
from crystalfm.run.tracking.loggers import build_loggers
from crystalfm.run.tracking.metrics_logger import MetricsTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning import LightningModule
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.profilers import Profiler
    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from rich.console import Console
    from torch import Tensor

    from crystalfm.data.module import RecordDataModule
    from crystalfm.models.trained import TrainedModule
    from crystalfm.run.folder import RunFolder
    from crystalfm.run.prepare import PreparedData


class TrainerSession(Session):
    """Trains a module on prepared data.

    Args:
        cfg: configuration.
        prepared: data.
        folder: run folder.
        console: where progress is shown.
        module: the module to train.
        datamodule: its loaders.
        payload: section ``crystalfm`` of the checkpoints.
    """

    def __init__(
        self,
        cfg: DictConfig,
        prepared: PreparedData,
        folder: RunFolder,
        console: Console,
        *,
        module: TrainedModule,
        datamodule: RecordDataModule,
        payload: dict[str, Any],
    ) -> None:
        super().__init__()
        self._cfg = cfg
        self._folder = folder
        self._prepared = prepared
        self._trained = module
        self._datamodule = datamodule
        self._payload = payload
        facts = {"run folder": str(folder.root.resolve()), **self._payload["data"]}
        self._resume = ExactResume(
            folder,
            self._datamodule.train_sampler,
            cfg.callbacks.checkpoint_every_n_steps,
            every_n_epochs=cfg.callbacks.checkpoint_every_n_epochs,
            common_facts=facts,
        )
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
        # Counts over interruptions: its state is in the checkpoints.
        limit = None if cfg.trainer.max_minutes is None else timedelta(minutes=cfg.trainer.max_minutes)
        self._timer = Timer(limit, interval="step")
        self._trainer = self._build_trainer(console)
        parameters = list(module.parameters())
        self.num_parameters = sum(parameter.numel() for parameter in parameters)
        self.num_trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        self.device = describe_device(self._trainer)
        self.num_local_processes = local_processes(self._trainer)
        self.precision = str(self._trainer.precision)

    def fit(self, resume_from: Path | None) -> FittedModel:
        """Train, go on from ``resume_from`` where given, and predict with the best weights."""
        if resume_from is not None:
            self._table.resume_from(int(read_checkpoint(resume_from)["global_step"]) - 1)
        if self._cfg.trainer.compile:
            self._trained.compile()
        self._trainer.fit(
            self._trained,
            datamodule=self._datamodule,
            ckpt_path=None if resume_from is None else str(resume_from),
            weights_only=True,
        )
        validation = self._load_best()
        seconds, started, ended = self._timer.time_elapsed(), self._timer.start_time(), self._timer.end_time()
        own_seconds = 0.0 if started is None or ended is None else ended - started
        return FittedModel(
            predict=self._predict,
            num_epochs=self._trainer.current_epoch,
            train_seconds=seconds,
            validation=validation,
            peak_device_memory_gib=peak_device_memory_gib(),
            earlier_seconds=seconds - own_seconds,
        )

    def measure_with(self, timer: Profiler, meter: Callback) -> None:
        """Put a meter and its profiler in the place of what writes checkpoints or ends the training; then ``fit``."""
        trainer: Any = self._trainer  # whose attributes Lightning sets where type checkers do not look
        left_out = (Checkpoint, EarlyStopping, StopOnSignal)
        kept = [callback for callback in trainer.callbacks if not isinstance(callback, left_out)]
        # Ranks ask each other for signals at every step, which takes time; none is listened to here.
        trainer.callbacks = [*kept, StopOnSignal(self._resume, signals=()), meter]
        trainer.profiler = timer

    def _predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return predict_rows(
            *(self._cfg, self._trained, self._datamodule, rows, trainer_arguments(self._cfg)),
            callbacks=[StopPredictingOnSignal()],
        )

    def _load_best(self) -> dict[str, float]:
        """Load the best weights, if validation ever ran; return their validation loss."""
        if not self._best.best_model_path:
            return {}
        load_weights(self._trained, read_checkpoint(Path(self._best.best_model_path))["state_dict"])
        score = self._best.best_model_score
        return {} if score is None else {"loss": float(score)}

    def _callbacks(self, console: Console) -> list[Callback]:
        settings = self._cfg.callbacks
        callbacks: list[Callback] = [self._resume, self._best]
        if settings.ema_decay is not None:
            # About a hook that shares weights among processes: it does nothing without fsdp, with it there is no EMA.
            warnings.filterwarnings("ignore", message=".*WeightAveraging doesn't support sharding.*")
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
        # The signal last, so that it saves what every other callback has done at the end of the step.
        return [*callbacks, self._timer, StopOnSignal(self._resume)]

    def _loggers(self) -> list[Logger]:
        return build_loggers(self._cfg, self._folder, self._table)

    def _build_trainer(self, console: Console) -> Trainer:
        settings = self._cfg.trainer
        return Trainer(
            **trainer_arguments(self._cfg),
            default_root_dir=self._folder.root,
            max_epochs=settings.max_epochs,
            max_steps=settings.max_steps,
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


def predict_batches(
    cfg: DictConfig,
    module: LightningModule,
    datamodule: RecordDataModule,
    rows: NDArray[np.int64],
    arguments: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[dict[str, Tensor]]:
    """Return what a module's ``predict_step`` says of each batch of rows that this process has; see `predict_rows`."""
    chosen = dict(one_device_arguments(cfg) if arguments is None else arguments)
    chosen["precision"] = prediction_precision(cfg)
    trainer = Trainer(
        **chosen, callbacks=[*callbacks], logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    outputs: list[Any] = trainer.predict(module, dataloaders=datamodule.loader(rows)) or []
    return outputs


def predict_rows(
    cfg: DictConfig,
    module: TrainedModule,
    datamodule: RecordDataModule,
    rows: NDArray[np.int64],
    arguments: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> NDArray[np.float64]:
    """Return predictions (len(rows), T), as the module gives them, in the order of ``rows``.

    Args:
        cfg: configuration.
        module: the network.
        datamodule: its loaders.
        rows: (K,) rows of the table.
        arguments: device arguments of the Trainer; one process by default. Ranks share the rows; all get the result.
        callbacks: callbacks of the Trainer.
    """
    outputs = predict_batches(cfg, module, datamodule, rows, arguments, callbacks)
    own_rows = [output["row"].cpu().numpy() for output in outputs]
    own = [output["prediction"].double().cpu().numpy() for output in outputs]
    nothing = np.empty((0, module.num_outputs))
    found, predicted = gather_rows(
        np.concatenate([np.empty(0, dtype=np.int64), *own_rows]), np.concatenate([nothing, *own])
    )
    places = np.searchsorted(found, rows)
    if not np.array_equal(found[np.minimum(places, len(found) - 1)] if len(found) else found, rows):
        raise RuntimeError(f"{len(rows)} rows were to be predicted, {len(found)} came back")
    return predicted[places]
