"""Erasures of several properties side by side."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from crystalfm.cli.main import main
from crystalfm.contracts import TargetSpec, UserError
from crystalfm.explain.erasure import TagErasure
from crystalfm.metrics.bootstrap import Interval
from crystalfm.report.erasure_map import ErasedProperty, erasure_map_table
from crystalfm.run.explaining.erasure_map import erasure_map

PLAIN = Console(width=160, no_color=True)


def interval(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def evaluation(root: Path, name: str, changes: dict[str, float], texts: str = "robocrys", **other: Any) -> Path:
    label = f"{name}_eV"
    tags = [
        {
            "tag": tag,
            "target": label,
            "num_texts": 7,
            "mean_tokens": 3.5,
            "mae": 0.5 + change,
            "change": interval(change),
            "control": interval(0.02),
            "excess": interval(change - 0.02),
        }
        for tag, change in changes.items()
    ]
    content = {"rows": 7, "texts": texts, "other_share": 0.1, "mae": {label: 0.5}, "tags": tags}
    content |= {"targets": [{"name": name, "unit": "eV"}], **other}
    folder = root / "explanations"
    folder.mkdir(parents=True)
    (folder / "erasure.json").write_text(json.dumps(content))
    return root


def test_changes_are_relative_and_marked_where_beyond_the_control(tmp_path: Path) -> None:
    gap = evaluation(tmp_path / "a", "gap", {"summary": 0.2, "bond": 0.025})
    energy = evaluation(tmp_path / "b", "energy", {"summary": -0.05})
    with PLAIN.capture() as capture:
        found = erasure_map([str(gap), str(energy)], tmp_path / "out", PLAIN)
    shown = capture.get()
    assert [one.target.name for one in found] == ["energy", "gap"]
    assert found[1].relative("summary") == pytest.approx(40)
    assert np.isnan(found[0].relative("bond"))
    assert "+40.0*" in shown
    assert "+5.0 " in shown  # within 0.01 of the control
    assert "-10.0 " in shown
    with (tmp_path / "out" / "erasures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["target"], row["tag"]) for row in rows] == [
        ("energy_eV", "summary"), ("gap_eV", "summary"), ("gap_eV", "bond"),
    ]  # fmt: skip
    assert (rows[1]["texts"], rows[1]["num_texts"]) == ("robocrys", "7")
    assert float(rows[1]["excess_low"]) == pytest.approx(0.17)
    assert (tmp_path / "out" / "erasures.png").stat().st_size > 10_000


def test_a_folder_of_evaluations_counts_them_all_and_texts_stay_apart(tmp_path: Path) -> None:
    evaluation(tmp_path / "sweep" / "0", "gap", {"summary": 0.2})
    evaluation(tmp_path / "sweep" / "1", "gap", {"chemical": 0.1}, texts="chemnlp")
    found = erasure_map([str(tmp_path / "sweep"), str(tmp_path / "sweep" / "0")], None, PLAIN)
    assert [(one.texts, one.target.name) for one in found] == [("chemnlp", "gap"), ("robocrys", "gap")]
    assert not (tmp_path / "out").exists()
    table = erasure_map_table(found[:1])
    assert [column.header for column in table.columns] == ["target", "crystals", "MAE", "chemical"]


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", "gap", {"summary": 0.2})
    second = evaluation(tmp_path / "b", "gap", {"summary": 0.1})
    with pytest.raises(UserError, match="two evaluations are of gap with texts by robocrys"):
        erasure_map([str(first), str(second)], None, PLAIN)
    old = evaluation(tmp_path / "c", "energy", {"summary": 0.1}, targets=None)
    with pytest.raises(UserError, match=r"erasure\.json cannot be read: TypeError"):
        erasure_map([str(old)], None, PLAIN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no explanations.erasure\.json"):
        erasure_map([str(tmp_path / "empty")], None, PLAIN)
    with pytest.raises(UserError, match="no such folder"):
        erasure_map([str(tmp_path / "missing")], None, PLAIN)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluation(tmp_path / "a", "gap", {"summary": 0.2})
    assert main(["erasure", str(folder), f"output={tmp_path / 'out'}"]) == 0
    assert "robocrys: change of the MAE" in capsys.readouterr().out
    assert (tmp_path / "out" / "erasures.png").is_file()
    assert main(["erasure", "--help"]) == 0
    assert "EVALUATION" in capsys.readouterr().out
    assert main(["erasure", str(folder), "format=svg"]) == 2
    assert "no option format" in capsys.readouterr().err


def test_an_error_that_falls_is_not_marked_though_random_pieces_make_it_fall_further() -> None:
    fallen, worse = Interval(-0.02, -0.03, -0.01), Interval(0.05, 0.04, 0.06)
    tag = TagErasure("summary", "gap_eV", 7, 3.5, 0.48, fallen, Interval(-0.07, -0.08, -0.06), worse)
    assert not ErasedProperty("robocrys", TargetSpec("gap", "eV"), 7, 0.5, 0.0, (tag,)).beyond_control("summary")
    grown = replace(tag, change=worse)
    assert ErasedProperty("robocrys", TargetSpec("gap", "eV"), 7, 0.5, 0.0, (grown,)).beyond_control("summary")
