"""Which run a generation uses, and what it was trained on, to say which designed configurations are new."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from crystalfm.chem.defects.configurations import read_configuration
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.contracts import UserError
from crystalfm.io.checkpoints import WRITER_FILE
from crystalfm.metrics.defects import canonical_forms
from crystalfm.run.build import asset_store, construct
from crystalfm.run.checkpoints.payload import read_model
from crystalfm.run.folder import LAST_CHECKPOINT, RunFolder, find_checkpoint, run_folder_of
from crystalfm.run.prepare import split_table, use_split_of_run

if TYPE_CHECKING:
    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.data.dataset import Dataset

_MODEL = "crystal_llm"


def newest_generator(cfg: DictConfig) -> str:
    """Return ``cfg.ckpt``, or the newest run of a generator on ``cfg.data``.

    Raises:
        UserError: there is none, or ``cfg.ckpt`` was trained on other data than ``cfg.data``.
    """
    if cfg.ckpt is not None:
        _require_same_data(cfg)
        return str(cfg.ckpt)
    runs, name = Path(cfg.paths.runs).expanduser(), str(cfg.data.name)
    found = [
        (file.stat().st_mtime_ns, file.parent.parent)
        for file in runs.glob(f"*/*/checkpoints/{LAST_CHECKPOINT}")
        if _is_generator(RunFolder(file.parent.parent), name)
    ]
    if not found:
        raise UserError(
            f"{runs} holds no run of model={_MODEL} data={name}",
            remedy=f"python train.py model={_MODEL} data={name}, or ckpt=RUN",
        )
    return str(max(found)[1])


def training_forms(cfg: DictConfig, supercell: Supercell) -> tuple[frozenset[Configuration] | None, str]:
    """Return the training configurations of a supercell in canonical form, and where they came from.

    Args:
        cfg: configuration with ``ckpt``, ``data`` and ``paths``.
        supercell: the supercell.

    Returns:
        the configurations, ``None`` where the training data are not at hand; and a line that says so, or how many.
    """
    if (Path(cfg.ckpt).expanduser() / WRITER_FILE).is_file():
        return None, "an exported folder does not say what it was trained on"
    try:
        records = _training_records(cfg)
    except UserError as error:
        return None, f"the training data are not at hand: {error.message}"
    found = []
    for record in records:
        if record.host == supercell.host.name and record.size == supercell.size:
            same = record.supercell is supercell
            found.append(record.configuration if same else read_configuration(record.crystal(), supercell))
    forms = frozenset(form for form in canonical_forms(found, supercell) if form is not None)
    return forms, f"{len(forms):,} different configurations of this supercell among {len(records):,} training rows"


def _training_records(cfg: DictConfig) -> list[DefectRecord]:
    saved = read_model(find_checkpoint(cfg.ckpt))
    merged = OmegaConf.create(saved.config)
    if not isinstance(merged, DictConfig):
        raise TypeError("the configuration of a checkpoint is a mapping")
    merged.paths = cfg.paths
    if cfg.data is not None and cfg.data.get("path") is not None:
        merged.data.path = cfg.data.path
    use_split_of_run(merged, saved.path)
    dataset: Dataset = construct(merged.data, store=asset_store(merged), seed=merged.seed)
    table = dataset.load()
    if "defects" not in table.fields:
        raise UserError(f"data={merged.data.name} holds no defects")
    train = split_table(dataset, table).train.tolist()
    return [DefectRecord.from_json(table.fields["defects"][row] or "") for row in train]


def _require_same_data(cfg: DictConfig) -> None:
    if cfg.data is None or (Path(cfg.ckpt).expanduser() / WRITER_FILE).is_file():
        return
    folder = run_folder_of(find_checkpoint(cfg.ckpt))
    trained = None if folder is None else OmegaConf.select(OmegaConf.load(folder.config), "data.name")
    if trained is not None and trained != cfg.data.name:
        raise UserError(
            f"data={cfg.data.name}: {cfg.ckpt} was trained on data={trained}", remedy=f"data={trained}, or leave it out"
        )


def _is_generator(folder: RunFolder, data: str) -> bool:
    if not folder.config.is_file():
        return False
    cfg = OmegaConf.load(folder.config)
    return (OmegaConf.select(cfg, "model.name"), OmegaConf.select(cfg, "data.name")) == (_MODEL, data)
