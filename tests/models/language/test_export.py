"""A generator as a folder that others read."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from crystalfm.cli import main as cli
from crystalfm.contracts import UserError
from crystalfm.generation.prompts import PromptSettings, generation_prompt
from crystalfm.generation.writer import CrystalWriter
from crystalfm.models.language.build import weights_to_save
from crystalfm.run.checkpoints.checkpointing import PAYLOAD_KEY, SCHEMA_VERSION
from crystalfm.run.exporting import export as export_module
from crystalfm.run.exporting.generator import Origin, export_writer
from crystalfm.run.language.restore import restore_writer

CRYSTAL = "5.6 5.6 5.6\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
SMOLLM2 = Origin("smollm2_135m", "ab" * 32, "mp")


def writer_of(built):
    return CrystalWriter(built.model.eval(), built.tokenizer, PromptSettings(max_conditions=2))


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


@pytest.mark.parametrize("settings", [{}, {"asset": "untied", "lora_rank": 2}, {"asset": "gpt2"}], ids=str)
def test_plain_transformers_reads_the_folder(build, train, logits, tmp_path, settings):
    built = build(**settings)
    train(built)
    writer = writer_of(built)
    ids = writer.completion_ids(CRYSTAL)
    expected = logits(built.model, built.tokenizer)
    folder = export_writer(writer, tmp_path / "out", SMOLLM2)
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "crystalfm.json"} <= {
        path.name for path in folder.iterdir()
    }
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert CrystalWriter(model, tokenizer, writer.prompts).completion_ids(CRYSTAL) == ids
    assert tokenizer.decode(ids[:-1]) == CRYSTAL
    torch.testing.assert_close(logits(model, tokenizer), expected, rtol=1e-4, atol=1e-4)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == ids[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_is_a_writer_again(build, logits, llm_assets, tmp_path):
    built = build()
    writer = writer_of(built)
    again = restore_writer(export_writer(writer, tmp_path / "out", Origin()), llm_assets)
    assert again.prompts == writer.prompts
    assert torch.equal(logits(again.model, again.tokenizer), logits(built.model, built.tokenizer))


def test_transformers_4_finds_its_keys(build, logits, llm_assets, tmp_path):
    """It knows neither ``rope_parameters`` nor the tokenizer class of transformers 5."""
    built = build("untied")
    config = built.model.config
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}
    folder = export_writer(writer_of(built), tmp_path / "out", SMOLLM2)
    values = json.loads((folder / "config.json").read_text())
    assert values["rope_theta"] == 500000.0
    assert values["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    loaded = AutoModelForCausalLM.from_pretrained(folder).config.rope_parameters
    assert loaded == {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}


def test_adapters_alone_are_in_pefts_format(build, train, logits, llm_assets, tmp_path):
    peft = pytest.importorskip("peft")
    built = build("llama", lora_rank=2, lora_alpha=32.0)
    train(built)
    folder = export_writer(writer_of(built), tmp_path / "out", SMOLLM2, adapter=True)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "crystalfm.json"} <= names
    assert "model.safetensors" not in names
    base = AutoModelForCausalLM.from_pretrained(llm_assets.root / "llama")
    loaded = peft.PeftModel.from_pretrained(base, folder)
    torch.testing.assert_close(logits(loaded, built.tokenizer), logits(built.model, built.tokenizer))
    assert front_matter(folder)["library_name"] == "peft"


def test_the_card_names_base_and_licence(build, tmp_path):
    writer = writer_of(build())
    folder = export_writer(writer, tmp_path / "smollm2", SMOLLM2)
    text = (folder / "README.md").read_text()
    assert front_matter(folder)["license"] == "apache-2.0"
    assert "SmolLM2-135M-Instruct" in text
    assert "Its licence, Apache-2.0, applies" in text
    assert "ab" * 32 in text
    assert repr(generation_prompt({}, writer.prompts)) in text
    gated = export_writer(writer, tmp_path / "llama", Origin("llama3_8b", "cd" * 32, "mp"))
    assert front_matter(gated) | {"license": "llama3", "base_model": "meta-llama/Meta-Llama-3-8B"} == front_matter(
        gated
    )
    own = export_writer(writer, tmp_path / "own", Origin())
    assert "license" not in front_matter(own)
    assert "Trained from scratch" in (own / "README.md").read_text()
    state = json.loads((folder / "crystalfm.json").read_text())
    assert PromptSettings.from_state(state["prompts"]) == writer.prompts
    assert state["base"] == {"asset": "smollm2_135m", "sha256": "ab" * 32}


def test_the_cards_example_runs(build, tmp_path):
    folder = export_writer(writer_of(build()), tmp_path / "out", Origin())
    example = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = example.replace("FOLDER", folder.as_posix()).replace("max_new_tokens=512", "max_new_tokens=4")
    names = {}
    exec(compile(program, "card", "exec"), names)  # noqa: S102
    assert names["text"]


def test_a_folder_in_use_is_left_alone(build, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export_writer(writer_of(build()), tmp_path / "out", Origin())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_what_cannot_be_exported_leaves_nothing_behind(build, tmp_path):
    with pytest.raises(UserError, match="no adapters"):
        export_writer(writer_of(build()), tmp_path / "out", Origin(), adapter=True)
    origin = Origin("llama", adapters_alone=False)
    with pytest.raises(UserError, match="norms"):
        export_writer(writer_of(build("llama", lora_rank=2)), tmp_path / "out", origin, adapter=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def checkpoint(build, train, tmp_path, llm_assets, monkeypatch):
    """A checkpoint file as a training with adapters writes it."""
    built = build("llama", lora_rank=2)
    train(built)
    payload = {
        "schema_version": SCHEMA_VERSION,
        "kind": "language",
        "config": {"model": {"name": "crystal_llm"}},
        "modalities": ["crystal_text"],
        "targets": [],
        "encoders": {},
        "scaling": None,
        "architecture": {**built.architecture, "prompts": PromptSettings().state()},
        "data": {"name": "mp"},
    }
    weights = {f"network.model.{name}": value for name, value in weights_to_save(built.model).items()}
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": weights, PAYLOAD_KEY: payload}, path)
    monkeypatch.setattr(export_module, "asset_store", lambda cfg: llm_assets)
    return SimpleNamespace(path=path, built=built)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_command_exports_a_checkpoint(checkpoint, logits, llm_assets, tmp_path, capsys, adapter):
    words = [f"ckpt={checkpoint.path}", f"out={tmp_path / 'out'}", f"adapter={str(adapter).lower()}"]
    assert cli.main(["export", *words]) == 0
    assert f"wrote {tmp_path / 'out'}" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(llm_assets.root / "llama" if adapter else tmp_path / "out")
    if adapter:
        peft = pytest.importorskip("peft")
        model = peft.PeftModel.from_pretrained(model, tmp_path / "out")
    expected = logits(checkpoint.built.model, checkpoint.built.tokenizer)
    torch.testing.assert_close(logits(model, tokenizer), expected, rtol=1e-4, atol=1e-4)


def test_the_command_names_what_is_wrong(checkpoint, tmp_path, capsys):
    assert cli.main(["export", f"ckpt={checkpoint.path}"]) == 2
    assert "out" in capsys.readouterr().err
    assert cli.main(["export", f"ckpt={checkpoint.path}", f"out={tmp_path}"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["export", f"ckpt={tmp_path / 'none'}", f"out={tmp_path / 'out'}"]) == 2
    assert cli.main(["export", "--help"]) == 0
    assert "adapter=true" in capsys.readouterr().out
