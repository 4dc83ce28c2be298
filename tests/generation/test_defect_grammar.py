"""The grammar of defects: every walk is a configuration that is allowed, and every allowed one can be walked."""

from __future__ import annotations

import copy
import itertools
import random

import pytest
from defect_cases import RULES, defect_settings
from test_grammar import byte_pairs
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.chem.defects.rules import DefectRule, parse_rules
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer
from crystalfm.generation.defects.answers import read_answer, write_answer
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.defects.grammar import DefectGrammar
from crystalfm.generation.defects.prompts import defect_prompt
from crystalfm.generation.defects.tokenizer import build_defect_tokenizer
from crystalfm.generation.engines.transformers_engine import TransformersEngine
from crystalfm.generation.engines.vllm_engine import VllmEngine
from crystalfm.generation.grammar import CrystalGrammar
from crystalfm.generation.prompts import PromptSettings
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.generation.writer import CrystalWriter

ANSWERS = ("edits", "full")
TOKENIZERS = {"defects": build_defect_tokenizer, "bytes": byte_pairs}


@pytest.fixture(scope="module", params=itertools.product(ANSWERS, TOKENIZERS), ids="-".join)
def grammar(request):
    answer, tokenizer = request.param
    settings = defect_settings(answer=answer)
    made = DefectGrammar(TOKENIZERS[tokenizer](settings), settings)
    made.tokenizer = TOKENIZERS[tokenizer](settings)
    return made


@pytest.fixture(scope="module", params=ANSWERS)
def small_grammar(request):
    settings = defect_settings(answer=request.param)
    return DefectGrammar(build_defect_tokenizer(settings), settings)


def walk(grammar, constraint, rng, max_new_tokens=None):
    limit = max_new_tokens or grammar.needed_tokens(constraint, constraint.most)
    state = grammar.start("defects", constraint, limit)
    tokens = []
    while not state.finished:
        assert state.choices, "a dead end"
        tokens.append(rng.choice(state.choices))
        state.advance(tokens[-1])
    assert len(tokens) <= limit
    return state.text, tokens


def constraints(supercell, rules):
    """Return constraints of every kind: few, none at least, many, all, exact."""
    num_sites = len(DefectConstraint(supercell, rules).sites)
    return [
        DefectConstraint(supercell, rules),
        DefectConstraint(supercell, rules, 0, 2),
        DefectConstraint(supercell, rules, 4, 6),
        DefectConstraint(supercell, rules, num_sites, num_sites),
        DefectConstraint(supercell, rules, counts={rules[0]: 2, rules[-1]: 1}),
    ]


@pytest.mark.parametrize("host", RULES)
def test_every_walk_is_an_allowed_configuration_in_the_tokens_of_training(grammar, host):
    supercell = grammar.settings.supercell(host, [3, 2, 1])
    rng = random.Random(0)
    for constraint in constraints(supercell, grammar.settings.rules_of(host)):
        sizes = set()
        for _ in range(12):
            text, tokens = walk(grammar, constraint, rng)
            configuration = read_answer(text, supercell, grammar.settings)
            assert constraint.allows(configuration)
            assert write_answer(configuration, supercell, grammar.settings) == text
            ids = grammar.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokens == [*ids, grammar.tokenizer.eos_token_id]
            sizes.add(len(configuration))
        assert min(sizes) >= constraint.fewest
        assert max(sizes) <= constraint.most


def written(grammar, constraint):
    """Return every configuration that can be written, by walking all ways."""
    found, waiting = set(), [[]]
    while waiting:
        before = waiting.pop()
        state = grammar.start("defects", constraint, 10_000)
        for token in before:
            state.advance(token)
        if state.finished:
            found.add(read_answer(state.text, constraint.supercell, grammar.settings))
        waiting += [[*before, token] for token in state.choices]
    return found


def allowed(constraint):
    """Return every configuration that is allowed, by trying all."""
    rules = {}
    for rule in constraint.rules:
        for site in constraint.supercell.sites_of(rule.removed):
            rules.setdefault(site, []).append((site, rule.number))
    choices = [[None, *options] for options in rules.values()]
    made = (Configuration.of(each for each in chosen if each) for chosen in itertools.product(*choices))
    return {configuration for configuration in made if constraint.allows(configuration)}


