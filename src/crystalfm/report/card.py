"""The card of a predictor, in Hugging Face's format, out of what its run has written down."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import crystalfm
from crystalfm.metrics.scores import with_unit
from crystalfm.report.tables import format_count, format_number, markdown_results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.metrics.scores import ModelScores


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: name of the run.
        model: name of the model.
        parameters: how many; ``None`` where the model has none.
        data: name of the data set.
        data_licence: its licence.
        data_citation: its citation.
        split_sizes: rows of each part.
        modalities: what the model is given, with the encoder of each.
        licences: licence and citation of each pretrained part, by its title.
        results: scores on the test rows, the model's first, baselines behind it.
        coverage: share of the test rows whose value the prediction intervals held, by target; empty without intervals.
        asked_coverage: share they were made for.
        crystals: whether the inputs are crystals; else molecules.
        seed: seed of the run.
        seconds: time of the training.
        device: where it was trained.
    """

    name: str
    model: str
    parameters: int | None
    data: str
    data_licence: str
    data_citation: str
    split_sizes: Mapping[str, int]
    modalities: Mapping[str, str]
    results: Sequence[ModelScores]
    crystals: bool
    seed: int
    licences: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    coverage: Mapping[str, float] = field(default_factory=dict)
    asked_coverage: float | None = None
    seconds: float | None = None
    device: str = ""


@dataclass(frozen=True)
class FolderFacts:
    """What the card of an exported folder says of the folder.

    Attributes:
        files: names of the files beside the card.
        assets: SHA-256 of each asset, by its name, that is needed and not inside.
    """

    files: Sequence[str]
    assets: Mapping[str, str]


def card(facts: CardFacts, folder: FolderFacts | None = None) -> str:
    """Return the card in Markdown, with the front matter that the hub reads.

    Args:
        facts: what the run has written down.
        folder: of a card that lies in an exported folder, what else does.
    """
    sections = [
        f"---\n{_front_matter(facts)}\n---",
        f"# {facts.name}",
        _summary(facts),
        "## Results",
        f"On {facts.split_sizes.get('test', 0):,} test rows, none of which was used in training:",
        markdown_results(facts.results).strip(),
        _intervals(facts),
        "## Use",
        _example(facts, "RUN" if folder is None else "FOLDER"),
        "" if folder is None else _folder(folder),
        "## Intended use and limits",
        _limits(facts),
        "## Data and licences",
        _licences(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: CardFacts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="tabular-regression",
            dataset_type=facts.data,
            dataset_name=facts.data,
            dataset_split="test",
            metric_type=kind,
            metric_name=with_unit(f"{kind.upper()} of {score.target.name}", score.target.unit),
            metric_value=value,
        )
        for score in facts.results[0].scores
        for kind, value in (("mae", score.mae), ("rmse", score.rmse), ("r2", score.r2))
        if math.isfinite(value)  # NaN has no place in the metadata of the hub
    ]
    data = ModelCardData(
        model_name=facts.name,
        library_name="crystalfm",
        license="other",
        license_name="see-data-and-licences",
        datasets=[facts.data],
        tags=["materials-science", "chemistry", "property-prediction", facts.model],
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def _summary(facts: CardFacts) -> str:
    targets = ", ".join(with_unit(score.target.name, score.target.unit) for score in facts.results[0].scores)
    kind = "crystals" if facts.crystals else "molecules"
    inputs = "; ".join(f"{name} ({encoder})" for name, encoder in facts.modalities.items()) or "nothing"
    size = "" if facts.parameters is None else f", {format_count(facts.parameters)} parameters"
    rows = ", ".join(f"{part} {count:,}" for part, count in facts.split_sizes.items())
    lines = [
        f"Predicts {targets} of {kind}. Model `{facts.model}`{size}; it is given: {inputs}.",
        f"Trained with crystalfm {crystalfm.__version__} on `{facts.data}` ({rows}), seed {facts.seed}",
    ]
    if facts.seconds is not None:
        lines[1] += f", {format_number(facts.seconds)} s on {facts.device or 'an unknown device'}"
    return f"{lines[0]}\n{lines[1]}."


def _intervals(facts: CardFacts) -> str:
    if not facts.coverage or facts.asked_coverage is None:
        return ""
    held = ", ".join(f"{name} {share:.1%}" for name, share in facts.coverage.items())
    return f"Prediction intervals made for {facts.asked_coverage:.0%} of new values held on the test rows: {held}."


def _example(facts: CardFacts, place: str) -> str:
    inputs = '["structure.cif"]' if facts.crystals else '["CCO"]'
    return (
        "```python\nimport crystalfm\n\n"
        f'predictor = crystalfm.load("{place}")\nprint(predictor.predict({inputs}).to_pandas())\n```'
    )


def _folder(folder: FolderFacts) -> str:
    lines = [
        f"In the folder: {', '.join(f'`{name}`' for name in folder.files)}.",
        "Files are compared with their checksums when the folder is loaded, and the predictions of `reference.json`",
        "are repeated: a warning says when the versions of packages, or anything else, have changed the numbers.",
        "`splits.json` holds the ids of the training, validation and test rows.",
    ]
    if folder.assets:
        lines += ["", "Not in the folder, and needed: pretrained weights that the training left as they are.", ""]
        lines += [
            f"- `{name}` (`python -m crystalfm.fetch {name}`), SHA-256 `{digest}`"
            for name, digest in folder.assets.items()
        ]
    return "\n".join(lines)


def _limits(facts: CardFacts) -> str:
    kind = "crystals" if facts.crystals else "molecules"
    return (
        f"For screening {kind} like those of the training data; values to rely on come from a calculation or a\n"
        "measurement.\n\n"
        f"- The errors above are averages over {kind} drawn as the test rows were. On other elements or sizes\n"
        "  they can be larger, and nothing here warns of it.\n"
        "- Where a class is rare in the data its errors are larger than the average (`explain=groups` shows by how\n"
        "  much).\n"
        "- Predictions have the systematic errors of the method that the training values come from."
    )


def _licences(facts: CardFacts) -> str:
    lines = [f"- `{facts.data}`: {facts.data_licence or 'your own data'}. {facts.data_citation}".rstrip()]
    lines += [f"- {title}: {licence}. {citation}".rstrip() for title, (licence, citation) in facts.licences.items()]
    return "\n".join(lines)
