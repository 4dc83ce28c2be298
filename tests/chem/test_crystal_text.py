"""Crystals as texts: what is written, exact round trips, every reason for which a text is refused, and a fuzz run."""

import re
import runpy
from itertools import product

import numpy as np
import pytest
from crystal_samples import rock_salt
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.chem.crystal_text import CrystalTextError, CrystalTextFormat, TextProblem, is_cell
from crystalfm.chem.crystals import SYMBOLS, checked, make_crystal
from crystalfm.contracts import UserError

FORMAT = CrystalTextFormat()
ROCK_SALT = "4.0 4.0 4.0\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
CELL = "4.0 4.0 4.0\n90 90 90\n"

formats = st.builds(CrystalTextFormat, st.integers(0, 4), st.integers(0, 3), st.integers(1, 6))


@st.composite
def texts(draw, form):
    """A text that the format allows, built digit by digit and not by the code under test."""

    def decimal(whole, fraction, digits):
        return f"{whole}.{fraction % 10**digits:0{digits}d}" if digits else str(whole)

    numbers = st.integers(0, 10**6)
    lengths = [decimal(draw(st.integers(1, 999)), draw(numbers), form.length_digits) for _ in range(3)]
    angle = st.integers(1, 180 * 10**form.angle_digits - 1)
    alpha, beta = draw(angle), draw(angle)
    low, high = abs(alpha - beta), min(alpha + beta, 360 * 10**form.angle_digits - alpha - beta)
    gamma = draw(st.integers(low + 1, high - 1)) if high - low > 1 else None
    if gamma is None:
        alpha = beta = gamma = 90 * 10**form.angle_digits
    scale = 10**form.angle_digits
    angles = [decimal(value // scale, value % scale, form.angle_digits) for value in (alpha, beta, gamma)]
    lines = [" ".join(lengths), " ".join(angles)]
    for _ in range(draw(st.integers(1, 6))):
        lines.append(draw(st.sampled_from(SYMBOLS)))
        lines.append(" ".join(decimal(0, draw(numbers), form.coord_digits) for _ in range(3)))
    return "\n".join(lines)


# ------------------------------------------------------------------------ writing


def test_a_crystal_is_written_line_by_line():
    assert FORMAT.write(rock_salt()) == ROCK_SALT


def test_digits_are_those_asked_for():
    crystal = make_crystal([[3.14159, 0, 0], [0, 4, 0], [0, 0, 100]], [6], [[0.123456, 0, 0.9]])
    assert (
        CrystalTextFormat(3, 2, 4).write(crystal) == "3.142 4.000 100.000\n90.00 90.00 90.00\nC\n0.1235 0.0000 0.9000"
    )
    assert CrystalTextFormat(0, 0, 1).write(crystal) == "3 4 100\n90 90 90\nC\n0.1 0.0 0.9"


def test_angles_are_rounded_and_not_cut_off():
    gamma = np.radians(119.996)
    lattice = [[3, 0, 0], [3 * np.cos(gamma), 3 * np.sin(gamma), 0], [0, 0, 5]]
    assert FORMAT.write(make_crystal(lattice, [1], [[0, 0, 0]])).split("\n")[1] == "90 90 120"


@pytest.mark.parametrize("value", [1.0, 0.995001, 0.999999, -1e-20, -0.004, 7.0, -3.0, 1e15])
def test_one_is_zero(value):
    text = FORMAT.write(rock_salt(shift=(value, 0.0, 0.0)))
    assert text.split("\n")[3] == "0.00 0.00 0.00"


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6), formats)
def test_a_coordinate_is_never_one_and_is_the_nearest_on_the_grid(value, form):
    text = form.write(make_crystal(np.eye(3) * 4, [1], [[value, 0.0, 0.0]]))
    written = text.split("\n")[3].split()[0]
    assert re.fullmatch(rf"0\.\d{{{form.coord_digits}}}", written)
    distance = abs(float(written) - value)
    assert abs(distance - round(distance)) <= 0.5 * 10**-form.coord_digits + 1e-9


@pytest.mark.parametrize("number", range(1, 104))
def test_every_element_is_written_and_read(number):
    text = FORMAT.write(rock_salt(numbers=(number, 8)))
    assert text.split("\n")[2] == SYMBOLS[number - 1]
    assert FORMAT.read(text).atomic_numbers.tolist() == [number, 8]


