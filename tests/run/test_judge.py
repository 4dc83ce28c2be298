"""`evaluate.py structures=...`: samples of every kind, denominators with unreadable ones, reports, stability."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judged_crystals import PAIRS, cif, rock_salt, write_reference, write_samples

from crystalfm.chem.crystals import Crystal, make_crystal
from crystalfm.cli.task import run_task
from crystalfm.config.preflight import check_config
from crystalfm.contracts import UserError
from crystalfm.metrics.stability.hull import HullEntry, write_entries
from crystalfm.metrics.stability.relaxation import Relaxed
from crystalfm.run.evaluate import evaluate
from crystalfm.run.judging import stability
from crystalfm.run.judging.samples import read_samples
from crystalfm.run.judging.stability import drawn_places

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("smact", "spglib", "joblib", "matminer")),
    reason="needs the extra crystalfm[generate]",
)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Overrides of a small evaluation."""
    write_reference(tmp_path / "mp")
    write_samples(tmp_path / "cifs")
    return [
        f"structures={tmp_path / 'cifs'}",
        "reference=mp",
        f"reference.path={tmp_path / 'mp'}",
        "judging.fingerprints=false",
        "judging.jobs=1",
        "relaxation.jobs=1",
        f"paths.cache={tmp_path / 'cache'}",
        f"paths.runs={tmp_path / 'runs'}",
    ]


