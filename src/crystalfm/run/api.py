"""The Python interface, ``crystalfm.load(run).predict([...])``; the command ``crystalfm predict`` stands on it too."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from omegaconf import DictConfig, OmegaConf

from crystalfm.chem.molecules import canonicalize
from crystalfm.config.location import conf_folder
from crystalfm.contracts import DataSpec, TargetSpec
from crystalfm.data.records import RecordTable, Rejection, group_numbers, represent
from crystalfm.encoders.defect_states import KnownDefects
from crystalfm.run.crystal_inputs import crystal_fields, need_structures
from crystalfm.run.exporting.hub import local_folder
from crystalfm.run.exporting.reference import changed_predictions
from crystalfm.run.inputs import crystals_of, molecules_of
from crystalfm.run.prepare import only_test
from crystalfm.run.saved import SavedPredictor
from crystalfm.run.tracking.quiet import quiet_lightning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from crystalfm.run.inputs import Inputs


@dataclass(frozen=True)
class RejectedInput:
    """An input without a prediction.

    Attributes:
        index: its place in the list.
        reason: what is wrong with it.
        value: the offending value, where it is short enough to show.
    """

    index: int
    reason: str
    value: str = ""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions in the order of the inputs.

    Attributes:
        ids: (N,) identifier of each input; its number where it has no other.
        targets: the T quantities.
        values: (N, T) float64 in the targets' units; NaN where the input was rejected. Of an ensemble the mean.
        rejected: inputs without a prediction, in order.
        std: (N, T) standard deviation of an ensemble's members; ``None`` for a single model.
        lower: (N, T) lower ends of prediction intervals; ``None`` where the run has none.
        upper: (N, T) upper ends.
        coverage: share of the cases in which an interval holds the true value; ``None`` without intervals.
    """

    ids: list[str]
    targets: tuple[TargetSpec, ...]
    values: NDArray[np.float64]
    rejected: list[RejectedInput]
    std: NDArray[np.float64] | None = None
    lower: NDArray[np.float64] | None = None
    upper: NDArray[np.float64] | None = None
    coverage: float | None = None

    @property
    def units(self) -> dict[str, str]:
        """Unit of each target by its name."""
        return {target.name: target.unit for target in self.targets}

    def __len__(self) -> int:
        return len(self.ids)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return columns by name.

        They are ``id``, each target's label (``gap_hartree``) and, where the run has such, the label with ``_std``,
        ``_lower`` and ``_upper`` behind it.
        """
        columns: dict[str, list[Any]] = {"id": list(self.ids)}
        for column, target in enumerate(self.targets):
            columns[target.label] = self.values[:, column].tolist()
            for name, part in (("std", self.std), ("lower", self.lower), ("upper", self.upper)):
                if part is not None:
                    columns[f"{target.label}_{name}"] = part[:, column].tolist()
        return columns

    def to_pandas(self) -> pd.DataFrame:
        """Return ``to_dict`` as a table."""
        import pandas as pd

        return pd.DataFrame(self.to_dict())


@dataclass(frozen=True, eq=False)
class ReadInputs:
    """Inputs as a model sees them.

    Attributes:
        inputs: what was given.
        table: rows that can be predicted, under their numbers among the inputs as ids.
        values: one value a row for each modality.
        rejected: the other inputs, in order.
    """

    inputs: Inputs
    table: RecordTable
    values: Mapping[str, Sequence[str | None]]
    rejected: list[RejectedInput]

    def rejections(self) -> list[Rejection]:
        """Return the rejected rows under the inputs' own ids."""
        return [Rejection(self.inputs.ids[item.index], item.reason, item.value) for item in self.rejected]


class ChangedPredictionsWarning(UserWarning):
    """An exported model does not predict what it did when it was exported."""