@pytest.mark.parametrize(
    ("lattice", "problem", "line"),
    [
        (np.eye(3) * 0.04, TextProblem.NO_CELL, 1),
        (np.eye(3) * 1000, TextProblem.LENGTHS, 1),
        (np.eye(3) * 1e300, TextProblem.LENGTHS, 1),
        (np.zeros((3, 3)), TextProblem.NO_CELL, 1),
        ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], TextProblem.NO_CELL, 2),
        ([[5, 0, 0], [0, 5, 0], [3, 4, 0.01]], TextProblem.NO_CELL, 2),
        (np.full((3, 3), np.nan), TextProblem.NOT_FINITE, 0),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_crystals_that_have_no_text(lattice, problem, line):
    with pytest.raises(CrystalTextError) as caught:
        FORMAT.write(make_crystal(lattice, [1], [[0, 0, 0]]))
    assert (caught.value.problem, caught.value.line) == (problem, line)


def test_sites_that_have_no_text():
    for numbers, coords, problem in (
        ([], [], TextProblem.NO_SITES),
        ([1], [[0, 0, np.inf]], TextProblem.NOT_FINITE),
        ([119], [[0, 0, 0]], TextProblem.ELEMENT),
        ([0], [[0, 0, 0]], TextProblem.ELEMENT),
    ):
        with pytest.raises(CrystalTextError) as caught:
            FORMAT.write(make_crystal(np.eye(3), numbers, coords))
        assert caught.value.problem is problem


# ------------------------------------------------------------------------ reading


def test_a_text_is_read():
    crystal = FORMAT.read("3.0 4.0 5.0\n90 90 120\nNa\n0.00 0.25 0.99\nCl\n0.50 0.50 0.50")
    assert crystal.lattice == pytest.approx(np.array([[3, 0, 0], [-2, 2 * 3**0.5, 0], [0, 0, 5]]))
    assert crystal.atomic_numbers.tolist() == [11, 17]
    assert crystal.frac_coords.tolist() == [[0.0, 0.25, 0.99], [0.5, 0.5, 0.5]]
    assert np.linalg.det(crystal.lattice) > 0
    assert checked(crystal) is crystal


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_reading_and_writing_give_the_same_text(data):
    form = data.draw(formats)
    text = data.draw(texts(form))
    crystal = form.read(text)
    assert form.write(crystal) == text
    assert np.linalg.det(crystal.lattice) > 0


def test_every_cell_of_whole_degrees_survives():
    for angles in product(range(1, 180, 7), repeat=3):
        text = f"3.1 99.9 450.7\n{angles[0]} {angles[1]} {angles[2]}\nH\n0.00 0.00 0.00"
        if is_cell(*angles):
            assert FORMAT.write(FORMAT.read(text)) == text
        else:
            with pytest.raises(CrystalTextError, match="no such cell, line 2"):
                FORMAT.read(text)