@pytest.fixture
def fake_relaxation(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Relax by table: a step by rock salt's edge; copper fails. Energies are -1 eV/atom, -2 of what is sodium's."""
    calls: list[int] = []

    def relax(crystals, cache, settings, *, progress=None):
        calls.append(len(crystals))
        return [
            "not relaxed: ValueError: no copper"
            if "Cu" in one.formula
            else Relaxed(one, -2.0 * one.num_atoms, -1.5 * one.num_atoms, 7, converged=True)
            for one in crystals
        ]

    monkeypatch.setattr(stability, "relax_crystals", relax)
    return calls


def hull_file(folder: Path, *, chlorine: bool = True) -> Path:
    entries = [HullEntry({"Na": 1}, -1.0), *([HullEntry({"Cl": 1}, -1.0)] if chlorine else [])]
    entries.append(HullEntry({"Na": 1, "Cl": 1}, -2.05))
    write_entries(folder / "hull.json.gz", entries, {})
    return folder / "hull.json.gz"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# --------------------------------------------------------------------------- samples


def test_every_file_counts_and_what_is_no_structure_does_not(tmp_path):
    samples = read_samples(write_samples(tmp_path / "cifs"))
    assert samples.ids == ["a.cif", "b.cif", "c.cif", "d.cif", "e.cif"]
    assert [crystal is None for crystal in samples.crystals] == [False, False, False, True, True]
    assert samples.reasons["d.cif"].startswith("overlapping atoms")
    assert samples.reasons["e.cif"].startswith("unreadable structure")


@pytest.mark.parametrize("column", ["cif", "structure"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_with_a_column_of_structures(tmp_path, column, suffix):
    cells = [cif(rock_salt(6.0)) if column == "cif" else rock_salt(6.0).to_json(), "nonsense"]
    path = tmp_path / f"samples.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({column: cells}), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([[column], *([cell] for cell in cells)])
    samples = read_samples(path)
    assert samples.ids == ["0", "1"]
    assert samples.crystals[0].formula == "ClNa"
    assert [item.id for item in samples.rejected] == ["1"]


def test_a_generation_keeps_overlapping_crystals_and_what_was_not_parsed(tmp_path):
    overlapping = make_crystal(np.eye(3) * 4, [11, 17], [[0.0, 0.0, 0.0], [0.01, 0.0, 0.0]])
    content = {
        "index": [4, 7, 9],
        "text": ["6.0", "4.0", "4.0 4.0"],
        "structure": [rock_salt(6.0).to_json(), overlapping.to_json(), None],
        "problem": [None, "overlapping atoms", "no line of cell lengths"],
    }
    pq.write_table(pa.table(content), tmp_path / "samples.parquet")
    (tmp_path / "report.json").write_text("{}")
    for path in (tmp_path, tmp_path / "samples.parquet"):
        samples = read_samples(path)
        assert samples.ids == ["4", "7", "9"]
        assert [crystal is None for crystal in samples.crystals] == [False, False, True]
        assert samples.reasons == {"9": "no line of cell lengths"}


def test_nothing_to_judge_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_samples(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="holds no structure"):
        read_samples(tmp_path)


# --------------------------------------------------------------------------- reports


def test_report_counts_unreadable_samples_everywhere(overrides, tmp_path):
    shares = evaluate(check_config("evaluate", overrides), tmp_path / "run")
    assert shares == {"valid": 0.6, "unique": 0.4, "valid_unique": 0.4, "novel": 0.2}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["samples"]["unreadable"] == 2
    assert report["crystals"]["valid"] == {"count": 3, "total": 5, "fraction": 0.6}
    assert (report["reference"]["train"], report["reference"]["test"]) == (6, 6)
    assert report["stability"] is None
    rows = table(tmp_path / "run" / "samples.csv")
    assert [row["id"] for row in rows] == ["a.cif", "b.cif", "c.cif", "d.cif", "e.cif"]
    assert [row["same_as"] for row in rows] == ["a.cif", "a.cif", "c.cif", "", ""]
    assert [row["novel"] for row in rows] == ["False", "False", "True", "", ""]
    assert [row["id"] for row in table(tmp_path / "run" / "rejected.csv")] == ["d.cif", "e.cif"]
    assert pq.read_table(tmp_path / "run" / "samples.parquet").num_rows == 5
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"shares.png", "distributions.png"}


def test_judged_crystals_have_a_page(overrides, tmp_path, fake_relaxation):
    asked = [*overrides, "stability=true", f"relaxation.hull={hull_file(tmp_path)}"]
    evaluate(check_config("evaluate", asked), tmp_path / "run")
    counted = json.loads((tmp_path / "run" / "report.json").read_text())["distributions"]
    assert sum(counted["density"]["samples"]) == sum(counted["num_elements"]["samples"]) == 3
    assert counted["num_elements"]["reference"] == [0, 6]
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for part in ("5 crystals judged", "2 of 5 samples drawn", "3 of 5 samples", 'id="distributions"', "g/cm³", "e.cif"):
        assert part in text
    assert text.count("<tr tabindex") == 5
    structures = json.loads(text.partition('id="structures">')[2].partition("</script>")[0])
    assert {name for name, one in structures.items() if one["relaxed"]} == {"a.cif", "b.cif"}


def test_references_are_limited_and_that_is_told(overrides, tmp_path):
    evaluate(check_config("evaluate", [*overrides, "judging.references=4"]), tmp_path / "run")
    reference = json.loads((tmp_path / "run" / "report.json").read_text())["reference"]
    assert (reference["test"], reference["test_compared"]) == (6, 4)


def test_stability_against_a_file_of_entries(overrides, tmp_path, fake_relaxation):
    hull = hull_file(tmp_path)
    shares = evaluate(
        check_config("evaluate", [*overrides, "stability=true", f"relaxation.hull={hull}"]), tmp_path / "run"
    )
    assert fake_relaxation == [3]
    found = json.loads((tmp_path / "run" / "report.json").read_text())["stability"]
    assert (found["asked"], found["judged"]) == (5, 5)
    assert found["relaxed"] == {"count": 2, "total": 5, "fraction": 0.4}
    assert (found["stable"]["count"], found["metastable"]["count"], found["metastable_unique"]["count"]) == (0, 2, 1)
    assert (found["sun"]["count"], found["metastable_sun"]["count"]) == (0, 0)  # rock salt is a training crystal
    assert found["failures"] == {"not relaxed: ValueError": 1, "overlapping atoms": 1, "unreadable structure": 1}
    assert found["hull"]["source"].startswith("hull.json.gz, SHA-256")
    rows = table(tmp_path / "run" / "samples.csv")
    assert float(rows[0]["energy_above_hull"]) == pytest.approx(0.05)
    assert [row["relaxation"].partition(":")[0] for row in rows] == [
        "relaxed",
        "relaxed",
        "not relaxed",
        "overlapping atoms",
        "unreadable structure",
    ]
    assert [bool(row["relaxed_structure"]) for row in rows] == [True, True, False, False, False]
    assert Crystal.from_json(rows[0]["structure"]).formula == "ClNa"
    assert shares["metastable (< 0.1 eV/atom)"] == 0.4
    assert (tmp_path / "run" / "figures" / "energy_above_hull.png").is_file()


def test_atoms_that_fall_on_one_another_count_as_a_failed_relaxation(overrides, tmp_path, monkeypatch):
    """A calculator without a repulsion at short distances holds them for far below the hull."""
    collapsed = make_crystal(np.eye(3) * 4, [11, 17], [[0.0, 0.0, 0.0], [0.05, 0.0, 0.0]])
    monkeypatch.setattr(
        stability,
        "relax_crystals",
        lambda crystals, cache, settings, *, progress=None: [
            Relaxed(collapsed, -60.0, -1.0, 7, converged=True) for _ in crystals
        ],
    )
    asked = [*overrides, "stability=true", f"relaxation.hull={hull_file(tmp_path)}"]
    evaluate(check_config("evaluate", asked), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "report.json").read_text())["stability"]
    assert found["relaxed"]["count"] == found["stable"]["count"] == found["implausible"]["count"] == 0
    assert found["failures"]["atoms nearer than 0.5 angstrom after the relaxation"] == 3


def test_hull_of_the_reference_holds_every_part_and_lacks_what_is_no_element(
    overrides, tmp_path, fake_relaxation, monkeypatch
):
    given = []

    def hull(crystals, formation_energies, cache, source, **_):
        given.extend(crystal.formula for crystal in crystals)
        assert formation_energies == [-1.0] * len(PAIRS)
        return stability.ConvexHull([], source)

    monkeypatch.setattr(stability, "reference_hull", hull)
    evaluate(check_config("evaluate", [*overrides, "stability=true"]), tmp_path / "run")
    assert len(given) == len(PAIRS)
    found = json.loads((tmp_path / "run" / "report.json").read_text())["stability"]
    assert found["undefined"] == {"count": 2, "total": 5, "fraction": 0.4}
    assert found["missing_elements"] == {"Na": 2, "Cl": 2}
    assert found["stable"]["count"] == 0
    assert found["hull"]["source"] == "15 crystals of mp, as they are"


def test_limit_draws_unreadable_samples_too_and_is_the_denominator(overrides, tmp_path, fake_relaxation):
    hull = hull_file(tmp_path)
    limited = [*overrides, "stability=true", f"relaxation.hull={hull}", "relaxation.limit=3"]
    evaluate(check_config("evaluate", limited), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (found["stability"]["asked"], found["stability"]["judged"]) == (5, 3)
    assert found["relaxation"]["limit"] == 3
    rows = table(tmp_path / "run" / "samples.csv")
    drawn = [place for place, row in enumerate(rows) if row["relaxation"] != "not drawn"]
    assert drawn == drawn_places(5, 3, 42)
    assert set(drawn_places(5, 2, 42)) < set(drawn)
    assert {rows[place]["stable"] for place in range(5) if place not in drawn} == {""}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("chgnet") is None, reason="needs the package chgnet")
def test_command_with_the_real_calculator(overrides, tmp_path, capsys):
    """Two copies of rock salt and copper chloride against a hull of elements and rock salt by CHGNet."""
    hull = hull_file(tmp_path)
    small = [*overrides, "stability=true", f"relaxation.hull={hull}", "relaxation.steps=30", "relaxation.device=cpu"]
    assert run_task("evaluate", small) == 0
    out = capsys.readouterr().out
    assert "stability, 5 of 5 samples" in out
    assert "energy_above_hull.png" in out
    (folder,) = (tmp_path / "runs" / "evaluate").iterdir()
    rows = table(folder / "samples.csv")
    assert float(rows[0]["energy_above_hull"]) == pytest.approx(-3.4 + 2.05, abs=0.3)
    assert rows[0]["converged"] == "True"
