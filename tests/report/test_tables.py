"""Tables say what they were given, in the target's unit and in eV."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from crystalfm.contracts import TargetSpec
from crystalfm.encoders.base import EncoderReport
from crystalfm.metrics.conformal import IntervalScore
from crystalfm.metrics.scores import score_model
from crystalfm.report.facts import RunFacts
from crystalfm.report.tables import (
    closing_panel,
    format_count,
    format_number,
    interval_table,
    markdown_results,
    next_steps,
    results_table,
    start_table,
)

GAP = TargetSpec("gap", "hartree")


def shown(renderable):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def facts(**changes):
    given = {
        "run_name": "fusion-qm9",
        "run_folder": Path("runs") / "x",
        "model": "llm_fusion",
        "data": "qm9",
        "data_hash": "0123456789abcdef",
        "targets": (GAP,),
        "split_sizes": {"train": 1600, "val": 200, "test": 12345},
        "num_rejected": 3,
        "encoders": (EncoderReport("smiles", "rxnfp", frozen=True, width=256, cache_hits=1234, cache_misses=5),),
        "num_parameters": 2_345_678,
        "num_trainable": 9_999,
        "device": "cpu",
        "precision": "bf16-mixed",
        "num_threads": 2,
        "seed": 42,
    }
    return RunFacts(**(given | changes))


def test_a_note_that_quotes_tokens_in_brackets_is_shown_as_it_is():
    note = "2 unseen tokens: [/NH1+1], [bold]"
    report = EncoderReport("selfies", "tokens", frozen=False, width=8, cache_hits=0, cache_misses=0, notes=(note,))
    assert "[/NH1+1], [bold]" in " ".join(shown(start_table(facts(encoders=(report,)))).replace("│", " ").split())


def results(num_models=2):
    true = np.array([[1.0], [2.0], [3.0]])
    return [score_model(f"model_{i}", true, true + 0.001 * (i + 1), [GAP]) for i in range(num_models)]


def test_start_table_shows_every_fact():
    text = shown(start_table(facts(notes={"learning rate": "0.001"})))
    parts = ["fusion-qm9", "train 1,600, val 200, test 12,345", "gap (Ha)", "2.35 M total, 9,999 trainable"]
    parts += ["bf16-mixed", "2 threads", "42", "0123456789ab", "rejected.csv", "learning rate", "runs/x"]
    assert [part for part in parts if part not in text] == []
    row = next(line for line in text.splitlines() if "rxnfp" in line)
    assert all(part in row for part in ("smiles", "frozen", "256", "1,234", "5"))


def test_start_table_of_a_model_without_encoders_and_parameters():
    text = shown(start_table(facts(encoders=(), num_parameters=None, num_trainable=None, num_rejected=0)))
    assert "none before fitting" in text
    assert "encoder" not in text
    assert "rejected.csv" not in text


def test_trained_encoder_has_no_cache_counts():
    reports = (EncoderReport("fingerprint", "morgan", frozen=False, width=64),)
    row = next(line for line in shown(start_table(facts(encoders=reports))).splitlines() if "morgan" in line)
    assert "trained" in row
    assert " - " in row


def test_results_table_gives_hartree_and_ev():
    text = shown(results_table(results(), title="qm9, test"))
    assert "qm9, test" in text
    assert "MAE (eV)" in text
    row = next(line for line in text.splitlines() if "model_0" in line)
    assert "gap (Ha)" in row
    assert "0.00100" in row
    assert "0.0272" in row
    assert row.rstrip().endswith("3")


def test_results_table_without_energies_has_no_ev_column():
    true = np.array([[1.0], [2.0]])
    for unit in ("debye", "eV"):
        text = shown(results_table([score_model("m", true, true, [TargetSpec("y", unit)])]))
        assert "MAE (eV)" not in text


def test_results_table_gives_mean_square_errors_of_targets_without_a_unit():
    true = np.array([[1.0], [2.0]])
    text = shown(results_table([score_model("m", true, true + 0.2, [TargetSpec("logp", "1")])]))
    assert " MSE " in text
    assert "0.0400" in next(line for line in text.splitlines() if "logp" in line)
    assert " MSE " not in shown(results_table(results()))


def test_markdown_marks_the_best_only_among_several():
    lines = markdown_results(results()).splitlines()
    assert lines[2].startswith("| gap (Ha) | model_0 | **0.00100** | 0.0272 |")
    assert "**" not in lines[3]
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "**" not in markdown_results(results(1))


def test_closing_panel_shortens_paths():
    folder = Path.cwd() / "runs" / "x"
    text = shown(closing_panel(folder, [folder / "parity.png", Path("elsewhere.png")]))
    assert "figures     parity.png" in text
    assert "elsewhere.png" in text
    assert "run folder  runs/x" in text


def test_commands_to_try_next_are_not_broken():
    command = "python evaluate.py ckpt=runs/" + "x" * 200
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(next_steps([command, "second"]), soft_wrap=True)
    assert f"  {command}\n  second\n" in console.export_text()


def test_brackets_in_names_are_shown_as_they_are():
    text = shown(start_table(facts(model="[red]llm", run_folder=Path("runs") / "[bold]")))
    assert "[red]llm" in text
    assert "[bold]" in text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9_999, "9,999"), (12_345, "12.3 k"), (2_345_678, "2.35 M"), (7e9, "7 B")]
)
def test_format_count(count, text):
    assert format_count(int(count)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0079, "0.00790"), (1.0, "1.00"), (123.4, "123"), (None, "-"), (float("nan"), "-")]
)
def test_format_number(value, text):
    assert format_number(value) == text


def test_the_table_of_intervals_says_what_was_asked_and_what_was_held():
    scores = [IntervalScore(GAP, 0.8765, 0.0123, 1200), IntervalScore(TargetSpec("logp", "1"), 1.0, float("inf"), 7)]
    lines = shown(interval_table(scores, 0.9, title="intervals, 1,200 test rows")).splitlines()
    assert "1,200 test rows" in lines[0]
    (gap,) = [line.split() for line in lines if "gap" in line]
    (logp,) = [line.split() for line in lines if "logp" in line]
    assert gap == ["gap", "(Ha)", "90.0%", "87.6%", "0.0123", "1,200"]
    assert logp == ["logp", "90.0%", "100.0%", "-", "7"]
