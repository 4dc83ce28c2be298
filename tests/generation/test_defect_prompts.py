"""Prompts about defects: what they say, what they refuse, and what a checkpoint keeps of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from defect_cases import RULES, defect_settings

from crystalfm.chem.defects.configurations import Configuration, canonical
from crystalfm.chem.defects.hosts import HOSTS
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.chem.defects.rules import DefectRule, parse_rules
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.contracts import UserError
from crystalfm.generation.defects.answers import read_answer
from crystalfm.generation.defects.examples import DefectExamples
from crystalfm.generation.defects.prompts import (
    LABELS,
    PROPERTIES,
    SENTENCES,
    DefectPromptSettings,
    defect_prompt,
    sublattices,
)
from crystalfm.generation.defects.tokenizer import build_defect_tokenizer, defect_vocabulary
from crystalfm.generation.prompts import PromptSettings
from crystalfm.generation.wording import prompts_from_state

SETTINGS = defect_settings()
PROPERTIES_OF_ROW = {"homo_lumo_gap": 0.3575, "formation_energy_per_site": 2.5756, "homo": float("nan")}


def asked_in(prompt):
    return {name for name, (before, _) in LABELS.items() if before in prompt}


def rules_in(prompt):
    return set(re.search(r"may be done to a site: (.*)\n", prompt)[1].split(", "))


def test_a_prompt_names_host_size_rules_and_properties():
    prompt = defect_prompt(
        SETTINGS.supercell("MoS2"), SETTINGS.rules_of("MoS2"), {"homo_lumo_gap": 0.4, "lumo": -0.00001}, SETTINGS
    )
    assert prompt == (
        "Point defects in a layer of MoS2, unit cells along its two edges: 8 by 8\n"
        "What may be done to a site: v_Mo, W_Mo, v_S, Se_S\n"
        "Gap between the highest occupied and the lowest empty state: 0.4000 eV\n"
        "Lowest empty state: 0.0000 eV\n"
        "The changed sites in order, each with its place in the unit cell, column, row, and what is there:\n"
    )


def test_the_order_of_rules_and_conditions_does_not_matter():
    supercell, rules = SETTINGS.supercell("BN"), SETTINGS.rules_of("BN")
    conditions = {"homo": 1.0, "energy": -1398.1131}
    backwards = dict(reversed(conditions.items()))
    assert defect_prompt(supercell, rules, conditions, SETTINGS) == defect_prompt(
        supercell, rules[::-1], backwards, SETTINGS
    )


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"band_gap": 1.0}, "was not trained with the property band_gap"),
        ({"homo": "low"}, "is no number"),
        ({"homo": float("nan")}, "out of range"),
        ({"homo": 1e7}, "out of range"),
    ],
)
def test_what_cannot_be_asked(conditions, message):
    with pytest.raises(UserError, match=message):
        defect_prompt(SETTINGS.supercell("MoS2"), SETTINGS.rules_of("MoS2"), conditions, SETTINGS)


def test_a_rule_of_an_element_that_the_host_lacks_is_refused():
    with pytest.raises(UserError, match="v_N takes an element that MoS2 does not have"):
        defect_prompt(SETTINGS.supercell("MoS2"), parse_rules(["v_N"]), {}, SETTINGS)
    with pytest.raises(UserError, match="no defect rule"):
        defect_prompt(SETTINGS.supercell("MoS2"), (), {}, SETTINGS)


def test_supercells_are_found_by_name_other_name_and_size():
    assert SETTINGS.supercell("MoS2").size == (8, 8, 1)
    assert SETTINGS.supercell("h-BN", [3, 4, 1]).num_sites == 24
    assert SETTINGS.supercell("BN", (3, 4, 1)) is SETTINGS.supercell("BN", [3, 4, 1])
    for host, size, message in (
        ("WSe2", None, "it knows MoS2, P, BN, GaSe"),
        ("MoS2", [8, 8], "size=\\[8,8,1\\]"),
        ("MoS2", [8, 8, 2], "size=\\[8,8,1\\]"),
        ("MoS2", [200, 8, 1], "up to 99"),
    ):
        with pytest.raises(UserError) as caught:
            SETTINGS.supercell(host, size)
        assert re.search(message, f"{caught.value.message} {caught.value.remedy}")


def test_a_checkpoint_keeps_hosts_by_value():
    settings = defect_settings(answer="full", properties=("homo",), max_properties=1, move=False, coord_digits=3)
    again = prompts_from_state(settings.state())
    assert isinstance(again, DefectPromptSettings)
    assert again.state() == settings.state()
    assert again.host("GaSe").cell.to_json() == HOSTS["GaSe"].cell.to_json()
    assert again.rules_of("P") == parse_rules(RULES["P"])
    assert isinstance(prompts_from_state(PromptSettings().state()), PromptSettings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "long"}, "answer=long is unknown"),
        ({"properties": ("homo", "homo")}, "not distinct"),
        ({"properties": ("band_gap",)}, "not distinct properties"),
        ({"max_properties": -1}, "negative"),
        ({"coord_digits": 0}, "coord_digits=0"),
        ({"version": 2}, "prompts of version 2"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(UserError, match=message):
        defect_settings(**changes)


def test_hosts_and_rules_belong_together():
    with pytest.raises(UserError, match="do not belong together"):
        DefectPromptSettings((HOSTS["BN"],), {})
    with pytest.raises(UserError, match="v_S takes an element that BN does not have"):
        DefectPromptSettings((HOSTS["BN"],), {"BN": parse_rules(["v_S"])})


@pytest.mark.parametrize("wrong", [{"version": 0}, {"more": 1}])
def test_states_of_other_versions_are_refused(wrong):
    with pytest.raises(UserError):
        DefectPromptSettings.from_state(SETTINGS.state() | wrong)


def test_sublattices_have_names_of_their_own():
    assert sublattices(HOSTS["MoS2"]) == ("Mo1", "S1", "S2")
    assert sublattices(HOSTS["P"]) == ("P1", "P2", "P3", "P4")


# Training examples.

CONFIGURATION = Configuration(((5, 74), (70, 0), (131, 34)))


def source(**changes):
    settings = defect_settings(**changes)
    record = DefectRecord.of(settings.supercell("MoS2"), CONFIGURATION)
    return DefectExamples([record], [PROPERTIES_OF_ROW], settings), settings, record.supercell


def drawn(count, **changes):
    examples, settings, supercell = source(**changes)
    return [examples.drawn(0, np.random.default_rng(seed)) for seed in range(count)], settings, supercell


def test_the_plain_example_names_every_rule_and_the_first_known_properties():
    examples, settings, supercell = source()
    example = examples.plain(0)
    assert example.task == "defects"
    assert rules_in(example.prompt) == set(RULES["MoS2"])
    assert asked_in(example.prompt) == {"homo_lumo_gap", "formation_energy_per_site"}
    assert read_answer(example.completion, supercell, settings) == CONFIGURATION
    fewer, _, _ = source(max_properties=1)
    assert asked_in(fewer.plain(0).prompt) == {"formation_energy_per_site"}


def test_drawn_examples_are_equivalent_configurations_and_all_differ():
    examples, settings, supercell = drawn(200)
    found = [read_answer(example.completion, supercell, settings) for example in examples]
    operations = site_permutations(supercell)
    assert set(canonical(found, operations)) == set(canonical([CONFIGURATION], operations))
    assert len(set(found)) > 150
    # Mirrors across the layer are among the operations: the vacancy is found on both sides of it.
    sides = {supercell.places[site, 0] for each in found for site, number in each.defects if number == 0}
    assert sides == {1, 2}


def test_without_moves_the_sites_stay():
    examples, settings, supercell = drawn(20, move=False)
    assert {read_answer(example.completion, supercell, settings) for example in examples} == {CONFIGURATION}


def test_drawn_prompts_ask_for_any_known_properties_and_allow_what_is_needed():
    examples, _, _ = drawn(300)
    assert {frozenset(asked_in(example.prompt)) for example in examples} == {
        frozenset(), frozenset({"homo_lumo_gap"}), frozenset({"formation_energy_per_site"}),
        frozenset({"homo_lumo_gap", "formation_energy_per_site"}),
    }  # fmt: skip
    needed = {"v_S", "Se_S", "W_Mo"}
    assert {frozenset(rules_in(example.prompt)) for example in examples} == {
        frozenset(needed), frozenset(needed | {"v_Mo"}),
    }  # fmt: skip
    assert all(example.constraint.rules == parse_rules(sorted_rules(example.prompt)) for example in examples)


def sorted_rules(prompt):
    return re.search(r"may be done to a site: (.*)\n", prompt)[1].split(", ")


def test_a_draw_can_be_repeated():
    first, _, _ = drawn(5)
    again, _, _ = drawn(5)
    assert [(a.prompt, a.completion) for a in first] == [(a.prompt, a.completion) for a in again]


def test_properties_must_be_as_many_as_configurations():
    with pytest.raises(ValueError, match="1 configurations, but properties of 0"):
        DefectExamples([DefectRecord.of(SETTINGS.supercell("MoS2"), CONFIGURATION)], [], SETTINGS)


# Tokens.


@pytest.mark.parametrize("changes", [{}, {"answer": "full"}, {"answer": "full", "coord_digits": 4}])
def test_the_tokenizer_gives_every_text_back(changes):
    settings = defect_settings(**changes)
    tokenizer = build_defect_tokenizer(settings)
    texts = []
    for host in RULES:
        record = DefectRecord.of(settings.supercell(host), Configuration(((3, 0), (50, 7))))
        examples = DefectExamples([record], [dict.fromkeys(PROPERTIES, -1398.1131)], settings)
        texts += [examples.plain(0), *(examples.drawn(0, np.random.default_rng(seed)) for seed in range(5))]
    other = parse_rules(["Te_S", "V_Mo", "v_S"])
    texts_of_rules = defect_prompt(settings.supercell("MoS2"), other, {}, settings)
    for text in [part for example in texts for part in (example.prompt, example.completion)] + [texts_of_rules]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_a_changed_site_is_four_tokens_and_a_sentence_one():
    tokenizer = build_defect_tokenizer(SETTINGS)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("P4 3 2 VAC\nMo1 0 7 W")["input_ids"])
    assert tokens == ["P4", " 3", " 2", " VAC", "\nMo1", " 0", " 7", " W"]
    assert all(len(tokenizer(sentence)["input_ids"]) == 1 for sentence in SENTENCES)
    vocabulary = defect_vocabulary(SETTINGS)
    assert len(set(vocabulary)) == len(vocabulary) == len(tokenizer)


def test_full_answers_have_four_tokens_a_site():
    settings = defect_settings(answer="full")
    tokenizer = build_defect_tokenizer(settings)
    record = DefectRecord.of(settings.supercell("MoS2"), Configuration(((3, 0),)))
    text = DefectExamples([record], [{}], settings).plain(0).completion
    assert len(tokenizer(text)["input_ids"]) == 4 * 192


def test_rules_are_read_as_they_are_named():
    assert DefectRule.parse("V_Mo") != DefectRule.parse("v_Mo")
