"""The vLLM engine against a stand-in: what it is called with, and what is drawn again."""

import re
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from crystalfm.chem.crystal_text import CrystalTextFormat
from crystalfm.contracts import UserError
from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer
from crystalfm.generation.engines.vllm_engine import VllmEngine, completion_pattern
from crystalfm.generation.grammar import Constraint
from crystalfm.generation.prompts import PromptSettings, generation_prompt
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.generation.writer import completion_ids, prompt_ids

PROMPTS = PromptSettings()
TOKENIZER = build_crystal_tokenizer(PROMPTS)
ANY = generation_prompt({}, PROMPTS)
SALT = "5.6 5.6 5.6\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
NO_CELL = SALT.replace("90 90 90", "20 20 90")
SODIUM = SALT.replace("Cl", "Na")


@dataclass
class StructuredOutputsParams:
    regex: str


@dataclass
class SamplingParams:
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int
    logprobs: int
    structured_outputs: StructuredOutputsParams | None


class LLM:
    """Answers with what the test put down for it."""

    answers: list[str]

    def __init__(self, model, dtype):
        self.model, self.dtype = model, dtype
        self.calls = []

    def get_tokenizer(self):
        return TOKENIZER

    def generate(self, prompts, sampling_params, use_tqdm):
        self.calls.append((prompts, sampling_params, use_tqdm))
        found = []
        for _ in prompts:
            ids = completion_ids(TOKENIZER, self.answers.pop(0))
            written = SimpleNamespace(token_ids=ids, cumulative_logprob=-1.5, finish_reason="stop")
            found.append(SimpleNamespace(outputs=[written]))
        return found


@pytest.fixture
def engine(monkeypatch, tmp_path):
    module, inner = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    module.LLM, module.SamplingParams, inner.StructuredOutputsParams = LLM, SamplingParams, StructuredOutputsParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", inner)
    return VllmEngine(tmp_path, PROMPTS, rounds=3)


def test_it_is_called_with_tokens_settings_and_a_pattern(engine, tmp_path):
    engine._model.answers = [SALT, SALT, "whatever"]
    requests = [Request(0, ANY), Request(1, ANY), Request(2, ANY, "generate", Constraint("none"))]
    settings = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=100, seed=5)
    samples = list(engine.sample(requests, settings))
    assert (engine._model.model, engine._model.dtype) == (str(tmp_path), "auto")
    ((prompts, asked, use_tqdm),) = engine._model.calls
    assert prompts == [{"prompt_token_ids": prompt_ids(TOKENIZER, ANY)}] * 3
    assert not use_tqdm
    assert (asked[0].temperature, asked[0].top_p, asked[0].top_k, asked[0].max_tokens) == (0.7, 0.9, -1, 100)
    assert re.fullmatch(asked[0].structured_outputs.regex, SALT)
    assert asked[2].structured_outputs is None
    assert len({params.seed for params in asked}) == 3
    assert [(sample.index, sample.text) for sample in samples[:2]] == [(0, SALT), (1, SALT)]
    assert (samples[0].log_probability, samples[0].finished) == (-1.5, True)
    assert samples[0].num_tokens == len(completion_ids(TOKENIZER, SALT))


def test_what_breaks_its_constraint_is_drawn_again(engine):
    salt = Constraint("formula", {"Na": 1, "Cl": 1})
    engine._model.answers = [NO_CELL, SALT, SODIUM, SALT, SODIUM, SODIUM]
    requests = [Request(0, ANY), Request(1, ANY, "generate", salt), Request(2, ANY, "generate", salt)]
    samples = {sample.index: sample.text for sample in engine.sample(requests, SamplingSettings())}
    # The last one is given as it is after three rounds.
    assert samples == {0: SALT, 1: SALT, 2: SODIUM}
    assert [len(prompts) for prompts, *_ in engine._model.calls] == [3, 2, 1]
    seeds = [params.seed for _, asked, _ in engine._model.calls for params in asked]
    assert len(set(seeds)) == len(seeds)


def test_batches_are_as_large_as_asked(engine):
    engine._model.answers = [SALT] * 5
    list(engine.sample([Request(index, ANY) for index in range(5)], SamplingSettings(batch_size=2)))
    assert [len(prompts) for prompts, *_ in engine._model.calls] == [2, 2, 1]


@pytest.mark.parametrize("text_format", [CrystalTextFormat(), CrystalTextFormat(0, 1, 4)])
def test_patterns_match_what_is_allowed(text_format):
    pattern = completion_pattern("generate", Constraint(elements=frozenset({"Na", "Cl"})), text_format, 2)
    text = text_format.write(CrystalTextFormat().read(SALT))
    assert re.fullmatch(pattern, text)
    assert not re.fullmatch(pattern, text.replace("Na", "K"))
    assert not re.fullmatch(pattern, text + "\n" + "\n".join(text.split("\n")[2:4]))
    assert not re.fullmatch(pattern, text + "\n")


def test_a_formulas_pattern_has_its_elements_and_multiples_of_its_atoms():
    pattern = completion_pattern("generate", Constraint("formula", {"Na": 1, "Cl": 1}), CrystalTextFormat(), 5)
    sites = "\n".join(SALT.split("\n")[2:])
    assert re.fullmatch(pattern, f"{SALT}\n{sites}")
    assert not re.fullmatch(pattern, f"{SALT}\n{sites}\n{sites}")
    assert not re.fullmatch(pattern, "\n".join(SALT.split("\n")[:4]))


def test_an_answers_pattern_is_one_symbol():
    pattern = completion_pattern("infill", Constraint(elements=frozenset({"C", "Ca"})), CrystalTextFormat(), 1)
    assert [bool(re.fullmatch(pattern, text)) for text in ("C", "Ca", "Cl", "CC")] == [True, True, False, False]


def test_missing_folder_or_library_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no folder"):
        VllmEngine(tmp_path / "none", PROMPTS)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="not installed"):
        VllmEngine(tmp_path, PROMPTS)
