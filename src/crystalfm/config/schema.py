"""What each entry point's configuration consists of: typed values, typed sections, and nodes that name a class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class TrainerSettings:
    """How long, where and how precisely to train; most names are those of Lightning's Trainer.

    Attributes:
        accelerator: device kind; ``auto`` takes what is there.
        devices: number of devices, list of device numbers, or ``auto`` for all.
        num_nodes: machines that train together.
        strategy: ``auto`` is ``ddp`` over several devices, a copy of the network on each; ``fsdp`` shares its weights.
        precision: ``auto`` is ``bf16-mixed`` where the hardware has it, else ``32-true``.
        max_epochs: passes over the training rows.
        max_steps: optimizer steps; -1 for no limit.
        max_minutes: wall time; ``None`` for no limit.
        accumulate_grad_batches: batches whose gradients are added before a step.
        gradient_clip_val: largest norm of the gradient; ``None`` for no limit.
        val_check_interval: validations as a share of the epoch, or a number of batches.
        check_val_every_n_epoch: epochs between validations.
        limit_train_batches: number or share of the training batches; ``None`` for all.
        limit_val_batches: the same for validation.
        limit_test_batches: the same for test.
        overfit_batches: train and validate on these batches only; 0 for off.
        num_sanity_val_steps: validation batches before training.
        log_every_n_steps: steps between rows of ``metrics.csv``.
        deterministic: refuse operations whose result varies.
        detect_anomaly: find the operation that makes a NaN (slow).
        profiler: Lightning's profiler.
        compile: compile the network in place.
        num_threads: CPU threads; ``None`` for torch's own choice.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int | list[int] | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"] = "auto"
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"] = "auto"
    max_epochs: int = 30
    max_steps: int = -1
    max_minutes: float | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = 1.0
    val_check_interval: int | float = 1.0
    check_val_every_n_epoch: int = 1
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    overfit_batches: int | float = 0
    num_sanity_val_steps: int = 0
    log_every_n_steps: int = 10
    deterministic: bool | Literal["warn"] = False
    detect_anomaly: bool = False
    profiler: Literal["simple", "advanced"] | None = None
    compile: bool = False
    num_threads: int | None = None


@dataclass(frozen=True)
class PathsSettings:
    """Folders.

    Attributes:
        runs: folder of the run folders.
        cache: downloads and cached vectors.
        mirror: folder with data sets and weights, used in place; ``None`` for none.
        offline: never use the network.
    """

    runs: str = "runs"
    cache: str = "~/.cache/crystalfm"
    mirror: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class CallbackSettings:
    """What happens around the training loop.

    Attributes:
        early_stopping_patience: validations without a lower ``val/loss`` before training stops; ``None`` for never.
        checkpoint_every_n_steps: optimizer steps between resumable states within an epoch.
        checkpoint_every_n_epochs: epochs between resumable states at the ends of epochs.
        save_top_k: checkpoints with the lowest ``val/loss`` to keep.
        ema_decay: decay of an exponential moving average of the weights; ``None`` for off.
        progress_bar: show progress.
        stop_on_nan: stop at a loss that is not a number.
    """

    early_stopping_patience: int | None = None
    checkpoint_every_n_steps: int | None = None
    checkpoint_every_n_epochs: int = 1
    save_top_k: int = 1
    ema_decay: float | None = None
    progress_bar: bool = True
    stop_on_nan: bool = True


@dataclass(frozen=True)
class LoggerSettings:
    """Where metrics are logged.

    Attributes:
        csv: ``metrics.csv`` in the run folder.
        tensorboard: TensorBoard event files in the run folder.
        wandb: Weights & Biases.
        wandb_mode: ``auto`` is online where an API key is at hand, else offline.
        wandb_project: project there.
        wandb_entity: user or team there; ``None`` for the account's default.
        wandb_group: runs shown together; ``None`` groups the jobs of a multirun.
        wandb_tags: tags of the run.
        wandb_checkpoint: send the best checkpoint too.
        wandb_timeout_seconds: how long its server may take to open a run, and to take what is left at the end.
    """

    csv: bool = True
    tensorboard: bool = False
    wandb: bool = False
    wandb_mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    wandb_project: str = "crystalfm"
    wandb_entity: str | None = None
    wandb_group: str | None = None
    wandb_tags: list[str] = field(default_factory=list)
    wandb_checkpoint: bool = True
    wandb_timeout_seconds: int = 300