def test_exactly_the_allowed_configurations_can_be_written(small_grammar):
    supercell = small_grammar.settings.supercell("MoS2", [2, 1, 1])
    rules = parse_rules(["v_S", "Se_S", "W_Mo"])
    for constraint in (
        DefectConstraint(supercell, rules, 1, 2),
        DefectConstraint(supercell, rules, 0, 1),
        DefectConstraint(supercell, rules, 5, 6),
        DefectConstraint(supercell, rules[2:], 2, 2),
        DefectConstraint(supercell, rules, counts={rules[0]: 2, rules[1]: 1}),
        DefectConstraint(supercell, rules, counts={rules[0]: 1, rules[2]: 2}),
        DefectConstraint(supercell, rules, counts={rules[0]: 0, rules[1]: 4}),
    ):
        expected = allowed(constraint)
        assert expected
        assert written(small_grammar, constraint) == expected


def test_edits_are_closed_before_their_tokens_run_out():
    settings = defect_settings()
    grammar = DefectGrammar(build_defect_tokenizer(settings), settings)
    supercell = settings.supercell("MoS2")
    constraint = DefectConstraint(supercell, settings.rules_of("MoS2"), 2, 50)
    rng = random.Random(0)
    assert grammar.needed_tokens(constraint) == 9
    for limit in (9, 10, 12, 13, 40):
        for _ in range(10):
            text, _ = walk(grammar, constraint, rng, limit)
            assert len(read_answer(text, supercell, settings)) <= (limit - 1) // 4
    with pytest.raises(UserError, match="max_new_tokens=8 is too small") as caught:
        grammar.start("defects", constraint, 8)
    assert caught.value.remedy == "max_new_tokens=9 or more"


def test_full_answers_need_room_for_every_site():
    settings = defect_settings(answer="full")
    grammar = DefectGrammar(build_defect_tokenizer(settings), settings)
    constraint = DefectConstraint(settings.supercell("MoS2"), settings.rules_of("MoS2"))
    with pytest.raises(UserError, match="max_new_tokens=512"):
        grammar.start("defects", constraint, 512)
    assert len(walk(grammar, constraint, random.Random(0), 769)[1]) == 769


def test_only_symbols_are_decided_in_full_answers():
    settings = defect_settings(answer="full")
    tokenizer = build_defect_tokenizer(settings)
    grammar = DefectGrammar(tokenizer, settings)
    supercell = settings.supercell("MoS2", [2, 2, 1])
    text = write_answer(Configuration(((5, 0),)), supercell, settings)
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    rules = parse_rules(["v_S"])
    decided = grammar.decided_tokens("defects", DefectConstraint(supercell, rules, 0, 12), ids)
    assert [place for place, is_decided in enumerate(decided) if is_decided] == list(range(16, 48, 4))
    # With one defect and no more, nothing is left to decide after it.
    decided = grammar.decided_tokens("defects", DefectConstraint(supercell, rules, 1, 1), ids)
    assert [place for place, is_decided in enumerate(decided) if is_decided] == [16, 20]
    with pytest.raises(ValueError, match="may not follow"):
        grammar.decided_tokens("defects", DefectConstraint(supercell, parse_rules(["v_Mo"])), ids)


def test_each_grammar_refuses_what_the_other_writes(small_grammar):
    supercell = small_grammar.settings.supercell("MoS2", [2, 2, 1])
    constraint = DefectConstraint(supercell, parse_rules(["v_S"]))
    crystals = CrystalGrammar(build_crystal_tokenizer(PromptSettings()), PromptSettings().text)
    with pytest.raises(UserError, match="writes crystals, not defects"):
        crystals.start("defects", constraint, 500)
    with pytest.raises(UserError, match="writes defects, not crystals"):
        small_grammar.start("generate", Constraint(), 500)
    assert small_grammar.start("defects", Constraint("none"), 5).choices is None


