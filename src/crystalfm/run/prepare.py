"""Records, splits and features of a run, with every rejected row accounted for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.contracts import MODALITIES, UserError
from crystalfm.data.records import RecordTable, enforce_rejection_limit, represent
from crystalfm.data.splits import Splits, carry_over, make_splits, read_splits
from crystalfm.run.build import build_encoders, construct
from crystalfm.run.descriptions import with_descriptions
from crystalfm.run.folder import run_folder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from crystalfm.assets.store import AssetStore
    from crystalfm.data.dataset import Dataset
    from crystalfm.data.features import FeatureStore
    from crystalfm.encoders.base import ModalityEncoder


@dataclass
class PreparedData:
    """Everything a model is fed with.

    Attributes:
        dataset: the data set and its batch settings.
        table: accepted records.
        splits: rows of each part.
        modalities: modalities in the order in which they are fused.
        encoders: fitted encoder of each modality.
        stores: features of each modality for every row of the table.
        notes: lines for the start table.
    """

    dataset: Dataset
    table: RecordTable
    splits: Splits
    modalities: list[str]
    encoders: dict[str, ModalityEncoder]
    stores: dict[str, FeatureStore]
    notes: dict[str, str] = field(default_factory=dict)


def load_table(
    dataset: Dataset,
    modalities: Sequence[str],
    *,
    max_rejected_fraction: float,
    all_rows: bool,
    fitted: bool = False,
    describe: Callable[[RecordTable, Sequence[str]], RecordTable] | None = None,
) -> tuple[RecordTable, dict[str, list[str | None]], Splits]:
    """Load and split the records and make each modality's values, dropping rows for which one cannot be made.

    The split is drawn before rows are dropped, so that models with different modalities test on the same rows.

    Args:
        dataset: the data set.
        modalities: modalities to make values for.
        max_rejected_fraction: largest share of rows that may be dropped.
        all_rows: put every row into the test part instead of splitting.
        fitted: the model is fitted already; else a modality that no training row has is left out, since it could
            not be learned and would only disturb the other parts.
        describe: adds texts to those of the chosen rows that the modalities need them for, and rejects where it cannot.

    Returns:
        the accepted records, one value a row for each modality (``None`` where the row lacks it), and the splits.

    Raises:
        UserError: more rows were rejected than allowed, or no training row has any of the modalities.
    """
    loaded = dataset.load()
    splits = only_test(len(loaded)) if all_rows else split_table(dataset, loaded)
    if describe is not None:
        described = describe(loaded, modalities)
        splits, loaded = carry_over(splits, loaded, described), described
    if not (all_rows or fitted):
        modalities = learnable_modalities(loaded, splits, modalities)
    table, values = represent(loaded, modalities)
    enforce_rejection_limit(table.rejected, len(table) + len(table.rejected), max_rejected_fraction)
    return table, values, only_test(len(table)) if all_rows else carry_over(splits, loaded, table)


def learnable_modalities(table: RecordTable, splits: Splits, modalities: Sequence[str]) -> list[str]:
    """Return the modalities that at least one training row has.

    Raises:
        UserError: there is none, though some were asked for.
    """
    train = splits.train.tolist()
    columns = {name: table.fields[MODALITIES[name].source_field] for name in modalities}
    learnable = [name for name, column in columns.items() if any(column[row] is not None for row in train)]
    if modalities and train and not learnable:
        raise UserError(
            f"no training row has the modality {', '.join(modalities)}",
            remedy="choose other modalities, or another split (data.split_file, or data.split where data has it)",
        )
    return learnable if train else list(modalities)


def split_table(dataset: Dataset, table: RecordTable) -> Splits:
    """Split the records as the settings say: by a split file, as their source does, or by fractions and a seed."""
    if dataset.split_file is not None:
        path = Path(dataset.split_file).expanduser()
        return read_splits(path, table, allow_absent=dataset.limit is not None)
    splits = dataset.splits_of(table)
    if splits is not None:
        return splits
    return make_splits(
        table, test_fraction=dataset.test_fraction, val_fraction=dataset.val_fraction, seed=dataset.drawing_seed
    )


def only_test(num_rows: int) -> Splits:
    """Return the split that tests on every row."""
    none = np.empty(0, dtype=np.int64)
    return Splits(train=none, val=none, test=np.arange(num_rows, dtype=np.int64))


def prepare_data(
    cfg: DictConfig,
    store: AssetStore,
    modalities: Sequence[str],
    *,
    encoders: Mapping[str, ModalityEncoder] | None = None,
    all_rows: bool = False,
) -> PreparedData:
    """Load, split and featurize.

    Args:
        cfg: configuration with ``data``, ``encoders``, ``descriptions``, ``seed`` and ``paths``.
        store: where data sets and weights come from.
        modalities: modalities to make features for, in order.
        encoders: fitted encoders of a checkpoint; without them the configured ones are fitted here, on the training
            rows alone.
        all_rows: put every row into the test part instead of splitting.
    """
    dataset: Dataset = construct(cfg.data, store=store, seed=cfg.seed)
    table, values, splits = load_table(
        dataset,
        modalities,
        max_rejected_fraction=float(cfg.max_rejected_fraction),
        all_rows=all_rows,
        fitted=encoders is not None,
        describe=partial(with_descriptions, cfg),
    )
    prepared = featurize(cfg, store, dataset, table, values, splits, encoders)
    left_out = [name for name in modalities if name not in values]
    if left_out:
        prepared.notes["left out"] = f"{', '.join(left_out)} (no training row has it)"
    return prepared


def featurize(
    cfg: DictConfig,
    store: AssetStore,
    dataset: Dataset,
    table: RecordTable,
    values: Mapping[str, Sequence[str | None]],
    splits: Splits,
    encoders: Mapping[str, ModalityEncoder] | None = None,
) -> PreparedData:
    """Make the features of every modality for every row.

    Args:
        cfg: configuration with ``encoders`` and ``paths``.
        store: where pretrained weights come from.
        dataset: the data set, for its batch settings.
        table: records.
        values: one value a row for each modality, in the order in which they are fused.
        splits: rows of each part; encoders are fitted on the training rows alone.
        encoders: see ``prepare_data``.
    """
    chosen = dict(encoders or build_encoders(cfg, list(values), store))
    if encoders is None:
        for modality, encoder in chosen.items():
            encoder.fit([values[modality][row] for row in splits.train])
    stores: dict[str, FeatureStore] = {name: chosen[name].prepare(column) for name, column in values.items()}
    return PreparedData(dataset, table, splits, list(values), {name: chosen[name] for name in values}, stores)


ALL = "all"
"""Name of all rows together, where a split is asked for."""


def rows_of(split: str, prepared: PreparedData) -> NDArray[np.int64]:
    """Return the rows of a split, or ``all``.

    Raises:
        UserError: the split has none.
    """
    if split == ALL:
        return np.arange(len(prepared.table), dtype=np.int64)
    rows = prepared.splits[split]
    if not len(rows):
        raise UserError(f"split={split} has no rows", remedy="use split=all")
    return rows


def use_split_of_run(cfg: DictConfig, checkpoint: Path) -> None:
    """Take the split from the run folder of a checkpoint, so that test rows stay test rows whatever the seeds say."""
    folder = run_folder_of(checkpoint)
    if folder is not None and folder.split.is_file():
        cfg.data.split_file = str(folder.split)
