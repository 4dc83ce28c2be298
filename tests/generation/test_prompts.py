"""Prompts: their wording, what training draws, hidden elements by site, and settings that a checkpoint keeps."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.chem.crystal_text import CrystalTextError, CrystalTextFormat
from crystalfm.chem.crystals import SYMBOLS, make_crystal
from crystalfm.chem.formulas import formula_counts, reduced_formula
from crystalfm.contracts import UserError
from crystalfm.generation.prompts import (
    CONDITIONS,
    INFILL_OPENING,
    INFILL_QUESTION,
    LAYOUT,
    MASK,
    OPENING,
    Example,
    PromptSettings,
    generation_prompt,
    infill_prompt,
    mask_element,
    plain_example,
    training_example,
)

SETTINGS = PromptSettings()
PROPERTIES = {"spacegroup": 225.0, "formation_energy_per_atom": -1.23456, "band_gap": 0.0, "e_above_hull": -1e-9}


def carbide():
    """Sites whose elements' symbols begin with that of carbon."""
    numbers = [20, 6, 17, 29, 6]
    coords = np.arange(5)[:, None] / 5 * np.ones(3)
    return make_crystal(np.eye(3) * 6, numbers, coords)


def examples(count, prompts=SETTINGS, properties=PROPERTIES, crystal=None):
    rng = np.random.default_rng(0)
    crystal = carbide() if crystal is None else crystal
    return [training_example(crystal, properties, prompts, rng) for _ in range(count)]


def asked_in(prompt):
    """Names of the conditions that a prompt names."""
    words = {
        "formula": "Formula:",
        "spacegroup": "Space group number:",
        "formation_energy_per_atom": "Formation energy:",
        "band_gap": "Band gap:",
        "e_above_hull": "Energy above the hull:",
    }
    return tuple(name for name in CONDITIONS if words[name] in prompt)


# ------------------------------------------------------------------------ wording


def test_prompt_without_conditions():
    assert generation_prompt({}, SETTINGS) == OPENING + LAYOUT


def test_prompt_with_every_condition():
    prompt = generation_prompt(
        {"e_above_hull": 0.05, "formula": "Na4Cl4", **PROPERTIES, "band_gap": "5.12345"}, SETTINGS
    )
    assert prompt == (
        f"{OPENING}\nFormula: ClNa\nSpace group number: 225\nFormation energy: -1.2346 eV per atom\n"
        f"Band gap: 5.1235 eV\nEnergy above the hull: 0.0000 eV per atom{LAYOUT}"
    )


def test_the_order_of_the_conditions_does_not_matter():
    asked = {"formula": "NaCl", "spacegroup": 225, "band_gap": 5.0}
    assert generation_prompt(asked, SETTINGS) == generation_prompt(dict(reversed(asked.items())), SETTINGS)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("NaCl", "ClNa"),
        ("Ca(OH)2", "CaH2O2"),
        ("C2H6O", "C2H6O"),
        ("Fe2", "Fe"),
        ("D2O", "H2O"),
        ("Li4 Fe4 P4 O16", "FeLiO4P"),
    ],
)
def test_a_formula_is_written_as_that_of_a_crystal(formula, expected):
    assert reduced_formula(formula) == expected
    counts = formula_counts(formula)
    numbers = [SYMBOLS.index(name) + 1 for name, count in counts.items() for _ in range(2 * count)]
    crystal = make_crystal(np.eye(3) * 9, numbers, np.random.default_rng(0).random((len(numbers), 3)))
    assert crystal.formula == expected


@pytest.mark.parametrize("formula", ["", "Xx2", "na", "NaCl0.5", "1", "Na-1", "(", "NaCl!", "X"])
def test_what_is_no_formula_is_refused(formula):
    with pytest.raises(UserError, match="is no"):
        generation_prompt({"formula": formula}, SETTINGS)


@pytest.mark.parametrize(
    "conditions",
    [
        {"spacegroup": 0},
        {"spacegroup": 231},
        {"spacegroup": 2.5},
        {"spacegroup": "Fm-3m"},
        {"band_gap": float("nan")},
        {"band_gap": "wide"},
        {"band_gap": 1e9},
        {"density": 3.0},
    ],
)
def test_conditions_that_make_no_sense_are_refused(conditions):
    with pytest.raises(UserError, match=next(iter(conditions))):
        generation_prompt(conditions, SETTINGS)


def test_a_condition_that_was_not_trained_is_refused():
    with pytest.raises(UserError, match="not trained with the condition band_gap"):
        generation_prompt({"band_gap": 1.0}, PromptSettings(conditions=("formula",)))


# ------------------------------------------------------------------------ hidden elements


def test_an_element_is_hidden_by_site_and_not_by_its_letters():
    masked = mask_element(carbide(), "C", SETTINGS)
    assert masked.split("\n")[2::2] == ["Ca", MASK, "Cl", "Cu", MASK]
    assert masked.replace(MASK, "C") == SETTINGS.text.write(carbide())


def test_hiding_an_element_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="no 'Na' in") as caught:
        mask_element(carbide(), "Na", SETTINGS)
    assert caught.value.remedy == "its elements: C, Ca, Cl, Cu"


def test_infill_prompt():
    assert infill_prompt("text") == f"{INFILL_OPENING}text{INFILL_QUESTION}"


# ------------------------------------------------------------------------ training examples


def test_a_plain_example_is_not_random():
    assert plain_example(carbide(), SETTINGS) == Example("generate", OPENING + LAYOUT, SETTINGS.text.write(carbide()))


def test_the_same_seed_draws_the_same_examples():
    assert examples(20) == examples(20)
    assert len(set(examples(20))) == 20


