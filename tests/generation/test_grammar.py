"""The grammar: every walk through it is a crystal, spelled as the tokenizer spells it, and none gets stuck."""

import itertools
import random

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crystalfm.chem.crystal_text import CrystalTextFormat, is_cell
from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError
from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer
from crystalfm.generation.grammar import Constraint, CrystalGrammar
from crystalfm.generation.prompts import PromptSettings

FORMAT = CrystalTextFormat()


def byte_pairs(text_format, *, split_digits=True):
    """Return a tokenizer like those of language models: bytes, digits alone, elements in one or two tokens."""
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), *parts] if split_digits else parts
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [symbol for symbol in SYMBOLS if len(symbol) == 2][:40]
    text = [f"\n{word}\n0.12 0.34 0.56 5.5 5.5" for word in words * 4] + ["1234567890 90"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def crystal_tokens(text_format):
    return build_crystal_tokenizer(PromptSettings(text=text_format))


TOKENIZERS = {"crystal": crystal_tokens, "bytes": byte_pairs}


@pytest.fixture(scope="module", params=TOKENIZERS)
def grammar(request):
    return CrystalGrammar(TOKENIZERS[request.param](FORMAT), FORMAT)


@pytest.fixture(scope="module")
def crystal_grammar():
    return CrystalGrammar(crystal_tokens(FORMAT), FORMAT)


def walk(grammar, constraint, rng, max_new_tokens=400, task="generate"):
    state = grammar.start(task, constraint, max_new_tokens)
    tokens = []
    while not state.finished:
        assert state.choices, "a dead end"
        tokens.append(rng.choice(state.choices))
        state.advance(tokens[-1])
    assert state.choices == ()
    assert len(tokens) == state.num_tokens <= max_new_tokens
    return state.text, tokens


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    "text_format", [FORMAT, CrystalTextFormat(0, 0, 1), CrystalTextFormat(2, 1, 3)], ids=["usual", "coarse", "fine"]
)
def test_every_walk_is_a_crystal_in_the_tokens_of_training(tokenizer, text_format):
    tokens = TOKENIZERS[tokenizer](text_format)
    grammar = CrystalGrammar(tokens, text_format)
    rng = random.Random(0)
    for _ in range(60):
        text, ids = walk(grammar, Constraint(), rng)
        crystal = text_format.read(text)
        assert text_format.write(crystal) == text
        assert crystal.volume > 0
        assert ids == [*tokens(text, add_special_tokens=False)["input_ids"], tokens.eos_token_id]


def test_a_formula_is_written_in_whole_multiples(grammar):
    rng = random.Random(0)
    sizes = set()
    for _ in range(60):
        text, _ = walk(grammar, Constraint("formula", {"Na": 2, "Cl": 4}, max_atoms=10), rng)
        crystal = FORMAT.read(text)
        assert crystal.formula == "Cl2Na"
        sizes.add(crystal.num_atoms)
    assert sizes <= {3, 6, 9}
    assert len(sizes) > 1


def test_only_allowed_elements_are_written(grammar):
    rng = random.Random(0)
    written = set()
    for _ in range(30):
        text, _ = walk(grammar, Constraint(elements=frozenset({"N", "Na", "C"})), rng)
        written |= set(text.split("\n")[2::2])
    assert written == {"N", "Na", "C"}


@pytest.mark.parametrize("constraint", [Constraint(), Constraint("formula", {"Ca": 1, "C": 1, "O": 3})])
def test_a_crystal_is_closed_before_its_tokens_run_out(grammar, constraint):
    smallest = next(limit for limit in range(400) if not isinstance(started(grammar, constraint, limit), UserError))
    for limit in (smallest, smallest + 1, smallest + 40):
        for seed in range(20):
            FORMAT.read(walk(grammar, constraint, random.Random(seed), limit)[0])


def started(grammar, constraint, limit):
    try:
        return grammar.start("generate", constraint, limit)
    except UserError as error:
        return error


def test_no_more_atoms_than_allowed(grammar):
    sizes = [
        FORMAT.read(
            walk(grammar, Constraint(max_atoms=2, elements=frozenset({"Na"})), random.Random(seed))[0]
        ).num_atoms
        for seed in range(40)
    ]
    assert set(sizes) == {1, 2}


def test_the_third_angle_is_any_that_makes_a_cell_and_no_other(crystal_grammar):
    grammar = crystal_grammar
    rng = random.Random(0)
    cells = [
        *itertools.product([1, 2, 90, 178, 179], repeat=2),
        *((rng.randint(1, 179), rng.randint(1, 179)) for _ in range(60)),
    ]
    for alpha, beta in cells:
        values = grammar.cell_values((5, 5, 5, 5, 5, 5, alpha, beta))
        found = {angle for angle in range(200) if values >> angle & 1}
        assert found == {angle for angle in range(200) if is_cell(alpha, beta, angle)}
        assert found


def test_angles_with_decimals_make_a_cell_too():
    text_format = CrystalTextFormat(angle_digits=1)
    grammar = CrystalGrammar(byte_pairs(text_format), text_format)
    assert [part.part for part in grammar.cell[6:8]] == ["whole", "decimals"]
    # 10.2 and 20.1: the third is above 9.9 and below 30.3.
    before = (5, 5, 5, 5, 5, 5, 10, 2, 20, 1)
    assert grammar.cell_values(before) == sum(1 << whole for whole in range(10, 31))
    assert grammar.cell_values((*before, 10)) == 0b1111111111
    assert grammar.cell_values((*before, 30)) == 0b0000000111