def test_hosts_and_elements_that_cannot_be_written(small_grammar):
    other = Supercell(HOSTS["WSe2"], (2, 2, 1))
    with pytest.raises(UserError, match="does not know the host 'WSe2'"):
        small_grammar.start("defects", DefectConstraint(other, parse_rules(["v_W"])), 500)


def test_tokenizers_without_an_end_or_with_joined_lines_are_refused():
    settings = defect_settings()
    backend = Tokenizer(models.WordLevel({"<u>": 0}, unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    with pytest.raises(UserError, match="no end-of-sequence token"):
        DefectGrammar(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<u>"), settings)
    with pytest.raises(UserError, match="cannot be held to the grammar of defects"):
        DefectGrammar(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<u>", eos_token="<e>"), settings)


V_S, W_MO = DefectRule("S"), DefectRule("Mo", "W")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": ()}, "no defect rule"),
        ({"rules": (DefectRule("Se"),)}, "takes an element that MoS2 does not have"),
        ({"min_defects": 4}, "no answer has so many"),
        ({"min_defects": -1}, "no answer has so many"),
        ({"min_defects": 9, "max_defects": 9}, "9 defects do not fit on the 8 sites"),
        ({"counts": {W_MO: 1}}, "names? W_Mo, which is not among the rules"),
        ({"counts": {V_S: 0}}, "name no defect"),
        ({"counts": {V_S: 9}}, "9 defects do not fit on the 8 sites of S"),
    ],
)
def test_constraints_that_cannot_be_kept(arguments, message):
    supercell = Supercell(HOSTS["MoS2"], (2, 2, 1))
    with pytest.raises(UserError, match=message):
        DefectConstraint(supercell, **{"rules": (V_S,)} | arguments)


def test_a_constraint_says_what_it_allows():
    supercell = Supercell(HOSTS["MoS2"], (2, 2, 1))
    one, two = Configuration(((5, 0),)), Configuration(((5, 0), (6, 0)))
    few = DefectConstraint(supercell, (V_S,), 1, 1)
    assert few.allows(one)
    assert not few.allows(two)
    assert not few.allows(Configuration(((0, 74),)))
    exact = DefectConstraint(supercell, (V_S, W_MO), counts={V_S: 1, W_MO: 0})
    assert exact.allows(one)
    assert not exact.allows(two)
    assert (exact.fewest, exact.most, DefectConstraint(supercell, (V_S,), 1, 99).most) == (1, 1, 8)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_untrained_network_writes_allowed_configurations_alone(answer):
    settings = defect_settings(answer=answer)
    tokenizer = build_defect_tokenizer(settings)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    engine = TransformersEngine(CrystalWriter(LlamaForCausalLM(config).eval(), tokenizer, settings))
    constraints_of = {}
    for index, host in enumerate(RULES):
        supercell = settings.supercell(host, [3, 3, 1])
        constraints_of[index] = DefectConstraint(supercell, settings.rules_of(host), 1, 3 + index)
    requests = [
        Request(index, defect_prompt(each.supercell, each.rules, {}, settings), "defects", each)
        for index, each in constraints_of.items()
    ]
    for sample in engine.sample(requests, SamplingSettings(max_new_tokens=160, batch_size=2)):
        constraint = constraints_of[sample.index]
        assert sample.finished
        assert constraint.allows(read_answer(sample.text, constraint.supercell, settings))


def test_a_grammar_in_another_process_starts_afresh(small_grammar):
    constraint = DefectConstraint(small_grammar.settings.supercell("P", [2, 2, 1]), parse_rules(["v_P"]), 2, 2)
    texts = [walk(small_grammar, constraint, random.Random(seed))[0] for seed in range(5)]
    other = copy.deepcopy(small_grammar)  # by the state that a process is sent
    assert not other.__dict__["_leading"]
    assert [walk(other, constraint, random.Random(seed))[0] for seed in range(5)] == texts


def test_vllm_refuses_defects(tmp_path):
    with pytest.raises(UserError, match="cannot be held to the grammar of defects"):
        VllmEngine(tmp_path, defect_settings())