@dataclass(frozen=True)
class TrainSettings:
    """Top-level values of ``train.yaml``.

    Attributes:
        seed: seed of every random number.
        ensemble: members trained with successive seeds on the same split.
        coverage: share of the cases in which a prediction interval is to hold the true value; ``None`` for none.
        mode: option of the group ``mode`` that is in force, for names and tables.
        modalities: ``auto`` or a list of modality names.
        name: name of the run.
        baselines: models fitted on the same rows at the end.
        ckpt: run folder or file to go on from, or ``auto``.
        max_rejected_fraction: share of unusable rows above which the run stops.
        answer: how ``model=crystal_llm`` writes defects: the changed sites, or every site again.
    """

    name: str
    seed: int = 42
    ensemble: int = 1
    coverage: float | None = 0.9
    mode: str | None = None
    modalities: list[str] | Literal["auto"] = "auto"
    baselines: list[str] = field(default_factory=list)
    ckpt: str | None = None
    max_rejected_fraction: float = 0.01
    answer: Literal["edits", "full"] = "edits"


@dataclass(frozen=True)
class BenchSettings:
    """How ``bench`` measures.

    Attributes:
        steps: optimizer steps that are measured.
        warmup: optimizer steps before them.
        processes: numbers of processes, one measurement each.
        peak_tflops: peak arithmetic rate of one device in TFLOP/s; ``None`` for what is known of the device.
        output: JSON file to write; ``None`` for ``bench.json`` in the run folder.
    """

    steps: int = 50
    warmup: int = 10
    processes: list[int] | Literal["auto"] = "auto"
    peak_tflops: float | None = None
    output: str | None = None


@dataclass(frozen=True)
class EvaluateSettings:
    """Top-level values of ``evaluate.yaml``.

    Attributes:
        name: name of the evaluation's folder.
        ckpt: run folder or checkpoint file; or else
        structures: crystals to judge: folder, file or run of ``generate.py``.
        stability: whether to relax structures and count the stable ones.
        seed: seed of what is drawn when structures are judged.
        split: rows to score.
        likelihood_crystals: crystals whose likelihood is measured, drawn at random; ``None`` for all rows.
        ipt_crystals: crystals whose increase in perplexity under translations is measured; 0 for none.
        match_crystals: crystals that a generator is asked for by their formula; 0 for none.
        predictor: run of a predictor of the property that samples were asked for.
        explain: what to explain of a predictor.
        explain_rows: rows whose texts are taken apart, drawn at random; ``None`` for all.
        explain_mask: whether a place is masked by itself, or all places of a word in a text together.
        explain_precision: arithmetic of a frozen encoder of masked texts; ``auto`` is bfloat16 where the hardware
            multiplies it.
        max_rejected_fraction: share of unusable rows above which the evaluation stops.
        check: whether the reference predictions of an exported folder are repeated first.
    """

    name: str
    ckpt: str | None = None
    structures: str | None = None
    stability: bool = False
    seed: int = 42
    split: Literal["train", "val", "test", "all"] = "test"
    likelihood_crystals: int | None = None
    ipt_crystals: int = 100
    match_crystals: int = 0
    predictor: str | None = None
    explain: Literal["erasure", "words", "modalities", "groups"] | None = None
    explain_rows: int | None = 100
    explain_mask: Literal["place", "word"] = "place"
    explain_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_rejected_fraction: float = 0.01
    check: bool = True


@dataclass(frozen=True)
class JudgingSettings:
    """How ``evaluate.py structures=...`` judges.

    Attributes:
        fingerprints: whether to compute coverage and diversity, the slowest part.
        fingerprint_novelty: whether to compute the protocol's novelty by fingerprints too.
        references: test crystals of the reference, drawn at random; ``None`` for all.
        time_limit_seconds: a crystal whose fingerprint takes longer counts as one without.
        jobs: processes; ``None`` for as many as there are cores.
        symprec: tolerance of space groups in angstrom.
    """

    fingerprints: bool = True
    fingerprint_novelty: bool = False
    references: int | None = 1000
    time_limit_seconds: float = 60.0
    jobs: int | None = None
    symprec: float = 0.1


