"""The table of a sweep says what the reports of its runs say."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "crystal_sweep.py"


@pytest.fixture(scope="module")
def sweep():
    spec = importlib.util.spec_from_file_location("crystal_sweep", PATH)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_run(folder, *, temperature, top_p, valid, unique):
    counts = {"structural_valid": 90, "compositional_valid": 80, "valid": valid, "valid_unique": unique}
    report = {name: {"count": count, "total": 100} for name, count in counts.items()}
    report |= {"num_samples": 100, "sampling": {"temperature": temperature, "top_p": top_p}}
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_shares_are_of_all_samples(sweep, tmp_path):
    run = write_run(tmp_path / "a", temperature=0.7, top_p=0.9, valid=75, unique=60)
    point = sweep.read_point(run)
    assert (point.valid, point.unique, point.unique_among_valid) == (0.75, 0.6, pytest.approx(0.8))
    assert sweep.table([point]).splitlines()[-1] == "| 0.7 | 0.9 | 100 | 90.0% | 80.0% | 75.0% | 60.0% | 80.0% |"


def test_a_picture_is_drawn_of_runs_in_any_order(sweep, tmp_path, monkeypatch, capsys):
    runs = [
        write_run(tmp_path / "hot", temperature=1.0, top_p=1.0, valid=70, unique=70),
        write_run(tmp_path / "cold", temperature=0.5, top_p=1.0, valid=0, unique=0),
    ]
    monkeypatch.setattr("sys.argv", ["crystal_sweep.py", str(tmp_path / "sweep.png"), *map(str, runs)])
    sweep.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 0.5 |")
    assert lines[3].startswith("| 1 |")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