def test_tasks_come_in_the_share_asked_for():
    share = np.mean([example.task == "infill" for example in examples(3000)])
    assert share == pytest.approx(1 / 3, abs=0.03)
    assert {e.task for e in examples(50, PromptSettings(infill_fraction=0.0))} == {"generate"}
    assert {e.task for e in examples(50, PromptSettings(infill_fraction=1.0))} == {"infill"}


def test_the_number_of_conditions_is_uniform_and_any_of_them_may_stand_alone():
    asked = [asked_in(example.prompt) for example in examples(5000, PromptSettings(infill_fraction=0.0))]
    sizes = Counter(map(len, asked))
    assert set(sizes) == {0, 1, 2, 3, 4}
    assert all(count == pytest.approx(1000, abs=150) for count in sizes.values())
    assert {names for names in asked if len(names) == 1} == {(name,) for name in CONDITIONS}
    assert len(set(asked)) == 2**5 - 1  # all five at once are more than four


def test_conditions_that_are_not_known_are_never_named():
    prompts = PromptSettings(infill_fraction=0.0)
    asked = [asked_in(e.prompt) for e in examples(300, prompts, {"band_gap": float("nan"), "spacegroup": 2})]
    assert set(asked) == {(), ("formula",), ("spacegroup",), ("formula", "spacegroup")}
    chosen = PromptSettings(infill_fraction=0.0, conditions=("band_gap",))
    assert {asked_in(e.prompt) for e in examples(100, chosen)} == {(), ("band_gap",)}
    assert {asked_in(e.prompt) for e in examples(100, PromptSettings(infill_fraction=0.0, max_conditions=0))} == {()}


def test_what_training_asks_sampling_can_ask():
    for example in examples(200, PromptSettings(infill_fraction=0.0)):
        asked = {name: (PROPERTIES | {"formula": carbide().formula})[name] for name in asked_in(example.prompt)}
        assert generation_prompt(asked, SETTINGS) == example.prompt


def test_a_translation_moves_all_atoms_alike():
    for example in examples(50, PromptSettings(infill_fraction=0.0)):
        crystal = SETTINGS.text.read(example.completion)
        assert crystal.atomic_numbers.tolist() == carbide().atomic_numbers.tolist()
        shift = crystal.frac_coords - carbide().frac_coords
        difference = shift - shift[0]
        assert np.abs(difference - np.round(difference)).max() < 0.0101
    assert len({e.completion.split("\n")[3] for e in examples(50, PromptSettings(infill_fraction=0.0))}) == 50


def test_without_translation_the_atoms_stay():
    prompts = PromptSettings(infill_fraction=0.0, translate=False)
    assert {e.completion for e in examples(20, prompts)} == {SETTINGS.text.write(carbide())}


def test_a_permutation_moves_whole_sites():
    prompts = PromptSettings(infill_fraction=0.0, translate=False, permute=True)
    written = [e.completion.split("\n") for e in examples(40, prompts)]
    sites = {tuple(sorted(zip(lines[2::2], lines[3::2], strict=True))) for lines in written}
    assert len(sites) == 1
    assert len({tuple(lines) for lines in written}) > 20


def test_an_infill_example_hides_one_element_of_a_moved_crystal():
    hidden = Counter()
    for example in examples(300, PromptSettings(infill_fraction=1.0, permute=True)):
        text = example.prompt.removeprefix(INFILL_OPENING).removesuffix(INFILL_QUESTION)
        assert example.completion not in text.split("\n")
        crystal = SETTINGS.text.read(text.replace(MASK, example.completion))
        assert sorted(crystal.atomic_numbers) == sorted(carbide().atomic_numbers)
        hidden[example.completion] += 1
    assert set(hidden) == {"C", "Ca", "Cl", "Cu"}
    assert max(hidden.values()) < 120  # drawn by element, not by site


def test_a_crystal_that_cannot_be_written_says_so():
    flat = make_crystal([[4, 0, 0], [0, 4, 0], [4, 4, 1e-6]], [6], [[0, 0, 0]])
    with pytest.raises(CrystalTextError, match="no such cell"):
        examples(1, crystal=flat)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 12))
def test_any_crystal_makes_an_example(seed, digits, num_atoms):
    rng = np.random.default_rng(seed)
    prompts = PromptSettings(text=CrystalTextFormat(coord_digits=digits), permute=True)
    numbers = rng.integers(1, 104, num_atoms)
    crystal = make_crystal(np.eye(3) * rng.uniform(1, 200), numbers, rng.normal(size=(num_atoms, 3)))
    example = training_example(crystal, PROPERTIES, prompts, rng)
    if example.task == "infill":
        assert example.completion in {SYMBOLS[number - 1] for number in numbers}
    else:
        assert prompts.text.read(example.completion).num_atoms == num_atoms


# ------------------------------------------------------------------------ settings


def test_settings_survive_a_checkpoint():
    prompts = PromptSettings(CrystalTextFormat(2, 1, 3), ("band_gap",), 0.5, 1, translate=False, permute=True)
    assert PromptSettings.from_state(prompts.state()) == prompts
    assert PromptSettings.from_state(SETTINGS.state()) == SETTINGS


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused(version):
    with pytest.raises(UserError, match="prompts of version"):
        PromptSettings.from_state(SETTINGS.state() | {"version": version})


@pytest.mark.parametrize(
    "values",
    [
        {"conditions": ("colour",)},
        {"conditions": ("formula", "formula")},
        {"infill_fraction": 1.1},
        {"infill_fraction": -0.1},
        {"max_conditions": -1},
        {"version": 7},
    ],
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(UserError):
        PromptSettings(**values)


def test_a_state_with_other_settings_is_refused():
    with pytest.raises(UserError, match="prompts have the settings"):
        PromptSettings.from_state(SETTINGS.state() | {"more": 1})
