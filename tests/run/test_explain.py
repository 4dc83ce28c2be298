"""Explanations of a saved model: its own answers under whole texts, others under texts with parts taken away."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import MakeConfig
from test_hybrid_run import BRIEF, NARROW, SMALL, TEXTS, crystals, mirror

from crystalfm.chem.crystals import make_crystal
from crystalfm.chem.description_process import Outcome
from crystalfm.contracts import UserError
from crystalfm.data.descriptions import DescribedCrystals
from crystalfm.run.evaluate import evaluate
from crystalfm.run.explaining.groups import _molecule_groups, prototype
from crystalfm.run.train import train

pytest.importorskip("pymatgen", reason="needs pymatgen")
__all__ = ["crystals", "mirror"]

LABEL = "formation_energy_peratom_eV_per_atom"


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts in ChemNLP's blocks; the one of bonds says nothing."""

    def describe(cfg: Any, structures: list[str]) -> DescribedCrystals:
        edges = [json.loads(text)["lattice"][0][0] for text in structures]
        outcomes = [
            Outcome(f"The structure information include: {edge:.3f}; The bond distances are as follows: zzz.")
            for edge in edges
        ]
        return DescribedCrystals(outcomes, 0, len(outcomes), 0.0)

    monkeypatch.setattr("crystalfm.run.descriptions.describe", describe)


@pytest.fixture
def run(make_config: MakeConfig, tmp_path: Path, crystals: Path, mirror: Path) -> Path:
    data = ["model=hybrid", "data=jarvis", f"data.path={crystals}", *TEXTS, *NARROW, *BRIEF, *SMALL]
    data += ["modalities=[crystal_graph,description]", "encoders.description.max_length=64", f"paths.mirror={mirror}"]
    train(make_config(*data, tiny=False), tmp_path / "run")
    return tmp_path / "run"


def explained(make_config: MakeConfig, tmp_path: Path, run: Path, mirror: Path, kind: str) -> dict[str, float]:
    asked = [f"ckpt={run}", "trainer=cpu", f"paths.mirror={mirror}", f"explain={kind}", "explain_rows=null"]
    return evaluate(make_config(*asked, config="evaluate", tiny=False), tmp_path / "evaluation")


