"""Answers about defects: what is written is read back, and nothing else is read."""

from __future__ import annotations

import numpy as np
import pytest
from defect_cases import RULES, defect_settings

from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.contracts import UserError
from crystalfm.generation.defects.answers import DefectProblem, DefectTextError, read_answer, write_answer

SETTINGS = {answer: defect_settings(answer=answer) for answer in ("edits", "full")}


@pytest.mark.parametrize("answer", SETTINGS)
@pytest.mark.parametrize("host", RULES)
def test_what_is_written_is_read_back(answer, host):
    settings = SETTINGS[answer]
    rng = np.random.default_rng(0)
    for size, count in (([3, 5, 1], 1), ([8, 8, 1], 3), ([12, 11, 1], 20)):
        supercell = settings.supercell(host, size)
        for _ in range(5):
            configuration = random_configuration(supercell, settings.rules_of(host), count, rng)
            text = write_answer(configuration, supercell, settings)
            assert read_answer(text, supercell, settings) == configuration
            assert write_answer(read_answer(text, supercell, settings), supercell, settings) == text


def test_edits_name_the_changed_sites_in_order():
    supercell = SETTINGS["edits"].supercell("MoS2")
    configuration = Configuration.of([(supercell.site(2, 3, 5), 34), (supercell.site(0, 7, 0), 0)])
    assert write_answer(configuration, supercell, SETTINGS["edits"]) == "Mo1 7 0 VAC\nS2 3 5 Se"
    assert write_answer(Configuration(()), supercell, SETTINGS["edits"]) == "pristine"
    assert read_answer("pristine", supercell, SETTINGS["edits"]) == Configuration(())


def test_full_answers_name_every_site_and_keep_its_coordinates():
    settings = SETTINGS["full"]
    supercell = settings.supercell("MoS2")
    lines = write_answer(Configuration(((1, 0),)), supercell, settings).split("\n")
    assert len(lines) == 2 * supercell.num_sites
    assert lines[:4] == ["Mo", "0.04 0.08 0.50", "VAC", "0.04 0.21 0.50"]
    assert lines[0::2].count("S") == 128
    shown = np.array([line.split() for line in lines[1::2]], dtype=float)
    assert np.abs(shown - supercell.frac_coords).max() <= 0.005 + 1e-9


def test_a_change_that_is_none_cannot_be_written():
    supercell = SETTINGS["edits"].supercell("MoS2")
    with pytest.raises(UserError):
        write_answer(Configuration(((500, 0),)), supercell, SETTINGS["edits"])


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("", DefectProblem.EMPTY, 0),
        ("S2 3 5", DefectProblem.LINE, 1),
        ("S2 3 5 VAC\n", DefectProblem.LINE, 2),
        ("S3 3 5 VAC", DefectProblem.SUBLATTICE, 1),
        ("S2 8 5 VAC", DefectProblem.PLACE, 1),
        ("S2 03 5 VAC", DefectProblem.PLACE, 1),
        ("S2 -1 5 VAC", DefectProblem.PLACE, 1),
        ("S2 3 5 VAC\nS2 3 5 Se", DefectProblem.ORDER, 2),
        ("S2 3 5 VAC\nS1 3 5 Se", DefectProblem.ORDER, 2),
        ("S2 3 5 Xx", DefectProblem.ELEMENT, 1),
        ("S2 3 5 S", DefectProblem.UNCHANGED, 1),
        ("S2  3 5 Se", DefectProblem.LINE, 1),
    ],
)
def test_edits_that_are_none(text, problem, line):
    with pytest.raises(DefectTextError) as caught:
        read_answer(text, SETTINGS["edits"].supercell("MoS2"), SETTINGS["edits"])
    assert (caught.value.problem, caught.value.line) == (problem, line)


def test_full_answers_that_are_none():
    settings = SETTINGS["full"]
    supercell = settings.supercell("MoS2", [3, 3, 1])
    lines = write_answer(Configuration(()), supercell, settings).split("\n")
    for changed, problem, line in (
        (lines[:-2], DefectProblem.NUM_SITES, 0),
        ([*lines, "S", lines[-1]], DefectProblem.NUM_SITES, 0),
        ([lines[0], "0.12 0.22 0.50", *lines[2:]], DefectProblem.COORDINATES, 2),
        ([*lines[:2], "Q", *lines[3:]], DefectProblem.ELEMENT, 3),
    ):
        with pytest.raises(DefectTextError) as caught:
            read_answer("\n".join(changed), supercell, settings)
        assert (caught.value.problem, caught.value.line) == (problem, line)
    assert "…" in str(DefectTextError(DefectProblem.LINE, 1, "x" * 200))
