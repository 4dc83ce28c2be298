"""What a page tells of a run: what was trained, on what data, what was rejected, where, and how to repeat it."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

from crystalfm.report.page.content import RejectedRows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from crystalfm.data.records import RecordTable
    from crystalfm.run.folder import RunFolder

_NUM_REJECTED = 20


def training_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return what was trained and for how long, from ``summary.json``."""
    model, training = summary["model"], summary["training"]
    facts = {"model": model["name"]}
    for encoder in model["encoders"]:
        state = "frozen" if encoder["frozen"] else "trained"
        facts[encoder["modality"].replace("_", " ")] = f"{encoder['name']}, {state}, width {encoder['width']}"
    if model["parameters"]["total"] is not None:
        parameters = model["parameters"]
        trained = "all" if parameters["trainable"] == parameters["total"] else f"{parameters['trainable']:,}"
        facts["parameters"] = f"{parameters['total']:,}, {trained} trained"
    facts["seed"] = str(summary["seed"])
    members = summary.get("ensemble")
    if members:
        facts["ensemble"] = f"{len(members['seeds'])} members, seeds {', '.join(map(str, members['seeds']))}"
    if training["num_epochs"]:
        facts["epochs"] = str(training["num_epochs"])
    facts["time"] = duration(training["wall_time_seconds"])
    if training["train_time_seconds"] is not None:
        facts["of that, training"] = duration(training["train_time_seconds"])
    for key, name in (("peak_memory_gib", "peak memory"), ("peak_device_memory_gib", "peak memory, device")):
        if training.get(key) is not None:
            facts[name] = f"{training[key]:.2f} GiB"
    return facts | _interval_facts(summary.get("uncertainty"))


def _interval_facts(uncertainty: Mapping[str, Any] | None) -> dict[str, str]:
    if uncertainty is None:
        return {}
    facts = {}
    for name, one in uncertainty["targets"].items():
        held = (one.get("test") or {}).get("coverage")
        if held is not None:
            facts[f"intervals, {name}"] = f"{uncertainty['coverage']:.0%} asked, {held:.1%} of the test rows held"
    return facts


def duration(seconds: float) -> str:
    """Return a time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def data_facts(table: RecordTable, content_hash: str) -> dict[str, str]:
    """Return name, content, licence and reference of the data."""
    spec = table.spec
    facts = {"data set": spec.name, "content": content_hash[:12], "licence": spec.licence, "reference": spec.citation}
    return {name: value for name, value in facts.items() if value}


def environment_rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return versions and platform, from ``environment_facts``."""
    known = {
        "python": facts["python"],
        "platform": facts["platform"],
        "commit": facts["commit"] or "",
        **facts["versions"],
    }
    return {name: value for name, value in known.items() if value}


def rejected_rows(path: Path) -> RejectedRows:
    """Return how many rows were rejected for which reasons, and the first of them."""
    if not path.is_file():
        return RejectedRows()
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [(row["id"], row["reason"], row["value"]) for row in csv.DictReader(stream)]
    # Reasons are kinds, with what is special to a row after a colon.
    counts = Counter(reason.partition(":")[0] for _, reason, _ in rows)
    return RejectedRows(dict(counts.most_common()), rows[:_NUM_REJECTED])


def repeated_command(folder: RunFolder, program: str) -> str | None:
    """Return the command as it was given, from what Hydra has kept; ``None`` for a run that was called from Python."""
    import yaml

    path = folder.root / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return None
    overrides = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return shlex.join(["python", program, *map(str, overrides)])