def test_erasure_of_a_hybrid(make_config: MakeConfig, tmp_path: Path, run: Path, mirror: Path) -> None:
    metrics = explained(make_config, tmp_path, run, mirror, "erasure")
    folder = tmp_path / "evaluation" / "explanations"
    content = json.loads((folder / "erasure.json").read_text())
    assert content["mae"][LABEL] == pytest.approx(metrics[f"mae_{LABEL}"], rel=1e-4)
    assert content["other_share"] == 0.0
    by_tag = {item["tag"]: item for item in content["tags"]}
    assert list(by_tag) == ["chemical", "structure", "bond"]
    assert (by_tag["chemical"]["num_texts"], by_tag["chemical"]["change"]["value"]) == (0, 0.0)
    assert by_tag["structure"]["num_texts"] == content["rows"]
    assert by_tag["structure"]["mean_tokens"] > 5
    assert by_tag["structure"]["change"]["value"] != 0.0
    assert metrics[f"comprehensiveness_structure_{LABEL}"] == by_tag["structure"]["change"]["value"]
    with (folder / "erasure.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["tag"] for row in rows] == list(by_tag)
    assert float(rows[1]["mae"]) == by_tag["structure"]["mae"]
    assert (folder / "erasure.png").stat().st_size > 5_000


def test_words_of_a_hybrid(make_config: MakeConfig, tmp_path: Path, run: Path, mirror: Path) -> None:
    metrics = explained(make_config, tmp_path, run, mirror, "words")
    folder = tmp_path / "evaluation" / "explanations"
    with (folder / "words.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    words = ["The", "structure", "information", "include:", "The", "bond", "distances", "are", "as", "follows:", "zzz."]
    assert [row["word"] for row in rows if row["place"] == "0"] == ["The"] * len({row["id"] for row in rows})
    assert {row["word"] for row in rows} >= set(words)
    changes = np.array([float(row["change"]) for row in rows])
    ids = {row["id"] for row in rows}
    assert metrics[f"mean_absolute_change_{LABEL}"] == pytest.approx(np.abs(changes).mean())
    with (folder / "words_mean.csv").open(newline="") as stream:
        means = {row["word"]: row for row in csv.DictReader(stream)}
    assert (means["bond"]["num_places"], means["zzz"]["num_texts"]) == (str(len(ids)), str(len(ids)))
    bond = [float(row["change"]) for row in rows if row["word"] == "bond"]
    assert float(means["bond"]["change"]) == pytest.approx(np.mean(bond))
    facts = json.loads((folder / "words.json").read_text())
    assert (facts["words"], facts["masked"]) == (len(rows), "one place")
    assert "http" not in (folder / "words.html").read_text()
    assert (folder / "words.png").stat().st_size > 5_000


def test_models_without_texts_say_so(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    data = ["model=alignn", "data=jarvis", f"data.path={crystals}", *NARROW, *BRIEF]
    train(make_config(*data, tiny=False), tmp_path / "run")
    with pytest.raises(UserError, match="reads no texts, only crystal_graph"):
        explained(make_config, tmp_path, tmp_path / "run", tmp_path, "erasure")


def test_errors_by_groups_of_crystals(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    data = ["model=alignn", "data=jarvis", f"data.path={crystals}", *NARROW, *BRIEF]
    train(make_config(*data, tiny=False), tmp_path / "run")
    explained(make_config, tmp_path, tmp_path / "run", tmp_path, "groups")
    folder = tmp_path / "evaluation" / "explanations"
    content = json.loads((folder / "groups.json").read_text())
    kinds = {item["kind"] for item in content["groups"]}
    assert kinds == {"crystal system", "composition prototype", "number of elements", "range of the true value"}
    for kind in kinds:
        assert sum(item["count"] for item in content["groups"] if item["kind"] == kind) == content["rows"]
    assert (folder / "groups.csv").read_text().count("\n") == len(content["groups"]) + 1
    assert (folder / "groups_formation_energy_peratom.png").stat().st_size > 5_000


def test_prototypes_and_molecules() -> None:
    spinel = make_crystal(np.eye(3) * 8, [12, *[13] * 2, *[8] * 4], np.random.default_rng(0).random((7, 3)))
    assert prototype(spinel) == "AB2C4"
    groups, order = _molecule_groups(["CCO", "c1ccccc1", "C" * 12])
    assert groups == {"heavy atoms": ["3", "6", "12"]}
    assert order["heavy atoms"][:3] == ["3", "6", "12"]


def test_a_fusion_without_each_of_its_modalities(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make_config("trainer.max_epochs=1"), run)
    metrics = explained(make_config, tmp_path, run, tmp_path, "modalities")
    folder = tmp_path / "evaluation" / "explanations"
    rows = json.loads((folder / "modalities.json").read_text())["modalities"]
    assert {(row["modality"], row["target"]) for row in rows} == {
        (modality, target) for modality in ("smiles", "fingerprint") for target in ("energy_eV", "gap_hartree")
    }
    for row in rows:
        assert row["mae"] == pytest.approx(metrics[f"mae_{row['target']}"], rel=1e-4)
        assert row["change"] == metrics[f"change_without_{row['modality']}_{row['target']}"] != 0.0
        assert row["mae_without"] == pytest.approx(row["mae"] + row["change"])
    assert (folder / "modalities.csv").read_text().count("\n") == 5
    assert (folder / "modalities.png").stat().st_size > 5_000


def test_one_modality_cannot_be_left_out(make_config: MakeConfig, tmp_path: Path, crystals: Path) -> None:
    data = ["model=alignn", "data=jarvis", f"data.path={crystals}", *NARROW, *BRIEF]
    train(make_config(*data, tiny=False), tmp_path / "run")
    with pytest.raises(UserError, match="one modality, crystal_graph"):
        explained(make_config, tmp_path, tmp_path / "run", tmp_path, "modalities")


def test_places_of_a_word_together_in_a_given_arithmetic(
    make_config: MakeConfig, tmp_path: Path, run: Path, mirror: Path
) -> None:
    found: dict[tuple[str, str], list[float]] = {}
    counts = {}
    for mask, precision in (("place", "float32"), ("word", "float32"), ("word", "bfloat16")):
        asked = [f"ckpt={run}", "trainer=cpu", f"paths.mirror={mirror}", "explain=words", "explain_rows=2"]
        asked += [f"explain_mask={mask}", f"explain_precision={precision}"]
        folder = tmp_path / f"{mask}-{precision}"
        evaluate(make_config(*asked, config="evaluate", tiny=False), folder)
        facts = json.loads((folder / "explanations" / "words.json").read_text())
        assert facts["precision"] == precision
        counts[mask, precision] = facts["texts_predicted"]
        with (folder / "explanations" / "words.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        found[mask, precision] = [float(row["change"]) for row in rows]
        the = [float(row["change"]) for row in rows if row["word"] == "The" and row["id"] == rows[0]["id"]]
        assert (len(set(the)) == 1) == (mask == "word")
    assert counts["word", "float32"] < counts["place", "float32"]
    full, half = np.array(found["word", "float32"]), np.array(found["word", "bfloat16"])
    assert 0 < np.abs(full - half).max() < 0.1 * np.abs(full).max()


def test_words_beyond_the_last_token_are_not_computed(
    make_config: MakeConfig, tmp_path: Path, run: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crystalfm.run.explaining import texts as module

    asked: list[int] = []
    whole = module.TextAnswers._predict_new

    def counted(self: Any, texts: list[str], owners: list[int]) -> Any:
        asked.append(len(texts))
        return whole(self, texts, owners)

    monkeypatch.setattr(module.TextAnswers, "_predict_new", counted)
    monkeypatch.setattr(
        "crystalfm.explain.words.masked_texts",
        lambda text, same_words: [(f"{'word ' * 100}{number}", [0]) for number in range(5)],
    )
    explained(make_config, tmp_path, run, mirror, "words")
    rows = json.loads((tmp_path / "evaluation" / "explanations" / "words.json").read_text())["texts"]
    # The whole text of each, and one for the five that are cut before they differ.
    assert sum(asked) == 2 * rows
