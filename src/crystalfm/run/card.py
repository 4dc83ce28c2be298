"""``crystalfm card``: the card of a finished run, out of its summary and configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from crystalfm.assets.registry import ASSETS
from crystalfm.contracts import TargetSpec, UserError
from crystalfm.metrics.scores import ModelScores, TargetScore
from crystalfm.report.card import CardFacts, FolderFacts, card
from crystalfm.run.build import construct
from crystalfm.run.crystal_inputs import need_structures
from crystalfm.run.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping


def run_card(place: str, exported: FolderFacts | None = None) -> str:
    """Return the card of a finished run in Markdown.

    Args:
        place: run folder of a predictor.
        exported: of a card for an exported folder, what else lies in it.

    Raises:
        UserError: it is no finished run of one.
    """
    folder = RunFolder(Path(place).expanduser())
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
        cfg = OmegaConf.load(folder.config)
        facts = _facts(summary, cfg)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place} is no finished run of a predictor: {error}", remedy="give the folder of a run that has finished"
        ) from error
    return card(facts, exported)


def _facts(summary: Mapping[str, Any], cfg: Any) -> CardFacts:
    targets = {one["name"]: TargetSpec(one["name"], one["unit"]) for one in summary["data"]["targets"]}
    encoders = {one["modality"]: one["name"] for one in summary["model"]["encoders"]}
    spec = construct(cfg.data).spec()
    intervals = summary.get("uncertainty") or {}
    held = {name: one["test"]["coverage"] for name, one in intervals.get("targets", {}).items() if one.get("test")}
    return CardFacts(
        name=summary["name"],
        model=summary["model"]["name"],
        parameters=(summary["model"].get("parameters") or {}).get("total"),
        data=summary["data"]["name"],
        data_licence=spec.licence,
        data_citation=spec.citation,
        split_sizes=dict(summary["data"]["split_sizes"]),
        modalities=encoders,
        licences=_pretrained(cfg, list(encoders)),
        results=[_scores(name, scores, targets) for name, scores in summary["metrics"]["test"].items()],
        coverage={name: share for name, share in held.items() if share is not None},
        asked_coverage=intervals.get("coverage"),
        crystals=need_structures(list(encoders), cfg),
        seed=int(summary["seed"]),
        seconds=summary["training"].get("train_time_seconds"),
        device=str(summary["training"].get("device", "")),
    )


def _scores(name: str, scores: Mapping[str, Mapping[str, Any]], targets: Mapping[str, TargetSpec]) -> ModelScores:
    def number(value: float | None) -> float:
        return float("nan") if value is None else float(value)

    return ModelScores(
        name,
        tuple(
            TargetScore(target, number(one["mae"]), number(one["rmse"]), number(one["r2"]), int(one["num_rows"]))
            for target, one in ((targets[target], one) for target, one in scores.items())
        ),
    )


def _pretrained(cfg: Any, modalities: list[str]) -> dict[str, tuple[str, str]]:
    """Return licence and citation of every asset whose weights the run began with, by title."""
    nodes = [cfg.encoders.get(name) for name in modalities] + [cfg.get("llm")]
    named = [node.get(key) for node in nodes if node is not None for key in ("asset", "weights")]
    assets = [ASSETS[name] for name in dict.fromkeys(map(str, named)) if name in ASSETS]
    return {asset.title: (asset.licence, asset.citation) for asset in assets}
