"""Samples against what was asked of them: formula, space group, and properties that a predictor says they have."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judged_crystals import rock_salt, write_reference

from crystalfm.cli.task import run_task
from crystalfm.config.preflight import check_config
from crystalfm.contracts import UserError
from crystalfm.run.evaluate import evaluate
from crystalfm.run.judging.asked import asked_of

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("smact", "spglib", "joblib", "matminer")),
    reason="needs the extra crystalfm[generate]",
)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Overrides of an evaluation of three generated samples, of which one cannot be read."""
    write_reference(tmp_path / "mp")
    folder = tmp_path / "generated"
    folder.mkdir()
    salt = rock_salt(5.6).to_json()
    other = rock_salt(6.3, (19, 17)).to_json()
    columns = {
        "index": ["0", "1", "2"],
        "text": ["a", "b", "c"],
        "structure": [salt, other, None],
        "problem": ["", "", "cut off within a site"],
    }
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    asked = {"formula": "NaCl", "spacegroup": 225, "formation_energy_per_atom": -1.5}
    (folder / "request.json").write_text(json.dumps({"condition": asked}))
    return [
        f"structures={folder}", "reference=mp", f"reference.path={tmp_path / 'mp'}", "judging.fingerprints=false",
        "judging.jobs=1", f"paths.cache={tmp_path / 'cache'}", f"paths.runs={tmp_path / 'runs'}",
    ]  # fmt: skip


def judged(overrides: list[str], tmp_path: Path) -> dict[str, object]:
    evaluate(check_config("evaluate", overrides), tmp_path / "out")
    found: dict[str, object] = json.loads((tmp_path / "out" / "report.json").read_text())["conditions"]
    return found


def test_formula_and_space_group_are_counted_over_all_samples(overrides: list[str], tmp_path: Path) -> None:
    found = judged(overrides, tmp_path)
    assert found["formula"] == {"count": 1, "total": 3, "fraction": pytest.approx(1 / 3)}
    assert found["spacegroup"]["count"] == 2
    assert found["spacegroup"]["total"] == 3
    assert "formation_energy_per_atom" not in found, "nobody says what it is"


def test_a_predictor_says_what_the_samples_have(overrides: list[str], tmp_path: Path) -> None:
    training = [
        "model=xgboost", "modalities=[composition]", "model.num_trees=2", "data=mp", f"data.path={tmp_path / 'mp'}",
        f"paths.cache={tmp_path / 'cache'}", f"paths.runs={tmp_path / 'runs'}", "name=trees", "logger=csv",
    ]  # fmt: skip
    assert run_task("train", training) == 0
    (run,) = (tmp_path / "runs" / "trees").iterdir()
    found = judged([*overrides, f"predictor={run}"], tmp_path)["formation_energy_per_atom"]
    assert found["asked"] == 3
    assert found["mean_absolute_error"] == {"value": pytest.approx(0.5), "total": 2}, "every training crystal has -1"
    assert found["source"] == str(run)


def test_a_predictor_of_something_else_is_refused(overrides: list[str], tmp_path: Path) -> None:
    cells = [
        {"lattice_mat": np.diag([edge] * 3).tolist(), "coords": [[0, 0, 0]], "elements": ["Po"]}
        for edge in range(3, 13)
    ]
    rows = [json.dumps({"atoms": cell, "y": number}) for number, cell in enumerate(cells)]
    (tmp_path / "other.jsonl").write_text("\n".join(rows))
    training = [
        "model=xgboost", "modalities=[composition]", "model.num_trees=2", "data=folder",
        f"data.path={tmp_path / 'other.jsonl'}", "data.targets=[y]", "name=trees",
        f"paths.cache={tmp_path / 'cache'}", f"paths.runs={tmp_path / 'runs'}", "logger=csv",
    ]  # fmt: skip
    assert run_task("train", training) == 0
    (run,) = (tmp_path / "runs" / "trees").iterdir()
    with pytest.raises(UserError, match=r"predicts y; the crystals were asked for formula, spacegroup"):
        judged([*overrides, f"predictor={run}"], tmp_path)


def test_samples_of_nobody_who_was_asked_have_no_conditions(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "generated" / "request.json").unlink()
    assert asked_of(tmp_path / "generated") == {}
    assert judged(overrides, tmp_path) is None
    with pytest.raises(UserError, match="was not asked for a property"):
        judged([*overrides, f"predictor={tmp_path}"], tmp_path)


def test_a_predictor_that_is_not_there_is_told(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        check_config("evaluate", [*overrides, f"predictor={tmp_path / 'nowhere'}"])