class Predictor:
    """A trained model at work: loaded once, it predicts as often as it is asked.

    Args:
        saved: the model.
    """

    def __init__(self, saved: SavedPredictor) -> None:
        self._saved = saved

    @property
    def saved(self) -> SavedPredictor:
        """The model."""
        return self._saved

    @property
    def exported_folder(self) -> Path | None:
        """The exported folder that it was loaded from; ``None`` where it was a run."""
        return self._saved.exported

    def aside(self, folder: str) -> Predictor:
        """Return the same model on the CPU in float32, with caches of its own in a subfolder of the cache."""
        return Predictor(self._saved.aside(folder))

    @property
    def targets(self) -> tuple[TargetSpec, ...]:
        """What the model predicts, with units."""
        return self._saved.model.targets

    @property
    def modalities(self) -> list[str]:
        """Views of a molecule or crystal that the model looks at."""
        return list(self._saved.model.modalities)

    @property
    def takes_crystals(self) -> bool:
        """Whether the inputs are crystals; else they are molecules."""
        return need_structures(self.modalities, self._saved.cfg)

    def predict(self, inputs: Sequence[object]) -> Predictions:
        """Predict a list of molecules or crystals.

        Args:
            inputs: for a model of molecules SMILES strings, or dictionaries with ``smiles`` and, where the model reads
                texts, ``description``; for a model of crystals what ``run.inputs.crystals_of`` takes: pymatgen, ASE and
                jarvis objects, paths, texts, dictionaries.

        Returns:
            one row for each input; what cannot be read or used has NaN and a reason, and never raises.

        Raises:
            TypeError: a single string or path was given in place of a list.
        """
        if isinstance(inputs, str) or not hasattr(inputs, "__len__") or not hasattr(inputs, "__iter__"):
            raise TypeError(f"a list of inputs is needed, not a {type(inputs).__name__}")
        given = list(inputs)
        return self.predict_read(self.read(crystals_of(given) if self.takes_crystals else molecules_of(given)))

    def read(self, inputs: Inputs) -> ReadInputs:
        """Make a table of the inputs and the values of every modality; bad rows become rejections."""
        if self.takes_crystals:
            known = KnownDefects.of_encoders(self._saved.model.encoder_states)
            table = crystal_table_of(inputs, self.targets, self._saved.model.modalities, self._saved.cfg, known)
        else:
            table = molecule_table_of(inputs, self.targets, self.modalities)
        table, values = represent(table, self.modalities)
        ordered = sorted(table.rejected, key=lambda item: int(item.id))
        return ReadInputs(
            inputs, table, values, [RejectedInput(int(item.id), item.reason, item.value) for item in ordered]
        )

    def predict_read(self, read: ReadInputs) -> Predictions:
        """Predict what ``read`` returned."""
        quiet_lightning()
        shape = (len(read.inputs.ids), len(self.targets))
        parts: dict[str, NDArray[np.float64]] = {}
        if len(read.table):
            prepared = self._saved.featurize(read.table, read.values, only_test(len(read.table)))
            estimate = self._saved.estimate(prepared, prepared.splits.test)
            found = {name: getattr(estimate, name) for name in ("values", "std", "lower", "upper")}
            for name, part in found.items():
                if part is not None:
                    parts[name] = np.full(shape, np.nan)
                    parts[name][read.table.ids.astype(np.int64)] = part
        values = parts.pop("values", np.full(shape, np.nan))
        intervals = self._saved.intervals
        coverage = None if intervals is None or not intervals.is_bounded else intervals.coverage
        return Predictions(list(read.inputs.ids), self.targets, values, read.rejected, coverage=coverage, **parts)


def load(
    run: str | Path,
    *,
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto",
    cache: str | Path | None = None,
    mirror: str | Path | None = None,
    offline: bool = False,
    check: bool = True,
) -> Predictor:
    """Load a trained model.

    Args:
        run: run folder, checkpoint file, or folder of ``crystalfm export``; ``hf://owner/name`` for such a folder in
            the Hugging Face hub.
        accelerator: device kind.
        cache: folder for downloads and vectors of frozen encoders; ``CRYSTALFM_CACHE`` or a folder in the home folder
            by default.
        mirror: folder with weights of encoders, used before anything is downloaded; ``CRYSTALFM_MIRROR`` by default.
        offline: never use the network.
        check: repeat the reference predictions of an exported folder, and warn where they differ.

    Raises:
        UserError: there is no checkpoint, or it is damaged.

    Warns:
        ChangedPredictionsWarning: an exported model does not predict what it did when it was exported.
    """
    folder = conf_folder()
    cfg: DictConfig = OmegaConf.create(
        {name: OmegaConf.load(folder / name / "default.yaml") for name in ("trainer", "paths")}
    )
    cfg.trainer.accelerator = accelerator
    cfg.paths.offline = offline
    for key, path in (("cache", cache), ("mirror", mirror)):
        if path is not None:
            cfg.paths[key] = str(path)
    quiet_lightning()
    predictor = Predictor(SavedPredictor(local_folder(run, offline=offline), cfg))
    changed = changed_predictions(predictor) if check else None
    if changed is not None:
        warnings.warn(changed, ChangedPredictionsWarning, stacklevel=2)
    return predictor


def molecule_table_of(inputs: Inputs, targets: Sequence[TargetSpec], modalities: Sequence[str]) -> RecordTable:
    """Make records of molecules under their row numbers as ids; bad SMILES become rejections."""
    faulty = {problem.row for problem in inputs.problems}
    asked = [None if row in faulty else text for row, text in enumerate(inputs.fields["smiles"])]
    canonical, problems = canonicalize(asked)
    fields = dict(inputs.fields)
    if "description" in modalities:
        fields.setdefault("description", [None] * len(inputs.ids))
    return _records(inputs.ids, fields, targets, canonical).without([*inputs.problems, *problems])


def crystal_table_of(
    inputs: Inputs,
    targets: Sequence[TargetSpec],
    modalities: Sequence[str],
    cfg: DictConfig,
    known: KnownDefects | None = None,
) -> RecordTable:
    """Make records of crystals under their row numbers as ids; what is no crystal becomes a rejection.

    Of a model that looks at defects, ``known`` holds its hosts and rules: what has others is rejected, too.
    """
    structures = inputs.fields["structure"]
    fields, problems = crystal_fields(structures, inputs.fields.get("description"), modalities, cfg, known)
    faulty = {problem.row for problem in inputs.problems}
    more = [problem for problem in problems if problem.row not in faulty]
    return _records(inputs.ids, fields, targets, structures).without([*inputs.problems, *more])


def _records(
    ids: Sequence[str],
    fields: Mapping[str, list[str | None]],
    targets: Sequence[TargetSpec],
    groups: Sequence[str | None],
) -> RecordTable:
    """Make records under their row numbers as ids; rows of equal ``groups`` are the same thing."""
    return RecordTable(
        spec=DataSpec("input", tuple(fields), tuple(targets), tuple(target.name for target in targets)),
        ids=np.array([str(row) for row in range(len(ids))]),
        fields=fields,
        targets=np.full((len(ids), len(targets)), np.nan),
        target_specs=tuple(targets),
        groups=group_numbers(groups),
    )
