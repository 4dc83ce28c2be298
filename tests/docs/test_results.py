"""The figures beside an experiment and those in the documentation are the same."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "conf" / "experiment").rglob("*.yaml"))
MEASURED = re.compile(r"^# measured in (\S+): (.+?) (\S+) \(test (MAE|MSE), seed \d+\)$", re.MULTILINE)


def measured(text):
    """Return (page, {target: figure}) of an experiment file's comment."""
    found = MEASURED.search(text)
    if found is None:
        return None
    pairs = (item.split() for item in found.group(2).split(", "))
    return found.group(1), dict(pairs)


def test_there_is_an_experiment_with_figures():
    assert any(measured(path.read_text()) for path in EXPERIMENTS)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_figures_beside_an_experiment_stand_in_the_documentation(path):
    text = path.read_text()
    assert ("# measured" in text) == (measured(text) is not None), f"{path.name}: the comment cannot be read"
    if measured(text) is None:
        pytest.skip("nothing measured yet")
    page, figures = measured(text)
    section = (ROOT / page).read_text()
    assert f"experiment={path.relative_to(ROOT / 'conf' / 'experiment').with_suffix('')}" in section
    for target, figure in figures.items():
        row = next((line for line in section.splitlines() if figure in line and target in line.lower()), None)
        assert row is not None, f"{page} has no row with {target} and {figure}"
