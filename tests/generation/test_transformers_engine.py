"""Sampling with transformers: one seed, one text; the model's own probabilities; every text a crystal."""

from math import log

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError
from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer
from crystalfm.generation.engines.llama import PackedLlama
from crystalfm.generation.engines.transformers_engine import TransformersEngine, computes_in_bf16
from crystalfm.generation.grammar import Constraint
from crystalfm.generation.prompts import PromptSettings, generation_prompt
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.generation.writer import CrystalWriter

PROMPTS = PromptSettings()
TOKENIZER = build_crystal_tokenizer(PROMPTS)
ANY = generation_prompt({}, PROMPTS)
SALT = Constraint("formula", {"Na": 1, "Cl": 2}, max_atoms=6)


def tiny(**changes):
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 300,
            "tie_word_embeddings": True, "initializer_range": 0.3, **changes,
        }
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def writer():
    return CrystalWriter(tiny(), TOKENIZER, PROMPTS)


@pytest.fixture(scope="module")
def engine(writer):
    return TransformersEngine(writer)


def mixed_requests():
    """Crystals of any kind, of a formula under prompts of several lengths, answers, and free texts."""
    formulas = ["Cl2Na", "Ca3O8P2", "C"]
    asked = [generation_prompt({"formula": formula, "band_gap": 1.5}, PROMPTS) for formula in formulas]
    return [
        *(Request(index, ANY) for index in range(4)),
        *(Request(10 + index, asked[index % 3], "generate", SALT) for index in range(5)),
        *(Request(20 + index, asked[index], "infill") for index in range(2)),
        *(Request(30 + index, ANY, "generate", Constraint("none")) for index in range(2)),
    ]


def texts(engine, requests, **settings):
    given = SamplingSettings(**{"max_new_tokens": 50, "temperature": 0.9, "top_p": 0.98, **settings})
    return {sample.index: sample for sample in engine.sample(requests, given)}


def test_the_same_seed_gives_the_same_texts_whatever_batch_and_order(engine):
    requests = mixed_requests()
    alone = texts(engine, requests, batch_size=1)
    assert set(alone) == {request.index for request in requests}
    for other in (
        texts(engine, requests, batch_size=3),
        texts(engine, requests[::-1], batch_size=8),
        texts(engine, requests[1::2], batch_size=64),
    ):
        assert {index: sample.text for index, sample in other.items()} == {index: alone[index].text for index in other}
    assert texts(engine, requests, seed=1)[0].text != alone[0].text


def test_every_text_keeps_its_constraint(engine):
    for index, sample in texts(engine, mixed_requests()).items():
        if index < 20:
            crystal = PROMPTS.text.read(sample.text)
            assert sample.finished
            assert sample.num_tokens == len(TOKENIZER(sample.text)["input_ids"]) + 1
            assert index < 10 or crystal.formula == "Cl2Na"
        elif index < 30:
            assert sample.text in SYMBOLS
        else:
            assert sample.num_tokens <= 50


def reference_log_probability(writer, engine, request, text):
    """Return the sum over the choices, by one plain forward pass over the whole text."""
    prompt, completion = writer.prompt_ids(request.prompt), writer.completion_ids(text)
    with torch.no_grad():
        logits = writer.model(torch.tensor([prompt + completion])).logits[0].double()
    state = engine.grammar.start(request.task, request.constraint, 50)
    total, forced = 0.0, 0
    for place, token in enumerate(completion, start=len(prompt) - 1):
        choices = list(state.choices)
        forced += len(choices) == 1
        total += logits[place, choices].log_softmax(0)[choices.index(token)].item()
        state.advance(token)
    return total, forced


def test_log_probabilities_are_the_models_own_over_what_is_allowed(writer, engine):
    requests = mixed_requests()[:11]
    found = texts(engine, requests, batch_size=4)
    for request in requests:
        sample = found[request.index]
        total, forced = reference_log_probability(writer, engine, request, sample.text)
        assert sample.log_probability == pytest.approx(total, abs=1e-3)
        assert sample.num_forced == forced


def test_frequencies_are_those_of_the_renormalised_law(writer, engine):
    allowed = frozenset({"Na", "K", "Cl"})
    requests = [Request(index, ANY, "infill", Constraint(elements=allowed)) for index in range(600)]
    answers = [s.text for s in engine.sample(requests, SamplingSettings(batch_size=200, max_new_tokens=10))]
    with torch.no_grad():
        logits = writer.model(torch.tensor([writer.prompt_ids(ANY)])).logits[0, -1]
    symbols = sorted(allowed)
    shares = logits[[TOKENIZER(symbol)["input_ids"][0] for symbol in symbols]].softmax(0)
    for symbol, share in zip(symbols, shares.tolist(), strict=True):
        assert answers.count(symbol) / len(answers) == pytest.approx(
            share, abs=4 * (share * (1 - share) / 600) ** 0.5 + 1e-3
        )


