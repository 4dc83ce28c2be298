"""The crystal tokenizer: lossless, four tokens a site, one a sentence, the same after saving."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalfm.chem.crystal_text import CrystalTextFormat
from crystalfm.chem.crystals import SYMBOLS, make_crystal
from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer, vocabulary
from crystalfm.generation.prompts import (
    INFILL_OPENING,
    INFILL_QUESTION,
    LAYOUT,
    OPENING,
    PromptSettings,
    generation_prompt,
    training_example,
)
from crystalfm.generation.writer import completion_ids, prompt_ids

MIRROR = os.environ.get("CRYSTALFM_MIRROR")
SETTINGS = PromptSettings()


@pytest.fixture(scope="module")
def tokenizer():
    return build_crystal_tokenizer(SETTINGS)


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_site_is_four_tokens(tokenizer):
    text = "5.6 12.3 101.2\n90 89 120\nNa\n0.00 0.50 0.25\nU\n0.99 0.01 0.10"
    assert pieces(tokenizer, text) == [
        *("5", ".6", " 12", ".3", " 101", ".2"),
        *("\n90", " 89", " 120"),
        *("\nNa", "\n0.00", " 0.50", " 0.25"),
        *("\nU", "\n0.99", " 0.01", " 0.10"),
    ]  # fmt: skip


def test_a_sentence_is_one_token(tokenizer):
    prompt = generation_prompt({"formula": "Ca3(PO4)2", "spacegroup": 225, "band_gap": 5.12345}, SETTINGS)
    assert pieces(tokenizer, prompt) == [
        *(OPENING, "\nFormula: ", "Ca", "3", "O", "8", "P", "2", "\nSpace group number: ", "225"),
        *("\nBand gap: ", "5", ".12", "35", " eV", LAYOUT),
    ]  # fmt: skip


def test_a_hidden_element_is_one_token(tokenizer):
    prompt = f"{INFILL_OPENING}4.0 4.0 4.0\n90 90 90\n[MASK]\n0.00 0.00 0.00{INFILL_QUESTION}"
    assert pieces(tokenizer, prompt)[0] == INFILL_OPENING
    assert pieces(tokenizer, prompt)[-5:] == ["\n[MASK]", "\n0.00", " 0.00", " 0.00", INFILL_QUESTION]
    assert pieces(tokenizer, "Cl") == ["Cl"]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_element_is_one_token(tokenizer, symbol):
    assert pieces(tokenizer, symbol) == [symbol]
    assert pieces(tokenizer, f"\n{symbol}\n0.10") == [f"\n{symbol}", "\n0.10"]


def test_the_prompt_and_the_completion_meet_without_a_shared_token(tokenizer):
    ids = prompt_ids(tokenizer, generation_prompt({}, SETTINGS)) + completion_ids(tokenizer, "5.6 5.6 5.6")
    assert tokenizer.convert_ids_to_tokens(ids)[:4] == ["<s>", OPENING, LAYOUT, "5"]
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == generation_prompt({}, SETTINGS) + "5.6 5.6 5.6"


def random_crystal(rng):
    num_atoms = int(rng.integers(1, 9))
    numbers = rng.integers(1, 104, num_atoms)
    lattice = np.eye(3) * rng.choice([0.6, 9.9, 99.9, 179.9, 180.0, 236.5, 999.4], 3)[:, None]
    return make_crystal(lattice, numbers, rng.normal(size=(num_atoms, 3)))


@pytest.mark.parametrize(
    "form",
    [CrystalTextFormat(), CrystalTextFormat(2, 0, 2), CrystalTextFormat(0, 0, 1), CrystalTextFormat(4, 3, 6),
     CrystalTextFormat(1, 1, 3), CrystalTextFormat(3, 2, 4)],
)  # fmt: skip
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_prompts_and_crystals_of_any_digits_come_back(form, seed):
    prompts = PromptSettings(text=form)
    tokenizer = build_crystal_tokenizer(prompts)
    rng = np.random.default_rng(seed)
    properties = {
        "spacegroup": int(rng.integers(1, 231)),
        "formation_energy_per_atom": rng.normal() * 5,
        "band_gap": abs(rng.normal()) * 100,
        "e_above_hull": -0.9,
    }
    example = training_example(random_crystal(rng), properties, prompts, rng)
    for text in (example.prompt, example.completion):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_foreign_characters_are_unknown_and_never_dropped(tokenizer):
    assert pieces(tokenizer, "Na?Cl") == ["Na", "<unk>", "Cl"]


def test_ids_do_not_change_between_processes_and_versions(tokenizer):
    tokens = vocabulary(SETTINGS)
    assert len(tokens) == len(set(tokens)) == len(tokenizer)
    assert tokenizer.convert_ids_to_tokens(range(len(tokens))) == tokens
    assert tokens[:4] == ["<pad>", "<s>", "</s>", "<unk>"]
    # A checkpoint holds rows of an embedding by these ids.
    known = {"\nNa": 40, "Na": 158, "\n0.25": 291, " 0.25": 391, "\n90": 556, " 90": 736, "5": 9, ".6": 1053}
    assert tokenizer.convert_tokens_to_ids(list(known)) == list(known.values())


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.pad_token, again.bos_token, again.eos_token) == ("<pad>", "<s>", "</s>")
    rng = np.random.default_rng(0)
    for _ in range(20):
        example = training_example(random_crystal(rng), {"spacegroup": 1}, SETTINGS, rng)
        for text in (example.prompt, example.completion):
            ids = again(text, add_special_tokens=False)["input_ids"]
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
            assert again.decode(ids) == text


@pytest.mark.real_data
@pytest.mark.slow
def test_crystals_of_materials_project_come_back(tokenizer):
    from crystalfm.data.materials_project import read_files, read_structure

    file = Path(MIRROR or "") / "mp" / "train.csv.gz"
    if MIRROR is None or not file.is_file():
        pytest.skip("needs the real data: set CRYSTALFM_MIRROR to a mirror that holds mp/")
    num_rows = 0
    for raw in islice(read_files({"train": file}), 0, None, 5):
        crystal = read_structure(raw.source)
        text = SETTINGS.text.write(crystal)
        again = SETTINGS.text.read(text)
        assert SETTINGS.text.write(again) == text
        assert again.atomic_numbers.tolist() == crystal.atomic_numbers.tolist()
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == 9 + 4 * crystal.num_atoms
        assert tokenizer.decode(ids) == text
        num_rows += 1
    assert num_rows > 1000
