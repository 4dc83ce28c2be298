"""Figures are whole PNG files that show the values they were given."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from crystalfm.contracts import TargetSpec
from crystalfm.metrics.scores import score_model
from crystalfm.report import figures
from crystalfm.report.figures import comparison_plot, learning_curve, parity_plot, read_metrics

TARGETS = (
    TargetSpec("homo", "hartree"),
    TargetSpec("lumo", "hartree"),
    TargetSpec("zpve", "eV"),
    TargetSpec("qed", "1"),
)


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they are handed to the writer."""
    kept = []
    save = figures.save

    def keep(figure, path):
        kept.append(figure)
        return save(figure, path)

    monkeypatch.setattr(figures, "save", keep)
    return kept


def texts(axes):
    return "\n".join(text.get_text() for text in axes.texts)


def values(num_rows, num_targets, seed=0):
    generator = np.random.default_rng(seed)
    true = generator.standard_normal((num_rows, num_targets))
    return true, true + 0.1 * generator.standard_normal((num_rows, num_targets))


@pytest.mark.parametrize("num_rows", [40, 1500])
def test_parity_plot_labels_units_and_errors(tmp_path, drawn, num_rows):
    true, predicted = values(num_rows, 4)
    true[3, 0] = np.nan
    path = parity_plot(true, predicted, TARGETS, tmp_path / "figures" / "parity.png", title="a title")
    assert imread(path).shape[2] == 4
    panels = [axes for axes in drawn[0].axes if axes.get_title()]
    panels = {axes.get_title(): axes for axes in panels if axes.get_xlabel()}
    assert list(panels) == ["homo", "lumo", "zpve", "qed"]
    assert panels["homo"].get_xlabel() == "true (Ha)"
    assert panels["qed"].get_ylabel() == "predicted"
    score = score_model("m", true, predicted, TARGETS).scores[0]
    assert f"MAE {score.mae:#.3g} Ha = {score.mae_ev:#.3g} eV" in texts(panels["homo"])
    assert f"n = {num_rows - 1:,}" in texts(panels["homo"])
    assert "eV = " not in texts(panels["zpve"])
    assert drawn[0].get_suptitle() == "a title"


def test_parity_plot_is_square_and_holds_every_point(tmp_path, drawn):
    true, predicted = values(50, 1)
    predicted[7] = 9.0
    parity_plot(true, predicted, TARGETS[:1], tmp_path / "p.png")
    axes = drawn[0].axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[1] > 9.0
    assert len(axes.collections[0].get_offsets()) == 50


def test_parity_plot_without_known_values(tmp_path, drawn):
    parity_plot(np.full((3, 1), np.nan), np.ones((3, 1)), TARGETS[:1], tmp_path / "p.png")
    assert "no known values" in texts(drawn[0].axes[0])


def test_parity_plot_of_constant_values(tmp_path):
    path = parity_plot(np.ones((3, 1)), np.ones((3, 1)), TARGETS[:1], tmp_path / "p.png")
    assert path.stat().st_size > 1000


def test_no_global_state(tmp_path):
    before = dict(mpl.rcParams)
    true, predicted = values(10, 1)
    parity_plot(true, predicted, TARGETS[:1], tmp_path / "p.png")
    assert dict(mpl.rcParams) == before


def test_read_metrics_leaves_out_empty_cells(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/loss\n0,10,0.5,\n0,10,,0.4\n1,20,nan,text\n", encoding="utf-8")
    rows = read_metrics(path)
    assert rows[0] == {"epoch": 0.0, "step": 10.0, "train/loss": 0.5}
    assert rows[1] == {"epoch": 0.0, "step": 10.0, "val/loss": 0.4}
    assert "val/loss" not in rows[2]


def test_learning_curve_averages_training_and_marks_the_best_validation(tmp_path, drawn):
    rows = [
        {"epoch": 0.0, "train/loss": 0.9, "lr": 1e-3},
        {"epoch": 0.0, "train/loss": 0.8, "val/loss": 0.7},
        {"epoch": 1.0, "train/loss": 0.5, "val/loss": 0.4, "lr": 5e-4},
        {"epoch": 2.0, "train/loss": 0.4, "val/loss": 0.6, "lr": 5e-4},
    ]
    path = learning_curve(rows, tmp_path / "learning.png", title="run")
    assert imread(path).size
    losses, rates = drawn[0].axes
    lines = {line.get_label(): line for line in losses.get_lines()}
    assert lines["training"].get_xdata().tolist() == [1, 2, 3]
    assert lines["training"].get_ydata().tolist() == pytest.approx([0.85, 0.5, 0.4])
    assert lines["best: epoch 2, 0.400"].get_ydata().tolist() == [0.4]
    assert rates.get_lines()[0].get_ydata().tolist() == [1e-3, 5e-4, 5e-4]
    assert losses.get_yscale() == "linear"


def test_learning_rate_of_a_parameter_group_counts_for_the_epoch_that_follows(tmp_path, drawn):
    rows = [
        {"step": 0.0, "lr-AdamW/pg1": 1e-3, "lr-AdamW/pg2": 7.0},
        {"step": 9.0, "epoch": 0.0, "val/loss": 0.5},
        {"step": 10.0, "lr-AdamW/pg1": 1e-4, "lr-AdamW/pg2": 7.0},
        {"step": 19.0, "epoch": 1.0, "val/loss": 0.4},
        {"step": 20.0, "lr-AdamW/pg1": 1e-5},
    ]
    learning_curve(rows, tmp_path / "l.png")
    rates = drawn[0].axes[1].get_lines()[0]
    assert rates.get_xdata().tolist() == [1, 2]
    assert rates.get_ydata().tolist() == [1e-3, 1e-4]


def test_learning_curve_goes_logarithmic_over_a_wide_range(tmp_path, drawn):
    rows = [{"epoch": float(epoch), "val/loss": 10.0**-epoch} for epoch in range(4)]
    learning_curve(rows, tmp_path / "l.png")
    assert drawn[0].axes[0].get_yscale() == "log"


def test_learning_curve_of_an_empty_run(tmp_path):
    assert learning_curve([], tmp_path / "l.png").is_file()


def test_comparison_plot_marks_the_best(tmp_path, drawn):
    true, predicted = values(30, 2)
    results = [
        score_model("fused", true, predicted, TARGETS[:2]),
        score_model("mean", true, np.zeros_like(true), TARGETS[:2]),
    ]
    path = comparison_plot(results, tmp_path / "c.png", title="same rows")
    assert imread(path).size
    first, second = drawn[0].axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["fused", "mean"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["", ""]
    weights = [text.get_fontweight() for text in first.texts]
    assert weights == ["bold", "normal"]
    assert [bar.get_width() for bar in first.patches] == [result.scores[0].mae for result in results]


def test_comparison_plot_survives_a_model_without_numbers(tmp_path):
    true, predicted = values(30, 1)
    results = [
        score_model("a", true, predicted, TARGETS[:1]),
        score_model("b", true * np.nan, predicted, TARGETS[:1]),
    ]
    assert comparison_plot(results, tmp_path / "c.png").is_file()


def test_comparison_plot_needs_scores(tmp_path):
    with pytest.raises(ValueError, match="no scores"):
        comparison_plot([], tmp_path / "c.png")


def test_a_failed_drawing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    path.write_bytes(b"old")

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    true, predicted = values(5, 1)
    with pytest.raises(OSError, match="disk full"):
        parity_plot(true, predicted, TARGETS[:1], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
