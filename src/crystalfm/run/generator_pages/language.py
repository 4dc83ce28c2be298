"""The pages of a generator's training and of the evaluation of its checkpoint: likelihoods, and no crystals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.metrics.crystals.histograms import counts_in_bins
from crystalfm.report.figures import read_metrics
from crystalfm.report.page.content import Distribution, Figure, FigureGroup, PageContent
from crystalfm.report.summary import environment_facts
from crystalfm.run.generator_pages.pieces import filled, number_figure, share_figure
from crystalfm.run.page_facts import data_facts, environment_rows, rejected_rows, repeated_command, training_facts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from crystalfm.data.records import RecordTable
    from crystalfm.run.folder import RunFolder

_NUM_BINS = 40
_MAX_QUANTILE = 0.995
_MARGIN = 1e-3
"""In nats: keeps bins apart where all rows are alike."""
_SPLITS = {"val": "validation", "test": "test", "train": "training"}
_MATCHES = {"exact": "exactly as asked", "equivalent": "as asked, by symmetry", "same_type": "the same defects"}


def training_page(folder: RunFolder, table: RecordTable) -> PageContent:
    """Return what is on the page of a generator's training.

    Args:
        folder: its folder, with everything else written.
        table: its records.

    Raises:
        OSError: a file cannot be read.
        KeyError: a file lacks something.
        ValueError: a file is malformed.
    """
    summary = folder.read_summary()
    data, training = summary["data"], summary["training"]
    metrics = summary["metrics"]
    shown = next((name for name in ("test", "val") if name in metrics), None)
    return PageContent(
        title=summary["name"],
        kind=f"training, {folder.root.name}",
        facts=_language_facts(folder.config) | training_facts(summary),
        command=repeated_command(folder, "train.py"),
        headline=[] if shown is None else _headline(metrics[shown], shown),
        figures=[_likelihood(found, name) for name, found in metrics.items()],
        distributions=_distributions(folder.predictions),
        data=data_facts(table, data["content_hash"])
        | {f"rows, {name}": f"{count:,}" for name, count in data["split_sizes"].items()},
        rejected=rejected_rows(folder.rejected),
        metrics=read_metrics(folder.metrics) if folder.metrics.is_file() else (),
        environment={
            "device": f"{training['device']}, precision {training['precision']}, {training['num_threads']} threads",
            **environment_rows(summary["environment"]),
        },
    )


def _language_facts(path: Path) -> dict[str, str]:
    """Return which language model was trained, and how, from the run's configuration."""
    import yaml

    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    llm, facts = config.get("llm") or {}, {}
    if llm.get("name"):
        facts["language model"] = str(llm["name"])
    if llm.get("lora_rank"):
        facts["adapters"] = f"rank {llm['lora_rank']}, alpha {llm.get('lora_alpha')}"
    if llm.get("quantization"):
        facts["frozen weights"] = str(llm["quantization"])
    return facts


def evaluation_page(folder: RunFolder, table: RecordTable) -> PageContent:
    """Return what is on the page of the evaluation of a generator's checkpoint; see ``training_page``."""
    found: dict[str, Any] = json.loads((folder.root / "evaluation.json").read_text(encoding="utf-8"))
    split = found["split"]
    return PageContent(
        title=f"Evaluation on {table.spec.name}",
        kind=f"evaluation, {folder.root.name}",
        facts={"checkpoint": found["checkpoint"], "rows": f"{found['likelihood']['num_crystals']:,} ({split})"},
        command=repeated_command(folder, "evaluate.py"),
        headline=_headline(found["likelihood"], split),
        figures=filled(
            [_likelihood(found["likelihood"], split), _translations(found.get("ipt")), _matches(found.get("match"))]
        ),
        distributions=_distributions(folder.predictions),
        data=data_facts(table, table.content_hash),
        rejected=rejected_rows(folder.rejected),
        environment=environment_rows(environment_facts()),
    )


def _headline(likelihood: Mapping[str, Any], split: str) -> list[Figure]:
    kind = _kind(likelihood)
    of = f"{likelihood['num_crystals']:,} {_SPLITS.get(split, split)} {kind}s"
    return [
        number_figure("perplexity of a token", likelihood["perplexity"], of),
        number_figure("nats a token", likelihood["loss"], of),
        number_figure(f"nats a {kind}", likelihood["nats_per_crystal"], of),
    ]


def _kind(likelihood: Mapping[str, Any]) -> str:
    """Return what a row is; of defects the tokens that the grammar leaves open are counted."""
    return "crystal" if likelihood.get("decided_loss") is None else "configuration"


def _likelihood(likelihood: Mapping[str, Any], split: str) -> FigureGroup:
    kind, tokens = _kind(likelihood), f"{likelihood['num_tokens']:,} tokens"
    figures = [
        number_figure("nats a token", likelihood["loss"], tokens),
        number_figure("perplexity of a token", likelihood["perplexity"], tokens),
        number_figure(f"nats a {kind}", likelihood["nats_per_crystal"], f"{likelihood['num_crystals']:,} {kind}s"),
    ]
    if likelihood.get("decided_loss") is not None:
        decided = f"{likelihood['num_decided']:,} tokens that the grammar leaves open"
        figures.append(number_figure("nats a decided token", likelihood["decided_loss"], decided))
    return FigureGroup(f"Likelihood of the {_SPLITS.get(split, split)} {kind}s", figures)


def _translations(found: Mapping[str, Any] | None) -> FigureGroup:
    """Return the increase in perplexity under translations; empty where it was not asked for."""
    if found is None:
        return FigureGroup("", [])
    of = f"{found['num_crystals']:,} crystals, {found['num_translations']} translations each"
    mean, median = (number_figure(name, found[name], of) for name in ("mean", "median"))
    return FigureGroup("Increase in perplexity under translations (IPT)", [mean, median])


def _matches(found: Mapping[str, Any] | None) -> FigureGroup:
    """Return how many rows come out when they are asked for; empty where that was not tried."""
    if found is None:
        return FigureGroup("", [])
    if "rate" in found:
        rmse = found["rmse"]
        distance = number_figure("mean distance of sites", rmse["value"], f"{rmse['total']:,} matching crystals")
        return FigureGroup(
            "Crystals asked for by their formula", [share_figure("match", found["rate"], "crystals"), distance]
        )
    figures = [
        share_figure(f"{name}{suffix}", found[source][key], "rows")
        for source, suffix in (("written", ""), ("random", ", at random"))
        for key, name in _MATCHES.items()
    ]
    return FigureGroup("Defects asked for by their properties", figures)


def _distributions(path: Path) -> list[Distribution]:
    """Return how the rows' likelihoods are distributed: nats a token, of each split."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["split", "nats", "tokens"])
    splits = np.array(table.column("split").to_pylist(), dtype=np.str_)
    nats = table.column("nats").to_numpy() / table.column("tokens").to_numpy()
    if not nats.size:
        return []
    highest = float(np.quantile(nats, _MAX_QUANTILE))
    edges = np.linspace(float(nats.min()) - _MARGIN, highest + _MARGIN, _NUM_BINS + 1)
    series = {}
    for name in dict.fromkeys(splits.tolist()):
        values = nats[splits == name]
        series[_SPLITS.get(name, name) or "rows"] = (counts_in_bins(values, edges) / values.size).tolist()
    return [
        Distribution(
            "How likely single rows are",
            series,
            edges=edges.tolist(),
            x_label="nats a token",
            y_label="share of rows",
            note="The fewer nats, the likelier. The last bin holds what is above.",
        )
    ]
