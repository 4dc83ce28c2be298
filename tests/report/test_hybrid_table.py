"""The table of many hybrid runs says what the run folders say, and refuses to mix test rows."""

import importlib.util
import json
import sys

import pytest
import yaml

CONFIG = {
    "mode": "hybrid",
    "ensemble": 1,
    "modalities": ["crystal_graph", "description"],
    "model": {"name": "hybrid"},
    "data": {"description": "robocrys"},
    "encoders": {"description": {"name": "minilm"}},
}


@pytest.fixture(scope="module")
def script(repository):
    path = repository / "benchmarks" / "hybrid_table.py"
    if not path.is_file():
        pytest.skip("needs the repository's benchmarks folder")
    spec = importlib.util.spec_from_file_location("hybrid_table", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hybrid_table"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write_run(tmp_path):
    def write(time, mae, *, seed=1, test=("a", "b"), finished=True, seconds=60.0, baselines=None, **config):
        folder = tmp_path / "runs" / str(config.get("mode", "hybrid")) / time
        folder.mkdir(parents=True)
        tree = CONFIG | config
        scores = {tree["model"]["name"]: mae} | (baselines or {})
        summary = {
            "finished": finished,
            "seed": seed,
            "data": {"split_sizes": {"train": 8, "val": 1, "test": len(test)}},
            "model": {"name": tree["model"]["name"]},
            "metrics": {"test": {name: {"gap": {"mae": value, "unit": "eV"}} for name, value in scores.items()}},
            "training": {"train_time_seconds": seconds},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
        (folder / "split.json").write_text(json.dumps({"train": [], "val": [], "test": list(test)}))
        return tmp_path / "runs"

    return write


def rows(text):
    """The tables as dictionaries by heading, first row only."""
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    cells = [[[cell.strip() for cell in line.strip("|").split("|")] for line in lines] for lines in tables]
    return [dict(zip(lines[0], lines[2], strict=True)) for lines in cells]


def test_mean_and_spread_over_seeds(script, write_run, capsys):
    for seed, mae in ((1, 0.2), (2, 0.4)):
        runs = write_run(f"t{seed}", mae, seed=seed, seconds=60.0 * seed)
        write_run(f"t{seed}", 0.5, seed=seed, mode="gnn_only", modalities=["crystal_graph"], baselines={"mean": 0.9})
    assert script.main([str(runs)]) == 0
    errors, minutes = rows(capsys.readouterr().out)
    assert list(errors) == ["target", "train / val / test", "mean", "gnn_only", "hybrid (robocrys, minilm)"]
    assert errors["target"] == "gap (eV)"
    assert errors["train / val / test"] == "8 / 1 / 2"
    assert errors["hybrid (robocrys, minilm)"] == "0.3 ± 0.14 (2)"
    assert errors["gnn_only"] == "0.5 ± 0 (2)"
    assert errors["mean"] == "0.9 ± 0 (2)"
    assert "mean" not in minutes
    assert minutes["hybrid (robocrys, minilm)"] == "1.5 ± 0.71 (2)"


def test_kinds_are_compared_seed_by_seed(script, write_run, capsys):
    for seed, ours, theirs in ((1, 0.2, 0.4), (2, 3.0, 4.0), (3, 9.0, None)):
        runs = write_run(f"t{seed}", ours, seed=seed)
        if theirs is not None:
            write_run(f"t{seed}", theirs, seed=seed, mode="gnn_only", modalities=["crystal_graph"])
    assert script.main([str(runs), "--against", "gnn_only"]) == 0
    *_, relative = rows(capsys.readouterr().out)
    # 50 and 25 percent less: 37.5 on average, and half of their distance as standard error.
    assert relative == {"target": "gap (eV)", "hybrid (robocrys, minilm)": "-37.5 ± 12.5 (2)"}


def test_an_unknown_kind_to_compare_with_is_named(script, write_run, capsys):
    assert script.main([str(write_run("t1", 0.2)), "--against", "gnn"]) == 1
    assert "hybrid (robocrys, minilm)" in capsys.readouterr().err


def test_the_newest_run_of_a_kind_counts_and_unfinished_ones_do_not(script, write_run, capsys):
    write_run("2026-01-01", 0.2)
    write_run("2026-01-03", 0.7, finished=False)
    assert script.main([str(write_run("2026-01-02", 0.3))]) == 0
    assert rows(capsys.readouterr().out)[0]["hybrid (robocrys, minilm)"] == "0.3 (1)"


def test_other_descriptions_encoders_and_modalities_are_other_kinds(script):
    kinds = [
        script.kind_of(CONFIG | change)
        for change in (
            {"data": {"description": "chemnlp"}},
            {"encoders": {"description": {"name": "matbert"}}},
            {"mode": "paper", "modalities": ["crystal_graph"]},
            {"mode": "scratch", "modalities": ["crystal_graph"]},
            {"mode": None, "model": {"name": "xgboost"}, "modalities": ["composition"]},
            {"ensemble": 5, "mode": "gnn_only", "modalities": ["crystal_graph"]},
        )
    ]
    assert kinds == [
        "hybrid (chemnlp, minilm)",
        "hybrid (robocrys, matbert)",
        "paper (crystal_graph)",
        "scratch",
        "xgboost (composition)",
        "gnn_only (5 members)",
    ]


def test_runs_with_other_test_rows_are_not_mixed(script, write_run, capsys):
    write_run("t1", 0.2)
    runs = write_run("t1", 0.3, mode="gnn_only", modalities=["crystal_graph"], test=("a", "c"))
    assert script.main([str(runs)]) == 1
    answer = capsys.readouterr()
    assert "seed 1: other test rows" in answer.err
    assert answer.out == ""


def test_a_few_test_rows_may_be_missing_which_is_said(script, write_run, capsys):
    rows_ = [f"r{number}" for number in range(40)]
    write_run("t1", 0.3, mode="gnn_only", modalities=["crystal_graph"], test=rows_)
    assert script.main([str(write_run("t1", 0.2, test=rows_[2:]))]) == 0
    assert "Up to 2 test rows" in capsys.readouterr().out
    assert script.main([str(write_run("t2", 0.2, test=rows_[3:]))]) == 1


def test_other_seeds_may_have_other_test_rows(script, write_run, capsys):
    write_run("t1", 0.2)
    assert script.main([str(write_run("t2", 0.3, seed=2, test=("a", "c")))]) == 0


def test_nothing_to_show_is_an_error(script, tmp_path, capsys):
    assert script.main([str(tmp_path)]) == 1
    assert "no finished run" in capsys.readouterr().err


def test_the_modes_are_those_of_the_configuration(script, repository):
    files = {path.stem: path.read_text() for path in (repository / "conf" / "mode").glob("*.yaml")}
    assert files.keys() == script.OF_MODE.keys()
    for mode, modalities in script.OF_MODE.items():
        wanted = f"modalities: [{', '.join(modalities)}]"
        assert wanted in files[mode] or (mode == "paper" and wanted in files["hybrid"])