def test_a_rounded_crystal_stays_as_it_is():
    crystal = make_crystal([[3.123, 0.1, 0], [0.3, 4.2, 0], [0, 1.2, 5]], [3, 9], [[0.111, 0.2, 0.3], [0.7, 0.4, 0.8]])
    once = FORMAT.rounded(crystal)
    assert once.frac_coords.tolist() == [[0.11, 0.2, 0.3], [0.7, 0.4, 0.8]]
    assert FORMAT.rounded(once).to_json() == once.to_json()


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("", TextProblem.EMPTY, 1),
        ("\n", TextProblem.LENGTHS, 1),
        ("4.0 4.0", TextProblem.LENGTHS, 1),
        ("4.0 4.0 4", TextProblem.LENGTHS, 1),
        ("4.0 4.0 4.00", TextProblem.LENGTHS, 1),
        ("4.0 4.0 04.0", TextProblem.LENGTHS, 1),
        ("4.0  4.0 4.0", TextProblem.LENGTHS, 1),
        ("4.0 4.0 -4.0", TextProblem.LENGTHS, 1),
        ("4.0 4.0 4000.0", TextProblem.LENGTHS, 1),
        ("4.0 4.0 1e3", TextProblem.LENGTHS, 1),
        ("4.0 4.0 nan", TextProblem.LENGTHS, 1),
        ("4.0 4.0 ٤.0", TextProblem.LENGTHS, 1),
        ("4.0 4.0 0.0\n90 90 90\nH\n0.00 0.00 0.00", TextProblem.NO_CELL, 1),
        ("4.0 4.0 4.0", TextProblem.ANGLES, 2),
        ("4.0 4.0 4.0\r\n90 90 90", TextProblem.LENGTHS, 1),
        ("4.0 4.0 4.0\n90 90 90.0", TextProblem.ANGLES, 2),
        ("4.0 4.0 4.0\n90 90 090", TextProblem.ANGLES, 2),
        ("4.0 4.0 4.0\n90 90 180", TextProblem.NO_CELL, 2),
        ("4.0 4.0 4.0\n60 60 120", TextProblem.NO_CELL, 2),
        ("4.0 4.0 4.0\n120 120 120", TextProblem.NO_CELL, 2),
        ("4.0 4.0 4.0\n0 90 90", TextProblem.NO_CELL, 2),
        ("4.0 4.0 4.0\n90 90 90", TextProblem.NO_SITES, 2),
        (CELL, TextProblem.ELEMENT, 3),
        (CELL + "Xx\n0.00 0.00 0.00", TextProblem.ELEMENT, 3),
        (CELL + "na\n0.00 0.00 0.00", TextProblem.ELEMENT, 3),
        (CELL + "D\n0.00 0.00 0.00", TextProblem.ELEMENT, 3),
        (CELL + "[MASK]\n0.00 0.00 0.00", TextProblem.ELEMENT, 3),
        (CELL + "Na ", TextProblem.ELEMENT, 3),
        (CELL + "Na", TextProblem.CUT_OFF, 3),
        (CELL + "Na\n", TextProblem.COORDINATES, 4),
        (CELL + "Na\n0.00 0.00", TextProblem.COORDINATES, 4),
        (CELL + "Na\n0.00 0.00 1.00", TextProblem.COORDINATES, 4),
        (CELL + "Na\n0.00 0.00 0.000", TextProblem.COORDINATES, 4),
        (CELL + "Na\n0.00 0.00 -0.10", TextProblem.COORDINATES, 4),
        (CELL + "Na\n0.00 0.00 .10", TextProblem.COORDINATES, 4),
        (ROCK_SALT + "\n", TextProblem.ELEMENT, 7),
        (ROCK_SALT + "\nCl", TextProblem.CUT_OFF, 7),
        (ROCK_SALT + "\nCl\n0.5", TextProblem.COORDINATES, 8),
    ],
)
def test_texts_that_are_refused(text, problem, line):
    with pytest.raises(CrystalTextError) as caught:
        FORMAT.read(text)
    assert (caught.value.problem, caught.value.line) == (problem, line)
    assert str(problem) in str(caught.value)


def test_an_error_shows_one_short_line():
    with pytest.raises(CrystalTextError) as caught:
        FORMAT.read("7" * 10_000)
    assert len(str(caught.value)) < 150
    assert "\n" not in str(caught.value)


def test_angles_that_make_a_cell():
    assert is_cell(90, 90, 90)
    assert is_cell(60, 60, 119)
    assert not is_cell(60, 60, 120)
    assert is_cell(119, 120, 120)
    assert not is_cell(120, 120, 120)
    assert not is_cell(600, 600, 1200, digits=1)
    assert is_cell(600, 600, 1199, digits=1)


# ------------------------------------------------------------------------ fuzzing


def test_broken_texts_are_refused_with_a_reason(repository):
    script = runpy.run_path(str(repository / "scripts" / "fuzz_crystal_text.py"))
    num_read, refused = script["fuzz"](20_000, seed=1)
    assert num_read > 1000
    assert set(refused) == set(TextProblem) - {TextProblem.NOT_FINITE}
    assert num_read + sum(refused.values()) == 20_000


def test_the_fuzzer_says_what_it_met(repository, capsys):
    script = runpy.run_path(str(repository / "scripts" / "fuzz_crystal_text.py"))
    assert script["main"](["--strings", "300"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("300 texts in ")
    assert str(TextProblem.COORDINATES) in shown


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with pytest.raises(CrystalTextError):
        FORMAT.read(text)


# ------------------------------------------------------------------------ settings


@given(formats)
def test_the_format_survives_a_checkpoint(form):
    assert CrystalTextFormat.from_state(form.state()) == form


@pytest.mark.parametrize(
    "values", [{"length_digits": 5}, {"angle_digits": -1}, {"coord_digits": 0}, {"coord_digits": 2.0}]
)
def test_digits_out_of_range_are_refused(values):
    with pytest.raises(UserError, match="out of range"):
        CrystalTextFormat(**values)


@pytest.mark.parametrize("state", [{}, {"length_digits": 1}, FORMAT.state() | {"more": 1}])
def test_a_state_of_another_kind_is_refused(state):
    with pytest.raises(UserError, match="settings"):
        CrystalTextFormat.from_state(state)
