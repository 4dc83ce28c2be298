"""Writing what is missing of a generation, a batch at a time, and judging it as it comes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from crystalfm.report.tables import shown_path
from crystalfm.run.folder import RunFolder
from crystalfm.run.generation.engine import checkpoint_digest, sampling_precision
from crystalfm.run.generation.ledger import Ledger
from crystalfm.run.generation.plan import sampling_settings
from crystalfm.run.generation.progress import SamplingProgress
from crystalfm.run.setup import resolved_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from omegaconf import DictConfig
    from rich.console import Console
    from rich.text import Text

    from crystalfm.generation.sampling import Engine, Request, Sample, SamplingSettings

_KEEP_SECONDS = 10.0
"""Longest time between two batches that are written to disk, as far as samples come."""


class Judged(Protocol):
    """A sample and what it is worth."""

    @property
    def good(self) -> bool:
        """Whether it is what was asked for; the share of such samples is shown while they come."""


JudgedT = TypeVar("JudgedT", bound=Judged)
JudgedT_co = TypeVar("JudgedT_co", bound=Judged, covariant=True)


class Asking(Protocol[JudgedT_co]):
    """What is asked of a model, and how its answers are read."""

    def requests(self, indices: Iterable[int]) -> Iterator[Request]:
        """Yield a request for each index."""

    def judge(self, sample: Sample) -> JudgedT_co:
        """Read a sample and say what it is worth."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the questions, as plain containers."""


@dataclass(frozen=True)
class Written(Generic[JudgedT]):
    """What was written.

    Attributes:
        samples: every sample, by index.
        checkpoint: where the model is, and its digest.
        sampling: how tokens were drawn.
        speed: samples of this session, and how fast they came.
    """

    samples: list[JudgedT]
    checkpoint: dict[str, Any]
    sampling: dict[str, Any]
    speed: dict[str, Any]


def write_samples(
    cfg: DictConfig,
    plan: Asking[JudgedT],
    folder: Path,
    console: Console,
    engine: Callable[[], Engine],
    start_lines: Callable[[int], Text],
) -> Written[JudgedT]:
    """Write ``cfg.n`` samples, those of an interrupted generation included.

    Args:
        cfg: configuration of the generation.
        plan: what is asked.
        folder: folder of the generation.
        console: where progress is shown.
        engine: makes the engine, once something is to be written.
        start_lines: says what is asked, given the number of samples from before.

    Raises:
        UserError: the folder cannot be used, or a setting is out of range.
    """
    settings = sampling_settings(cfg)
    sampling = {name: value for name, value in asdict(settings).items() if name != "batch_size"}
    source = {"sha256": checkpoint_digest(cfg.ckpt)}
    how = {"engine": str(cfg.engine), "precision": sampling_precision(cfg)}
    ledger = Ledger(folder, plan.identity() | {"checkpoint": source, "sampling": sampling, **how})
    with ledger.opened(resume=cfg.resume is not None):
        judged = {index: plan.judge(sample) for index, sample in ledger.samples.items()}
        missing = ledger.missing(cfg.n)
        RunFolder(folder).write_config(resolved_config(cfg))
        console.print(start_lines(len(judged)))
        seconds = _write(cfg, plan, engine(), settings, ledger, judged, missing, console) if missing else 0.0
    return Written(
        samples=[judged[index] for index in sorted(judged)],
        checkpoint={"location": str(cfg.ckpt), **source},
        sampling={**sampling, **how, "batch_size": settings.batch_size},
        speed={
            "samples": len(missing),
            "seconds": seconds,
            "samples_per_second": len(missing) / seconds if seconds else None,
        },
    )


def _write(
    cfg: DictConfig,
    plan: Asking[JudgedT],
    engine: Engine,
    settings: SamplingSettings,
    ledger: Ledger,
    judged: dict[int, JudgedT],
    missing: Sequence[int],
    console: Console,
) -> float:
    """Write what is missing and judge it; return the seconds it took."""
    waiting: list[Sample] = []
    num_good = sum(item.good for item in judged.values())
    started = kept = time.monotonic()
    with SamplingProgress(console, cfg.n, len(judged), num_good, enabled=cfg.progress_bar) as progress:
        try:
            for sample in engine.sample(plan.requests(missing), settings):
                waiting.append(sample)
                judged[sample.index] = plan.judge(sample)
                progress.advance(valid=judged[sample.index].good)
                if len(waiting) >= cfg.batch_size or time.monotonic() - kept > _KEEP_SECONDS:
                    ledger.append(waiting)
                    waiting, kept = [], time.monotonic()
        finally:
            # Also after Ctrl-C or an error: what is written is kept.
            ledger.append(waiting)
            if len(judged) < cfg.n:
                hint = f"{len(judged):,} of {cfg.n:,} samples are kept; go on with resume={shown_path(ledger.folder)}"
                console.print(hint, style="yellow", highlight=False, markup=False, soft_wrap=True)
    return time.monotonic() - started
