"""Evaluation of a language model: how likely it holds crystals to be, and how much that depends on the origin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from crystalfm.assets.progress import RichProgress
from crystalfm.chem.crystals import Crystal
from crystalfm.data.records import write_rejected
from crystalfm.generation.defects.prompts import DefectPromptSettings
from crystalfm.generation.prompts import generation_prompt
from crystalfm.io.files import write_json
from crystalfm.metrics.crystals.ipt import translation_perplexity
from crystalfm.models.language.scoring import mean_nll
from crystalfm.report.tables import closing_panel
from crystalfm.run.build import asset_store, build_language_module
from crystalfm.run.folder import RunFolder
from crystalfm.run.generation.engine import move_to_device, sampling_precision
from crystalfm.run.generator_pages.language import evaluation_page
from crystalfm.run.language.defect_match import match_by_properties, match_sentence
from crystalfm.run.language.defects import prepare_defects, read_records
from crystalfm.run.language.formula_match import match_by_formula, require_formulas
from crystalfm.run.language.likelihood import Likelihood, likelihood_table, write_likelihoods
from crystalfm.run.language.prepare import TextSettings, language_dataset, prepare_language, texts_with
from crystalfm.run.language.restore import writer_of
from crystalfm.run.network import build_datamodule
from crystalfm.run.page import publish
from crystalfm.run.parallel.hardware import prediction_precision
from crystalfm.run.prepare import rows_of, use_split_of_run
from crystalfm.run.tracking.progress import progress_bar
from crystalfm.run.trainer_session import predict_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Console

    from crystalfm.generation.writer import CrystalWriter
    from crystalfm.metrics.crystals.ipt import TranslationPerplexity
    from crystalfm.metrics.crystals.matching import PairMatches
    from crystalfm.run.checkpoints.payload import SavedModel
    from crystalfm.run.prepare import PreparedData

_MACHINE_KEYS = ("paths", "trainer")


def evaluate_language(cfg: DictConfig, saved: SavedModel, run_dir: Path, console: Console) -> dict[str, float]:
    """Score the crystals of a split, the run's own data or others, and write what was found.

    Args:
        cfg: configuration of ``evaluate``.
        saved: checkpoint of a language model.
        run_dir: folder for the results.
        console: where they are shown.

    Returns:
        ``loss``, ``perplexity`` and ``nats_per_crystal``, and ``ipt`` and ``match_rate`` where they were asked for; of
        defects also the rates of configurations that come out as they were asked for.

    Raises:
        UserError: something the user can mend.
    """
    own = cfg.get("data") is None
    merged = _merged(cfg, saved)
    store = asset_store(merged, RichProgress(console))
    writer = writer_of(saved, store)
    writes_defects = isinstance(writer.prompts, DefectPromptSettings)
    # What cannot be asked of the model is said before anything is computed.
    if cfg.match_crystals or writes_defects:
        sampling_precision(cfg)
    if cfg.match_crystals and not writes_defects:
        require_formulas(writer)
    if own:
        use_split_of_run(merged, saved.path)
    prepared = _prepared(merged, store, writer, all_rows=not own)
    split = cfg.split if own else "all"
    rows = rows_of(split, prepared)
    read = rows if cfg.likelihood_crystals is None else _drawn_rows(rows, cfg.likelihood_crystals, cfg.seed)
    module = build_language_module(merged, writer.model)
    predicted = predict_rows(merged, module, build_datamodule(merged, prepared), read)
    found = Likelihood.of(predicted)
    console.print(likelihood_table({split: found}))
    move_to_device(cfg, writer)
    score = _defect_scores if writes_defects else _crystal_scores
    scores, metrics = score(cfg, writer, prepared, rows, console)
    folder = RunFolder(run_dir)
    write_likelihoods(folder.predictions, prepared, read, predicted)
    write_rejected(folder.rejected, prepared.table.rejected)
    facts = {"checkpoint": str(saved.path), "split": split, "likelihood": found.as_dict()}
    write_json(folder.root / "evaluation.json", facts | scores)
    console.print(closing_panel(folder.root, []))
    publish(folder, lambda: evaluation_page(folder, prepared.table), console)
    return {key: float(value) for key, value in found.as_dict().items() if not key.startswith("num_")} | metrics


def _crystal_scores(
    cfg: DictConfig, writer: CrystalWriter, prepared: PreparedData, rows: NDArray[np.int64], console: Console
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what was asked for: perplexity under translations, and crystals asked for by their formula."""
    scores: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    if cfg.ipt_crystals:
        ipt = _translated(cfg, writer, _drawn(prepared, rows, cfg.ipt_crystals, cfg.seed))
        scores["ipt"] = _as_dict(ipt)
        metrics["ipt"] = ipt.mean.value
        console.print(_sentence(ipt), highlight=False)
    if cfg.match_crystals:
        drawn = _drawn(prepared, rows, cfg.match_crystals, cfg.seed)
        matches = match_by_formula(writer, drawn, seed=cfg.seed, precision=sampling_precision(cfg))
        scores["match"] = {"rate": matches.match_rate.as_dict(), "rmse": matches.rmse.as_dict()}
        metrics["match_rate"] = matches.match_rate.fraction
        console.print(_match_sentence(matches), highlight=False)
    return scores, metrics


