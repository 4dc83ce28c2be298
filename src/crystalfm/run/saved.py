"""A saved model at work: rebuilt from its checkpoint, it predicts rows of any prepared data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from crystalfm.run.build import asset_store, construct
from crystalfm.run.checkpoints.payload import CLASSICAL, SavedModel, read_model
from crystalfm.run.prepare import PreparedData, featurize, prepare_data

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.records import RecordTable
    from crystalfm.data.splits import Splits
    from crystalfm.run.session import Predict

_MACHINE_KEYS = ("paths", "trainer")


class SavedPredictor:
    """A checkpoint with the configuration to run it here.

    The model, its preprocessing and its data settings come from the checkpoint; paths and the device come from
    the present configuration, and ``data`` where it is given.

    Args:
        path: checkpoint file.
        cfg: present configuration with ``paths`` and ``trainer``.
        data: data node to use in place of the checkpoint's.
        progress: where the asset store reports downloads.

    Raises:
        UserError: the file is damaged or not a checkpoint of this framework.
    """

    def __init__(
        self, path: Path, cfg: DictConfig, *, data: Mapping[str, Any] | None = None, progress: Any = None
    ) -> None:
        self.model: SavedModel = read_model(path)
        merged = OmegaConf.create(self.model.config)
        for key in _MACHINE_KEYS:
            if key in cfg:
                merged[key] = cfg[key]
        if data is not None:
            merged.data = data
        self.cfg: DictConfig = merged
        self.store: AssetStore = asset_store(merged, progress)

    def prepare(self, *, all_rows: bool) -> PreparedData:
        """Prepare the data with the encoders as they were fitted in training."""
        return prepare_data(
            self.cfg,
            self.store,
            self.model.modalities,
            encoder_states=self.model.encoder_states,
            all_rows=all_rows,
        )

    def featurize(self, table: RecordTable, values: Mapping[str, Sequence[str | None]], splits: Splits) -> PreparedData:
        """Make features of records that come from no data set, with the encoders as they were fitted."""
        dataset = construct(self.cfg.data)
        states = self.model.encoder_states
        return featurize(self.cfg, self.store, dataset, table, values, splits, states)

    def predictor(self, prepared: PreparedData) -> Predict:
        """Return the function that predicts rows of ``prepared`` in physical units."""
        if self.model.kind == CLASSICAL:
            from crystalfm.run.classical import restore_classical

            return restore_classical(self.cfg, self.model, prepared)
        from crystalfm.run.network import build_datamodule, predict_rows, restore_network

        module = restore_network(self.cfg, self.model, prepared)
        datamodule = build_datamodule(self.cfg, prepared)
        return lambda rows: predict_rows(self.cfg, module, datamodule, rows)