def test_a_length_is_never_zero(crystal_grammar):
    assert not crystal_grammar.cell_values(()) & 1
    assert not crystal_grammar.cell_values((5, 5)) & 1


def test_the_answer_of_infilling_is_one_allowed_element(grammar):
    answers = {
        walk(grammar, Constraint(elements=frozenset({"C", "Ca"})), random.Random(seed), task="infill")[0]
        for seed in range(20)
    }
    assert answers == {"C", "Ca"}
    anything = {walk(grammar, Constraint(), random.Random(seed), task="infill")[0] for seed in range(40)}
    assert len(anything) > 10
    assert anything <= set(SYMBOLS)


def test_what_is_not_allowed_cannot_be_written(crystal_grammar):
    state = crystal_grammar.start("generate", Constraint(), 100)
    with pytest.raises(ValueError, match="may not follow"):
        state.advance(crystal_grammar.pieces.end)


def test_without_a_constraint_anything_goes_until_the_end(grammar):
    state = grammar.start("generate", Constraint("none"), 100)
    assert state.choices is None
    state.advance(5)
    state.advance(grammar.pieces.end)
    assert state.finished
    assert (state.tokens, state.num_tokens) == ([5], 2)


def test_masks_name_the_choices(crystal_grammar):
    choices = crystal_grammar.start("generate", Constraint(), 100).choices
    assert crystal_grammar.alphabet[crystal_grammar.mask(choices)].tolist() == list(choices)


def test_tokenizers_that_join_what_must_be_apart_are_refused():
    backend = Tokenizer(models.WordLevel({"<end>": 0, "x": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+\n?"), behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")
    with pytest.raises(UserError, match="grammar of crystals"):
        CrystalGrammar(tokenizer, FORMAT)
    with pytest.raises(UserError, match="end-of-sequence"):
        CrystalGrammar(PreTrainedTokenizerFast(tokenizer_object=backend), FORMAT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "formula"},
        {"kind": "formula", "formula": {"Na": 0}},
        {"kind": "formula", "formula": {"Xx": 1}},
        {"kind": "formula", "formula": {"Na": 11, "Cl": 13}},
        {"kind": "formula", "formula": {"Na": 1}, "elements": frozenset({"K"})},
        {"elements": frozenset()},
        {"max_atoms": 0},
        {"min_distance": -0.5},
        {"min_distance": float("nan")},
        {"min_distance": float("inf")},
        {"kind": "all"},
    ],
)
def test_constraints_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError):
        Constraint(**wrong)


def test_too_few_tokens_are_refused_with_the_number_needed(crystal_grammar):
    with pytest.raises(UserError, match="too small") as caught:
        crystal_grammar.start("generate", Constraint("formula", {"Na": 1, "Cl": 1}), 20)
    needed = int(caught.value.remedy.split("=")[1].split()[0])
    walk(crystal_grammar, Constraint("formula", {"Na": 1, "Cl": 1}), random.Random(0), needed)


@pytest.mark.parametrize("cell", ["large", "any"])
def test_atoms_keep_their_distance_unless_there_is_no_place(grammar, cell):
    """Walk at random; in large cells there is a place for every atom."""
    rng = random.Random(1)
    crowded = near = 0
    for _ in range(100):
        state = grammar.start("generate", Constraint(min_distance=0.8, elements=frozenset({"Na"})), 400)
        if cell == "large":
            for token in grammar_tokens(grammar, "9.5 9.0 8.5\n90 80 70"):
                state.advance(token)
        while not state.finished:
            assert state.choices, "a dead end"
            state.advance(rng.choice(state.choices))
        crystal = FORMAT.read(state.text)
        crowded += state.num_crowded
        if not state.num_crowded:
            near += closest_of_different_atoms(crystal) < 0.8
    assert near == 0
    assert cell == "any" or crowded == 0


def grammar_tokens(grammar, text):
    """Return the tokens of a cell's two lines, the way the grammar writes them."""
    tokens, rest = [], text
    for part in grammar.cell:
        matching = [value for value, written in enumerate(part.piece.texts) if written and rest.startswith(written)]
        value = max(matching, key=lambda value: len(part.piece.texts[value]))
        tokens += part.piece.tokens[value]
        rest = rest[len(part.piece.texts[value]) :]
    return tokens


def closest_of_different_atoms(crystal):
    reach = 1.0 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    steps = np.minimum(np.ceil(0.8 / reach + 1), 8).astype(int)
    images = np.array([*itertools.product(*(range(-n, n + 1) for n in steps))])
    found = [np.inf]
    for first, second in itertools.combinations(crystal.frac_coords, 2):
        difference = second - first
        found.append(np.linalg.norm((difference - np.round(difference) + images) @ crystal.lattice, axis=1).min())
    return min(found)


def test_where_no_place_is_left_one_is_written_all_the_same(grammar):
    state = grammar.start("generate", Constraint("formula", {"Na": 1, "Cl": 3}, min_distance=50.0), 400)
    for token in grammar_tokens(grammar, "9.5 9.0 8.5\n90 80 70"):
        state.advance(token)
    rng = random.Random(0)
    while not state.finished:
        state.advance(rng.choice(state.choices))
    assert state.num_crowded == FORMAT.read(state.text).num_atoms - 1 > 0


def test_no_distance_changes_no_walk(grammar):
    for seed in range(10):
        plain = walk(grammar, Constraint(), random.Random(seed))
        assert walk(grammar, Constraint(min_distance=None), random.Random(seed)) == plain
        assert walk(grammar, Constraint(min_distance=0.0), random.Random(seed)) == plain