def _defect_scores(
    cfg: DictConfig, writer: CrystalWriter, prepared: PreparedData, rows: NDArray[np.int64], console: Console
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return how many configurations come out when they are asked for by their properties, each of the rows once."""
    chosen = prepared.table.select(rows)
    names = [target.name for target in chosen.target_specs]
    known = [dict(zip(names, values, strict=True)) for values in chosen.targets.tolist()]
    precision = sampling_precision(cfg)
    matches, guessed = match_by_properties(writer, read_records(chosen), known, seed=cfg.seed, precision=precision)
    console.print(match_sentence(matches, guessed), highlight=False)
    return {"match": {"written": matches.as_dict(), "random": guessed.as_dict()}}, {
        "exact_match_rate": matches.exact.fraction,
        "equivalent_match_rate": matches.equivalent.fraction,
        "type_match_rate": matches.same_type.fraction,
    }


def _merged(cfg: DictConfig, saved: SavedModel) -> DictConfig:
    """Return the configuration of the checkpoint with the paths and the device of here."""
    merged = OmegaConf.create(saved.config)
    for key in _MACHINE_KEYS:
        merged[key] = cfg[key]
    if cfg.get("data") is not None:
        merged.data = cfg.data
    if not isinstance(merged, DictConfig):
        raise TypeError("the configuration of a checkpoint is a mapping")
    return merged


def _prepared(cfg: DictConfig, store: Any, writer: CrystalWriter, *, all_rows: bool) -> PreparedData:
    dataset = language_dataset(cfg, store)
    if isinstance(writer.prompts, DefectPromptSettings):
        changes = texts_with(cfg.model, writer.prompts)
        return prepare_defects(cfg, dataset, changes, writer.tokenizer, all_rows=all_rows)
    # In the words of the training, and without looking for properties, which only training examples ask for.
    prompts = replace(writer.prompts, conditions=())
    texts = TextSettings(prompts, cfg.model.pack_length, cfg.model.max_length, cfg.model.learn)
    return prepare_language(cfg, dataset, texts, writer.tokenizer, all_rows=all_rows)


def _drawn_rows(rows: NDArray[np.int64], number: int, seed: int) -> NDArray[np.int64]:
    """Return some of the rows, drawn at random."""
    drawn: NDArray[np.int64] = np.sort(np.random.default_rng(seed).permutation(rows)[:number])
    return drawn


def _drawn(prepared: PreparedData, rows: NDArray[np.int64], num_crystals: int, seed: int) -> list[Crystal]:
    """Return the crystals of some of the rows, drawn at random."""
    structures = prepared.table.fields["structure"]
    return [Crystal.from_json(structures[row] or "") for row in _drawn_rows(rows, num_crystals, seed).tolist()]


def _translated(cfg: DictConfig, writer: CrystalWriter, crystals: Sequence[Crystal]) -> TranslationPerplexity:
    """Return the increase in perplexity under translations of crystals, in the arithmetic of ``trainer.precision``."""
    prompts = writer.crystal_prompts
    prompt = generation_prompt({}, prompts)
    device = next(writer.model.parameters()).device.type
    precision = torch.autocast(device, torch.bfloat16, enabled=prediction_precision(cfg).startswith("bf16"))
    with precision, progress_bar("reading translated crystals") as progress:
        return translation_perplexity(
            crystals,
            prompts.text.write,
            lambda texts: mean_nll(writer.model, writer.tokenizer, [(prompt, text) for text in texts]),
            seed=int(cfg.seed),
            progress=progress,
        )


def _as_dict(ipt: TranslationPerplexity) -> dict[str, Any]:
    return {
        "mean": ipt.mean.value,
        "median": ipt.median.value,
        "num_crystals": len(ipt.increase),
        "num_failed": ipt.num_failed,
        "num_translations": ipt.num_translations,
    }


def _sentence(ipt: TranslationPerplexity) -> str:
    return (
        f"increase in perplexity under translations (IPT): mean {ipt.mean.value:.4f}, median {ipt.median.value:.4f},"
        f" of {len(ipt.increase):,} crystals, {ipt.num_translations} translations each"
    )


def _match_sentence(matches: PairMatches) -> str:
    rate, rmse = matches.match_rate, matches.rmse
    distance = f", mean distance of sites {rmse.value:.3f}" if rate.count else ""
    return (
        f"asked for by their formula, one sample each: {rate.count:,} of {rate.total:,} match ({rate.fraction:.1%})"
        f"{distance}"
    )
