"""Runs with pretrained parts out of a mirror: trained, frozen, and evaluated without the mirror."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from run_helpers import MakeConfig

from crystalfm.contracts import UserError
from crystalfm.run.evaluate import evaluate
from crystalfm.run.predict import predict
from crystalfm.run.train import train


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror with a tiny GPT-2 and a tiny BERT in Hugging Face's own format."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast

    folder = tmp_path / "mirror"
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"CNOSabcdefgh"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    torch.manual_seed(0)
    gpt2 = GPT2Model(GPT2Config(vocab_size=16, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    bert = BertModel(
        BertConfig(vocab_size=16, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    )
    for name, model in (("gpt2", gpt2), ("bert", bert)):
        model.save_pretrained(folder / name)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def described_csv(tmp_path: Path, molecule_csv: Path) -> Path:
    """The molecules, every second one with a text."""
    path = tmp_path / "described.csv"
    with molecule_csv.open(newline="") as source, path.open("w", newline="") as target:
        rows = list(csv.DictReader(source))
        writer = csv.DictWriter(target, [*rows[0], "text"])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({**row, "text": row["smiles"].lower() if number % 2 else ""})
    return path


def test_a_gpt2_out_of_a_mirror_is_trained_and_then_works_without_it(
    make_config: MakeConfig, tmp_path: Path, mirror: Path
) -> None:
    folder = tmp_path / "run"
    cfg = make_config("llm=gpt2", f"paths.mirror={mirror}", "trainer.max_epochs=1", llm_settings=False)
    train(cfg, folder)
    metrics = evaluate(
        make_config(f"ckpt={folder}", "paths.offline=true", config="evaluate", tiny=False), tmp_path / "e"
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert metrics["mae_gap_hartree"] == pytest.approx(summary["metrics"]["test"]["llm_fusion"]["gap"]["mae"], rel=1e-6)
    result = predict(make_config(f"ckpt={folder}", "input=CCO", "paths.offline=true", config="predict", tiny=False))
    assert result["predicted"] == 1


@pytest.mark.parametrize("frozen", [True, False])
def test_rows_without_a_text_take_part(
    make_config: MakeConfig, tmp_path: Path, mirror: Path, described_csv: Path, *, frozen: bool
) -> None:
    folder = tmp_path / "run"
    overrides = [
        "modalities=[fingerprint,description]",
        "encoder@encoders.description=bert",
        f"encoders.description.frozen={frozen}",
        f"paths.mirror={mirror}",
        "data.description_column=text",
        "trainer.max_epochs=1",
    ]
    train(make_config(*overrides, f"data.path={described_csv}"), folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert sum(summary["data"]["split_sizes"].values()) == 60
    encoder = next(item for item in summary["model"]["encoders"] if item["modality"] == "description")
    assert encoder["frozen"] is frozen
    assert encoder["width"] == 12
    cached = list((tmp_path / "cache" / "embeddings").rglob("*manifest*"))
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    # Frozen weights are not part of the model: they come from their asset, vectors from the cache.
    assert any("encoders.description" in key for key in state) is not frozen
    assert cached


def test_a_row_with_text_alone_is_predicted(
    make_config: MakeConfig, tmp_path: Path, mirror: Path, described_csv: Path
) -> None:
    folder = tmp_path / "run"
    train(
        make_config(
            "modalities=[description]",
            "encoder@encoders.description=bert",
            f"paths.mirror={mirror}",
            "data.description_column=text",
            "trainer.max_epochs=1",
            "max_rejected_fraction=0.6",
            f"data.path={described_csv}",
        ),
        folder,
    )
    assert len((folder / "rejected.csv").read_text().splitlines()) == 31
    assert "none of the modalities" in (folder / "rejected.csv").read_text()


def test_half_the_rows_without_any_modality_stop_the_run(
    make_config: MakeConfig, tmp_path: Path, mirror: Path, described_csv: Path
) -> None:
    overrides = ["modalities=[description]", "encoder@encoders.description=bert", "data.description_column=text"]
    with pytest.raises(UserError, match="30 of 60 rows"):
        train(make_config(*overrides, f"paths.mirror={mirror}", f"data.path={described_csv}"), tmp_path / "run")


def test_a_weight_that_is_nowhere_names_mirror_and_fetch(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config("llm=gpt2", "paths.offline=true", llm_settings=False)
    with pytest.raises(UserError, match="gpt2") as caught:
        train(cfg, tmp_path / "run")
    assert "crystalfm.fetch gpt2" in str(caught.value)
