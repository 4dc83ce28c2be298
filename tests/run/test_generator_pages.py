"""What the pages of generators gather from their folders."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generator_folders import PROMPT, judged, relaxed, salt, sample, share, write_generation, write_judged

from crystalfm.contracts import DataSpec
from crystalfm.report.page import structures
from crystalfm.report.page.build import build_page
from crystalfm.report.page.content import PageContent
from crystalfm.run import page
from crystalfm.run.folder import RunFolder
from crystalfm.run.generator_pages import pieces
from crystalfm.run.generator_pages.judged import judged_page
from crystalfm.run.generator_pages.language import evaluation_page, training_page
from crystalfm.run.generator_pages.sampled import sampled_page

SIZE_LIMIT_BYTES = 5_000_000


def figures(content: PageContent) -> dict[str, tuple[str, str]]:
    """Return value and denominator of every figure, by its group and name."""
    return {f"{group.title}/{one.name}": (one.value, one.of) for group in content.figures for one in group.figures}


def table() -> Any:
    spec = DataSpec("mp", ("structure",), (), (), licence="CC BY 4.0", citation="Jain et al., 2013")
    return SimpleNamespace(spec=spec, content_hash="c" * 64)


# ---------------------------------------------------------------------- samples


def test_a_generation_is_told_with_its_denominators(tmp_path: Path):
    rows = [sample(0), sample(1, salt(4.0)), sample(2, salt(0.5), valid=False), sample(3, salt(4.0, 35))]
    folder = write_generation(tmp_path / "2026_made", rows)
    (tmp_path / "2026_made" / ".hydra").mkdir()
    (tmp_path / "2026_made" / ".hydra" / "overrides.yaml").write_text("- n=4\n", encoding="utf-8")
    found = sampled_page(folder)
    assert found.title == "4 generated crystals"
    assert found.command == "python generate.py n=4"
    assert found.prompt == PROMPT
    assert found.facts["time"] == "1 min 1 s, 16.4 samples a second"
    assert (found.facts["temperature"], found.facts["top-p"]) == ("0.7", "0.9")
    assert "top-k" not in found.facts
    told = figures(found)
    assert told["Validity/valid: both"] == ("50.0%", "2 of 4 samples")
    assert told["Sameness/different, of the valid"] == ("50.0%", "1 of 2 valid samples")
    assert told["What was wrong/no line of cell lengths"] == ("50.0%", "2 of 4 samples")
    assert told["Writing/mean log-probability of a sample"] == ("\N{MINUS SIGN}3.25", "nats")
    assert [one.name for one in found.headline][:2] == ["valid", "valid and different"]
    assert not any(group.title == "What was asked for" for group in found.figures)


def test_valid_samples_come_first_and_each_says_what_it_is(tmp_path: Path):
    rows = [
        sample(0),
        sample(1, salt(0.5), valid=False),
        sample(2, salt()),
        sample(3, salt(5.0)),
        sample(4, salt(4, 35)),
    ]
    found = sampled_page(write_generation(tmp_path, rows))
    shown = found.gallery
    assert shown is not None
    assert [row.id for row in shown.rows] == ["2", "3", "4", "1", "0"]
    assert [card.id for card in shown.cards] == ["2", "4", "3"]  # different formulas first
    assert set(found.structures) == {"1", "2", "3", "4"}
    assert shown.rows[0].groups == ["valid", "structural", "compositional"]
    assert shown.rows[3].groups == ["compositional", "invalid"]
    assert shown.rows[4].groups == ["invalid", "unread"]
    assert shown.rows[4].absent == "it could not be read"
    assert shown.rows[3].cells[3:6] == ["no", "no", "yes"]
    assert set(shown.groups) == {"valid", "structural", "compositional", "invalid", "unread"}
    assert "further samples" not in shown.note


def test_different_prompts_have_a_column(tmp_path: Path):
    rows = [sample(0, salt()), sample(1, salt(), prompt="Another.")]
    found = sampled_page(write_generation(tmp_path, rows))
    assert found.prompt is None
    assert found.gallery is not None
    assert found.gallery.headings[-1] == "prompt"
    assert [row.cells[-1] for row in found.gallery.rows] == [PROMPT, "Another."]


def test_what_was_asked_for_is_told(tmp_path: Path):
    conditions = {
        "asked": {"formula": "NaCl", "band_gap": 1.5, "e_above_hull": 0.0},
        "formula": share(1, 2),
        "band_gap": {"mean_absolute_error": {"value": 0.25, "total": 1}, "asked": 2, "source": "runs/gaps"},
    }
    folder = write_generation(tmp_path, [sample(0, salt()), sample(1)], conditions=conditions, answers={"Cl": 1})
    told = figures(sampled_page(folder))
    assert told["What was asked for/formula NaCl, as asked"] == ("50.0%", "1 of 2 samples")
    assert told["What was asked for/band gap 1.5"] == ("0.25", "eV, mean absolute error of 1 of 2, by runs/gaps")
    assert told["What was asked for/e above hull 0.0"] == ("\N{EN DASH}", "not measured: no predictor")
    assert told["Elements written/Cl"] == ("50.0%", "1 of 2 samples")


def test_nothing_valid_is_no_error(tmp_path: Path):
    found = sampled_page(write_generation(tmp_path, [sample(0), sample(1)]))
    assert figures(found)["Sameness/different, of the valid"][0] == "\N{EN DASH}"
    text = build_page(found)
    assert 'id="cards"' not in text
    assert 'id="view"' not in text
    assert "$3Dmol.createViewer" not in text.partition('"use strict"')[0]


def test_what_has_no_room_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [sample(number, salt(4 + 0.1 * number)) for number in range(9)]
    folder = write_generation(tmp_path, rows)
    monkeypatch.setattr(pieces, "MAX_ROWS", 6)
    monkeypatch.setattr(structures, "ROOM_CHARACTERS", 1000)
    found = sampled_page(folder)
    assert found.gallery is not None
    assert len(found.gallery.rows) == 6
    assert "3 further samples are in samples.csv." in found.gallery.note
    assert 0 < len(found.structures) < 6
    assert len(found.structures) + found.structures_left_out == 6
    text = build_page(found)
    assert f"{found.structures_left_out} crystals are left out for the size of the page." in text
    assert "its structure is left out for the size of the page" in text


def test_a_page_of_many_large_crystals_stays_small(tmp_path: Path):
    import numpy as np

    from crystalfm.chem.crystals import make_crystal

    rng = np.random.default_rng(0)
    large = [make_crystal(np.eye(3) * 12, [11, 17] * 20, rng.random((40, 3))) for _ in range(20)]
    folder = write_generation(tmp_path, [sample(number, large[number % 20]) for number in range(5_000)])
    text = build_page(sampled_page(folder))
    assert len(text.encode()) < SIZE_LIMIT_BYTES
    assert text.count("<tr tabindex") == 2_000
    assert "3,000 further samples are in samples.csv." in text


# ---------------------------------------------------------------- judged samples


def test_stable_new_crystals_come_first_and_implausible_ones_last_of_the_relaxed(tmp_path: Path):
    rows = [
        judged("valid", salt(), novel=False),
        judged("unread"),
        judged("copy", salt(), unique=False, same_as="valid"),
        relaxed("high", 0.4, salt()),
        relaxed("wrong", -30.0, salt(4.0, 35)),
        relaxed("sun2", -0.01, salt(4.0, 53)),
        relaxed("known", -0.2, salt(), relaxed_novel=False),
        relaxed("sun1", -0.1, salt(4.2)),
        judged("new", salt()),
    ]
    found = judged_page(write_judged(tmp_path, rows))
    assert found.gallery is not None
    order = [row.id for row in found.gallery.rows]
    assert order == ["sun1", "sun2", "known", "high", "wrong", "new", "valid", "copy", "unread"]
    by_id = {row.id: row for row in found.gallery.rows}
    assert by_id["wrong"].cells[4] == "implausible"
    assert "implausible" in by_id["wrong"].groups
    assert "wrong" not in [card.id for card in found.gallery.cards]
    assert [card.told for card in found.gallery.cards][:2] == [
        "\N{MINUS SIGN}0.10 eV/atom",
        "\N{MINUS SIGN}0.01 eV/atom",
    ]
    assert by_id["sun1"].groups[:3] == ["sun", "stable", "metastable"]
    assert by_id["copy"].cells[-1] == "the same as valid"
    assert by_id["unread"].cells[-1] == "unreadable structure"
    assert found.structures["sun1"].relaxed is not None
    assert found.structures["new"].relaxed is None


def test_judged_figures_and_what_they_were_held_against(tmp_path: Path):
    rows = [relaxed("a", 0.0, salt()), relaxed("b", 0.05, salt()), relaxed("c", 9.0, salt()), judged("d")]
    found = judged_page(write_judged(tmp_path, rows))
    told = figures(found)
    assert told["Uniqueness and novelty/unique, of the structurally valid"][1] == "2 of 4 structurally valid samples"
    assert told["Stability/stable, unique, novel (S.U.N.)"] == ("25.0%", "1 of 4 samples drawn")
    assert told["Beside the reference/distance of densities"] == (
        *("0.25", "g/cm³, Wasserstein; 3 valid samples, 7 references"),
    )
    assert told["Why others were not relaxed/not relaxed"] == ("25.0%", "1 of 4 samples")
    assert not any("coverage" in name for name in told)  # fingerprints were not asked for
    assert found.data["test crystals compared"] == "7 of 9"
    assert found.facts["hull"] == "15 crystals of mp, 4 elements fitted"
    assert [one.of for one in found.headline if one.name == "stable"] == ["1 of 4 drawn"]


def test_distributions_are_shares_of_each_set(tmp_path: Path):
    rows = [relaxed("a", 0.0, salt()), relaxed("b", 0.05, salt()), relaxed("c", 9.0, salt()), judged("d")]
    found = {one.title: one for one in judged_page(write_judged(tmp_path, rows)).distributions}
    assert found["Density"].series == {"samples": [0.25, 0.75], "reference": [0.5, 0.5]}
    assert found["Number of elements"].kinds == ["1", "2"]
    assert found["Number of elements"].series["reference"] == [0.0, 1.0]
    assert found["Crystal system"].series == {"samples": [0.25, 0.75], "reference": [0.75, 0.25]}
    energies = found["Energy above the hull, relaxed"]
    edges = list(energies.edges)
    assert energies.series["stable"][edges.index(0.0) - 1] == 1  # on the hull is stable
    assert energies.series["metastable"][edges.index(0.05)] == 1
    assert energies.series["unstable"][-1] == 1  # beyond the axis
    assert sum(sum(heights) for heights in energies.series.values()) == 3
    assert "1 more have no energy" in energies.note


def test_many_elements_are_put_together(tmp_path: Path):
    counts = {"edges": [0.5 + n for n in range(13)], "samples": [1] * 12, "reference": [0] * 11 + [12]}
    folder = write_judged(tmp_path, [judged("a", salt())], distributions={"num_elements": counts})
    found = next(one for one in judged_page(folder).distributions if one.title == "Number of elements")
    assert found.kinds[-1] == "9 or more"
    assert found.series["samples"][-1] == pytest.approx(4 / 12)
    assert sum(found.series["reference"]) == pytest.approx(1.0)


def test_without_relaxation_nothing_is_said_of_stability(tmp_path: Path):
    found = judged_page(write_judged(tmp_path, [judged("a", salt()), judged("b")], stability=False))
    assert found.gallery is not None
    assert "stable" not in found.gallery.headings
    assert [one.title for one in found.distributions] == ["Density", "Number of elements", "Crystal system"]
    assert not any("table" in one.name for one in found.headline)
    assert "hull" not in found.facts
    assert [card.told for card in found.gallery.cards] == ["2 atoms"]
    assert build_page(found).count("<tr tabindex") == 2


# ------------------------------------------------------------- trained generators


def likelihood(**changes: Any) -> dict[str, Any]:
    found = {"num_crystals": 10, "num_tokens": 400, "loss": 3.0, "perplexity": 20.1, "nats_per_crystal": 120.0}
    return found | changes


def write_predictions(folder: RunFolder) -> None:
    columns = {"split": ["val", "test", "test"], "nats": [40.0, 20.0, 60.0], "tokens": [20, 10, 20]}
    pq.write_table(pa.table(columns), folder.predictions)


def write_training(root: Path) -> RunFolder:
    folder = RunFolder(root).create()
    write_predictions(folder)
    folder.write_config({"llm": {"name": "smollm2", "lora_rank": 8, "lora_alpha": 32, "quantization": "4bit"}})
    folder.metrics.write_text("step,epoch,train/loss,val/loss\n1,0,5.0,\n1,0,,4.0\n2,1,3.0,\n2,1,,3.5\n")
    folder.write_summary(
        {
            "name": "crystal_tiny",
            "seed": 3,
            "data": {"content_hash": "f" * 64, "split_sizes": {"train": 1, "test": 2}},
            "model": {"name": "crystal_llm", "encoders": [], "parameters": {"total": 10, "trainable": 10}},
            "metrics": {"val": likelihood(), "test": likelihood(decided_loss=2.0, num_decided=30)},
            "training": {
                "num_epochs": 2,
                "wall_time_seconds": 62.0,
                "train_time_seconds": 61.0,
                "device": "cpu",
                "precision": "32",
                "num_threads": 1,
            },
            "environment": {"python": "3", "platform": "p", "commit": None, "versions": {"torch": "2"}},
        }
    )
    return folder


def test_a_training_is_told_by_its_likelihoods_and_curves(tmp_path: Path):
    found = training_page(write_training(tmp_path), table())
    told = figures(found)
    assert told["Likelihood of the validation crystals/nats a token"] == ("3", "400 tokens")
    assert told["Likelihood of the test configurations/nats a decided token"][1].startswith("30 tokens")
    assert [one.of for one in found.headline] == ["10 test configurations"] * 3
    assert found.facts["adapters"] == "rank 8, alpha 32"
    assert found.facts["frozen weights"] == "4bit"
    assert found.gallery is None
    (distribution,) = found.distributions
    assert set(distribution.series) == {"validation", "test"}
    assert [sum(heights) for heights in distribution.series.values()] == pytest.approx([1.0, 1.0])
    text = build_page(found)
    for part in ('id="curves"', 'class="curve c1"', "CC BY 4.0", "all trained", "rows, train"):
        assert part in text
    assert 'id="gallery"' not in text


def test_an_evaluation_tells_translations_and_matches(tmp_path: Path):
    folder = RunFolder(tmp_path).create()
    write_predictions(folder)
    content: dict[str, Any] = {
        "checkpoint": "runs/writer/best.ckpt",
        "split": "test",
        "likelihood": likelihood(),
        "ipt": {"mean": 1.1, "median": 0.9, "num_crystals": 3, "num_failed": 0, "num_translations": 20},
        "match": {"rate": share(1, 4), "rmse": {"value": 0.25, "total": 1}},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    told = figures(evaluation_page(folder, table()))
    assert told["Increase in perplexity under translations (IPT)/mean"] == ("1.1", "3 crystals, 20 translations each")
    assert told["Crystals asked for by their formula/match"] == ("25.0%", "1 of 4 crystals")
    rates = {name: share(1, 4) for name in ("exact", "equivalent", "same_type")}
    content["match"] = {"written": rates, "random": rates}
    del content["ipt"]
    (tmp_path / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    told = figures(evaluation_page(folder, table()))
    assert told["Defects asked for by their properties/the same defects, at random"] == ("25.0%", "1 of 4 rows")
    assert not any("translations" in name for name in told)


# ------------------------------------------------------------------ where it fails


def test_a_page_that_cannot_be_gathered_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write_generation(tmp_path, [sample(0, salt())])
    folder.page.write_text("old", encoding="utf-8")
    (tmp_path / "samples.parquet").write_bytes(b"no parquet")
    with caplog.at_level(logging.WARNING):
        assert page.publish(folder, lambda: sampled_page(folder)) is None
    assert not folder.page.exists()
    assert "report.html could not be made: " in caplog.text