@dataclass(frozen=True)
class PredictSettings:
    """Top-level values of ``predict.yaml``.

    Attributes:
        ckpt: run folder or checkpoint file.
        input: SMILES, file of SMILES, or table.
        output: CSV to write.
        smiles_column: column of the SMILES in a table.
        id_column: column of the ids; ``None`` for row numbers.
        description_column: column of the descriptions.
        max_rejected_fraction: share of unusable rows above which the exit code is 2.
        check: whether the reference predictions of an exported folder are repeated first.
    """

    ckpt: str
    input: str
    output: str | None = None
    smiles_column: str = "smiles"
    id_column: str | None = None
    description_column: str | None = None
    max_rejected_fraction: float = 0.5
    check: bool = True


@dataclass(frozen=True)
class ExportSettings:
    """Top-level values of ``export.yaml``.

    Attributes:
        ckpt: run folder or checkpoint file.
        out: a new folder.
        adapter: whether to write a generator's adapters alone.
    """

    ckpt: str
    out: str
    adapter: bool = False


_HERE = "crystalfm.config.schema"
_GENERATING = "crystalfm.config.generating"
_SECTIONS: Mapping[str, str] = {
    "optimizer": "crystalfm.models.settings.OptimizerSettings",
    "scheduler": "crystalfm.models.settings.SchedulerSettings",
    "trainer": f"{_HERE}.TrainerSettings",
    "callbacks": f"{_HERE}.CallbackSettings",
    "logger": f"{_HERE}.LoggerSettings",
    "paths": f"{_HERE}.PathsSettings",
    "descriptions": "crystalfm.data.descriptions.DescriptionSettings",
}


@dataclass(frozen=True)
class EntryPoint:
    """What the configuration of one command consists of.

    Attributes:
        name: name of the command and of its YAML file.
        values: dotted path of the dataclass of the top-level values.
        sections: dataclass of each section.
        targets: keys of nodes with a ``_target_``.
        mappings: keys that hold one ``_target_`` node a modality.
        optional: keys among ``targets`` that may be null.
    """

    name: str
    values: str
    sections: Mapping[str, str]
    targets: tuple[str, ...] = ()
    mappings: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


ENTRY_POINTS: Mapping[str, EntryPoint] = {
    entry.name: entry
    for entry in (
        EntryPoint("train", f"{_HERE}.TrainSettings", _SECTIONS, ("data", "model", "llm"), ("encoders",)),
        EntryPoint(
            "bench",
            f"{_HERE}.TrainSettings",
            {**_SECTIONS, "bench": f"{_HERE}.BenchSettings"},
            ("data", "model", "llm"),
            ("encoders",),
        ),
        EntryPoint(
            "evaluate",
            f"{_HERE}.EvaluateSettings",
            {key: _SECTIONS[key] for key in ("trainer", "paths", "descriptions", "logger")}
            | {
                "judging": f"{_HERE}.JudgingSettings",
                "relaxation": "crystalfm.metrics.stability.relaxation.RelaxationSettings",
            },
            targets=("data", "reference"),
            optional=("data", "reference"),
        ),
        EntryPoint(
            "predict",
            f"{_HERE}.PredictSettings",
            {key: _SECTIONS[key] for key in ("trainer", "paths", "descriptions")},
        ),
        EntryPoint("export", f"{_HERE}.ExportSettings", {"paths": _SECTIONS["paths"]}),
        EntryPoint(
            "compare",
            "crystalfm.config.comparing.CompareSettings",
            {key: _SECTIONS[key] for key in ("paths", "logger")},
        ),
        EntryPoint("defects_enumerate", "crystalfm.config.defects.EnumerateSettings", {}),
        EntryPoint("defects_random", "crystalfm.config.defects.RandomSettings", {}),
        EntryPoint(
            "generate",
            f"{_GENERATING}.GenerateSettings",
            {key: _SECTIONS[key] for key in ("trainer", "paths", "logger")}
            | {"condition": f"{_GENERATING}.ConditionSettings", "infill": f"{_GENERATING}.InfillSettings"},
            targets=("data",),
            optional=("data",),
        ),
    )
}
"""Every command that reads a configuration."""