def test_free_greedy_sampling_is_what_generate_writes(writer, engine):
    prompt = writer.prompt_ids(ANY)
    expected = writer.model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=30, pad_token_id=TOKENIZER.pad_token_id
    )[0, len(prompt) :]
    free = [Request(index, ANY, "generate", Constraint("none")) for index in range(3)]
    found = texts(engine, free, temperature=0.0, max_new_tokens=30, batch_size=2)
    stop = expected.tolist().index(TOKENIZER.eos_token_id) if TOKENIZER.eos_token_id in expected else len(expected)
    assert {sample.text for sample in found.values()} == {TOKENIZER.decode(expected[:stop])}
    assert found[0].num_forced == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 1, "head_dim": 16},
        {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ],
)
def test_other_llamas_give_the_models_own_probabilities(changes):
    model = tiny(**changes)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    writer = CrystalWriter(model, TOKENIZER, PROMPTS)
    assert PackedLlama.fits(model)
    engine = TransformersEngine(writer)
    request = Request(0, ANY)
    sample = texts(engine, [request])[0]
    assert sample.log_probability == pytest.approx(
        reference_log_probability(writer, engine, request, sample.text)[0], abs=1e-3
    )


def test_modules_of_transformers_give_the_same_texts(writer, engine, monkeypatch):
    monkeypatch.setattr(PackedLlama, "fits", staticmethod(lambda _: False))
    through_modules = TransformersEngine(writer)
    requests = mixed_requests()
    expected = {index: sample.text for index, sample in texts(engine, requests, batch_size=3).items()}
    assert {i: sample.text for i, sample in texts(through_modules, requests, batch_size=3).items()} == expected
    assert writer.model.config._attn_implementation == "sdpa"


def test_adapters_that_are_not_merged_count(writer):
    peft = pytest.importorskip("peft")
    model = tiny()
    plain = texts(TransformersEngine(CrystalWriter(model, TOKENIZER, PROMPTS)), [Request(0, ANY)])[0].text
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    writer = CrystalWriter(adapted.eval(), TOKENIZER, PROMPTS)
    engine = TransformersEngine(writer)
    sample = texts(engine, [Request(0, ANY)])[0]
    assert sample.text != plain
    total, _ = reference_log_probability(writer, engine, Request(0, ANY), sample.text)
    assert sample.log_probability == pytest.approx(total, abs=1e-3)


def test_one_choice_is_written_without_the_network(engine):
    sample = texts(engine, [Request(0, ANY, "infill", Constraint(elements=frozenset({"Na"})))])[0]
    assert (sample.text, sample.num_tokens, sample.num_forced, sample.log_probability) == ("Na", 2, 2, 0.0)


def test_common_beginnings_of_prompts_are_computed_once(engine, monkeypatch):
    fed = []
    run = engine._network.run
    monkeypatch.setattr(engine._network, "run", lambda ids, cache: fed.append(len(ids)) or run(ids, cache))
    asked = generation_prompt({"formula": "Ca3(PO4)2", "spacegroup": 167, "band_gap": 5.4321}, PROMPTS)
    texts(engine, [Request(index, asked) for index in range(6)], batch_size=3)
    prompt = len(engine.writer.prompt_ids(asked))
    assert fed[0] == prompt
    assert max(fed[1:]) < prompt


def test_bf16_samples_are_crystals_with_finite_probabilities():
    engine = TransformersEngine(CrystalWriter(tiny(), TOKENIZER, PROMPTS), "bf16")
    assert engine.model.dtype == torch.bfloat16
    assert engine.model.model.rotary_emb.inv_freq.dtype == torch.float32
    for sample in texts(engine, [Request(index, ANY) for index in range(6)]).values():
        PROMPTS.text.read(sample.text)
        assert sample.log_probability < log(1.0)


def test_precision_auto_is_what_the_machine_computes_well():
    engine = TransformersEngine(CrystalWriter(tiny(), TOKENIZER, PROMPTS), "auto")
    assert (engine.model.dtype == torch.bfloat16) == computes_in_bf16(torch.device("cpu"))
    assert not computes_in_bf16(torch.device("meta"))


def test_what_cannot_be_done_is_refused(engine):
    with pytest.raises(UserError, match="same index"):
        texts(engine, [Request(1, ANY), Request(1, ANY)])
    with pytest.raises(UserError, match="the model sees 300"):
        texts(engine, [Request(1, ANY)], max_new_tokens=400)
    with pytest.raises(UserError, match="too small"):
        texts(engine, [Request(1, ANY)], max_new_tokens=5)


def test_weights_that_are_not_numbers_are_refused():
    model = tiny()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        texts(TransformersEngine(CrystalWriter(model, TOKENIZER, PROMPTS)), [Request(0, ANY)])


def test_nothing_asked_nothing_written(engine):
    assert texts(engine, []) == {}
