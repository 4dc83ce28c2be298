"""A saved model at work: rebuilt from its checkpoint, it predicts rows of any prepared data."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from crystalfm.run.build import asset_store, build_encoders, construct
from crystalfm.run.checkpoints.payload import CLASSICAL, SavedModel, read_model
from crystalfm.run.exporting.folder import is_exported_predictor, read_exported
from crystalfm.run.folder import RunFolder, find_checkpoints, run_folder_of
from crystalfm.run.prepare import PreparedData, featurize, prepare_data
from crystalfm.run.uncertainty import Estimate, read_uncertainty

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits
    from crystalfm.encoders.base import ModalityEncoder
    from crystalfm.metrics.conformal import ConformalIntervals
    from crystalfm.models.regression import RegressionModule
    from crystalfm.run.exporting.folder import ExportedPredictor
    from crystalfm.run.session import Predict

_MACHINE_KEYS = ("paths", "trainer", "descriptions")


class SavedPredictor:
    """A saved model, or the members of an ensemble, with the configuration to run it here.

    The model, its preprocessing and its data settings come from the checkpoint; paths and the device come from
    the present configuration, and ``data`` where it is given. Members share everything but their weights.

    Args:
        location: run folder, checkpoint file or exported folder.
        cfg: present configuration with ``paths``, ``trainer`` and perhaps ``descriptions``.
        data: data node to use in place of the checkpoint's.
        progress: where the asset store reports downloads.

    Raises:
        UserError: there is nothing of this kind, or a file of it is damaged.

    Attributes:
        members: the models; more than one of an ensemble.
        model: the first of them, which says all that they have in common.
        intervals: prediction intervals, where the run has them.
        splits: file with the ids of each split, where there is one.
        exported: the exported folder; ``None`` for a run.
        cfg: configuration to run it here.
        store: where assets come from.
    """

    def __init__(
        self, location: str | Path, cfg: DictConfig, *, data: Mapping[str, Any] | None = None, progress: Any = None
    ) -> None:
        if is_exported_predictor(location):
            self._take_export(read_exported(location))
        else:
            self._take_run(location)
        merged = OmegaConf.create(self.model.config)
        for key in _MACHINE_KEYS:
            if key in cfg:
                merged[key] = cfg[key]
        if data is not None:
            merged.data = data
        self.cfg: DictConfig = merged
        self.store: AssetStore = asset_store(merged, progress)

    def _take_export(self, found: ExportedPredictor) -> None:
        self.members: list[SavedModel] = found.members
        self.model: SavedModel = found.members[0]
        self.intervals: ConformalIntervals | None = found.intervals
        self.splits: Path | None = found.splits
        self.exported: Path | None = found.folder

    def _take_run(self, location: str | Path) -> None:
        self.members = [read_model(path) for path in find_checkpoints(location)]
        self.model = self.members[0]
        self.intervals = self._read_intervals(location)
        folder = run_folder_of(self.model.path)
        self.splits = folder.split if folder is not None and folder.split.is_file() else None
        self.exported = None

    def aside(self, folder: str) -> SavedPredictor:
        """Return the same model for predictions that are to depend on nothing but the files and versions of packages.

        It computes on the CPU in float32 and has caches of its own; the networks are shared.

        Args:
            folder: subfolder of the cache for what encoders keep.
        """
        twin = copy.copy(self)
        if self.model.kind != CLASSICAL:
            twin.networks = self.networks
        for name in ("encoders", "_predictors"):
            vars(twin).pop(name, None)
        twin.cfg = copy.deepcopy(self.cfg)
        twin.cfg.paths.cache = str(Path(self.cfg.paths.cache).expanduser() / folder)
        twin.cfg.trainer.update(accelerator="cpu", devices=1, precision="32-true")
        return twin

    @cached_property
    def encoders(self) -> dict[str, ModalityEncoder]:
        """Encoders as they were fitted in training, built once."""
        built = build_encoders(self.cfg, self.model.modalities, self.store)
        for modality, encoder in built.items():
            encoder.load_state(self.model.encoder_states[modality])
        return built

    def prepare(self, *, all_rows: bool) -> PreparedData:
        """Prepare the data with the encoders as they were fitted in training."""
        return prepare_data(self.cfg, self.store, self.model.modalities, encoders=self.encoders, all_rows=all_rows)

    def featurize(self, table: RecordTable, values: Mapping[str, Sequence[str | None]], splits: Splits) -> PreparedData:
        """Make features of records that come from no data set, with the encoders as they were fitted."""
        return featurize(self.cfg, self.store, construct(self.cfg.data), table, values, splits, self.encoders)

    def estimate(self, prepared: PreparedData, rows: NDArray[np.int64]) -> Estimate:
        """Predict rows (K,) of ``prepared`` in physical units, with intervals where the run has them."""
        members = [predictor(prepared)(rows) for predictor in self._predictors]
        return Estimate.of_members(members).with_intervals(self.intervals)

    def _read_intervals(self, location: str | Path) -> ConformalIntervals | None:
        if len(self.members) > 1:
            return read_uncertainty(RunFolder(Path(location).expanduser()).uncertainty, self.model.targets)
        folder = run_folder_of(self.model.path)
        if folder is None:
            return None
        return read_uncertainty(folder.uncertainty, self.model.targets, self.model.path.name)

    @cached_property
    def networks(self) -> list[RegressionModule]:
        """The trained network of each member, rebuilt once; none of a classical model."""
        if self.model.kind == CLASSICAL:
            return []
        from crystalfm.run.network import restore_network

        return [restore_network(self.cfg, member, self.encoders) for member in self.members]

    @cached_property
    def _predictors(self) -> list[Callable[[PreparedData], Predict]]:
        """Every member at work, rebuilt once."""
        if self.model.kind == CLASSICAL:
            return [self._classical(member) for member in self.members]
        return [self._predictor(module) for module in self.networks]

    def _classical(self, saved: SavedModel) -> Callable[[PreparedData], Predict]:
        from crystalfm.run.classical import predict_with, restore_classical

        model = restore_classical(self.cfg, saved)
        return lambda prepared: predict_with(model, prepared.stores)

    def _predictor(self, module: RegressionModule) -> Callable[[PreparedData], Predict]:
        from crystalfm.run.network import build_datamodule
        from crystalfm.run.trainer_session import predict_rows

        def predictor(prepared: PreparedData) -> Predict:
            datamodule = build_datamodule(self.cfg, prepared)
            return lambda rows: predict_rows(self.cfg, module, datamodule, rows)

        return predictor