RESERVED_KEYS: Mapping[str, tuple[str, ...]] = {
    "data": ("name",),
    "reference": ("name",),
    "model": ("name", "requires"),
    "llm": ("name",),
    "encoders": ("name", "accepts"),
}
"""Keys of a ``_target_`` node that are not arguments of its class: its option's name, and what it goes with."""


@dataclass(frozen=True)
class RequiresSettings:
    """Key ``requires`` of a model: what it needs of data and encoders.

    Attributes:
        modalities: modalities it can use.
        min_modalities: how many it needs.
        max_modalities: how many it takes; ``None`` for any number.
        frozen: those of them that it can use from a frozen encoder alone.
        raw: those of them that it takes as they are, without an encoder.
    """

    modalities: list[str]
    min_modalities: int = 1
    max_modalities: int | None = None
    frozen: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AcceptsSettings:
    """Reserved keys of an encoder.

    Attributes:
        name: name of the option.
        accepts: modalities it can encode.
    """

    name: str
    accepts: list[str]


@dataclass(frozen=True)
class Bound:
    """Range of a number.

    Attributes:
        low: smallest value.
        high: largest value, or ``None``.
        low_open: whether ``low`` itself is refused.
        high_open: whether ``high`` itself is refused.
        also: value allowed besides.
    """

    low: float
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    also: float | None = None

    def holds(self, value: float) -> bool:
        """Say whether ``value`` is inside."""
        if self.also is not None and value == self.also:
            return True
        above = value > self.low if self.low_open else value >= self.low
        if self.high is None:
            return above
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        text = f"above {self.low:g}" if self.low_open else f"at least {self.low:g}"
        if self.high is not None:
            text += f" and {'below' if self.high_open else 'at most'} {self.high:g}"
        return text if self.also is None else f"{text}, or {self.also:g}"


_COUNT = Bound(1)
_NOT_NEGATIVE = Bound(0)
_SHARE = Bound(0, 1)
_RATE = Bound(0, 1, high_open=True)
_PART = Bound(0, 1, low_open=True, high_open=True)
_POSITIVE = Bound(0, low_open=True)

RANGES: Mapping[str, Bound] = {
    **dict.fromkeys(
        (
            *("width", "num_layers", "num_heads", "num_bits", "max_length", "pack_length"),
            *("batch_size", "eval_batch_size", "batch_budget", "limit"),
            *("num_nodes", "num_threads", "accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps"),
            *("early_stopping_patience", "checkpoint_every_n_steps", "save_top_k", "lora_rank"),
            "checkpoint_every_n_epochs",
            *("ensemble", "num_trees", "max_depth", "early_stopping_rounds", "steps", "warmup", "jobs"),
            *("references", "n", "top_k", "max_atoms", "max_new_tokens", "max_defects", "top", "number"),
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            *("radius", "num_workers", "num_sanity_val_steps", "warmup_steps", "patience", "min_lr", "weight_decay"),
            *("gamma", "min_child_weight", "num_trials", "temperature", "pictures", "min_distance", "min_defects"),
        ),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(("seed", "split_seed", "overfit_batches"), _NOT_NEGATIVE),
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches"), _NOT_NEGATIVE),
    **dict.fromkeys(
        ("dropout", "modality_dropout", "lora_dropout", "momentum", "test_fraction", "val_fraction"), _RATE
    ),
    **dict.fromkeys(("subsample", "colsample_bytree", "top_p", "concentration"), Bound(0, 1, low_open=True)),
    **dict.fromkeys(
        (
            *("lr", "mlp_ratio", "max_minutes", "gradient_clip_val", "val_check_interval", "learning_rate"),
            *("peak_tflops", "wandb_timeout_seconds", "time_limit_seconds", "max_force", "symprec", "tolerance"),
        ),
        _POSITIVE,
    ),
    **dict.fromkeys(("max_epochs", "max_steps"), Bound(1, also=-1)),
    **dict.fromkeys(("max_rejected_fraction", "infill_fraction"), _SHARE),
    "spacegroup": Bound(1, 230),
    **dict.fromkeys(("ema_decay", "coverage"), _PART),
}
"""Range of numbers, by the last part of their key."""
