"""Generating: files, figures with denominators, seeds, interruption and resuming, conditions, hidden elements."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import MakeConfig

from crystalfm.chem.crystal_io import read_crystal_file
from crystalfm.chem.crystals import Crystal, make_crystal
from crystalfm.contracts import UserError
from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer
from crystalfm.generation.prompts import PromptSettings
from crystalfm.generation.sampling import Sample
from crystalfm.io.files import file_lock, whole_lines
from crystalfm.run import generate as generation
from crystalfm.run.generate import generate
from crystalfm.run.generation.engine import checkpoint_digest, make_engine, sampling_precision
from crystalfm.run.generation.plan import CUT_OFF
from crystalfm.run.language.restore import restore_writer

pytest.importorskip("smact", reason="judging compositions needs smact")

ROCK_SALT = "4.0 4.0 4.0\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
TEXTS = (
    ROCK_SALT,
    ROCK_SALT.replace("4.0", "4.1"),  # the same within the matcher's tolerance
    ROCK_SALT.replace("Na", "K"),
    ROCK_SALT.replace("Cl", "He"),  # makes no compound
    ROCK_SALT.replace("0.50 0.50 0.50", "0.01 0.00 0.00"),  # atoms overlap
    ROCK_SALT + "\nCl",
    "nonsense",
)
"""What the engine below writes, over and over."""


class WritingEngine:
    """Writes texts that are known beforehand; stops like a user's Ctrl-C after some."""

    def __init__(self, texts: tuple[str, ...] = TEXTS, stop_after: int | None = None) -> None:
        self.texts = texts
        self.stop_after = stop_after
        self.asked: list[int] = []

    def sample(self, requests: Any, settings: Any) -> Any:
        for number, request in enumerate(requests):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request.index)
            yield Sample(request.index, self.texts[request.index % len(self.texts)], 20, 5, -1.5, finished=True)


@pytest.fixture(scope="module")
def writer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA with random weights over the crystal tokenizer, as an exported folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("writer")
    prompts = PromptSettings()
    tokenizer = build_crystal_tokenizer(prompts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "crystalfm.json").write_text(json.dumps({"prompts": prompts.state()}))
    return folder


@pytest.fixture
def config(make_config: MakeConfig, writer_folder: Path) -> MakeConfig:
    """Return a function that composes a generation of a few small samples."""

    def build(*overrides: str, **_: Any) -> Any:
        small = ["n=6", "batch_size=4", "max_atoms=4", "trainer=cpu", "progress_bar=false", "pictures=0"]
        given = [f"ckpt={writer_folder}", *small, *overrides]
        return make_config(*given, config="generate", tiny=False)

    return build


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put an engine that writes known texts in place of the real one; call it for another."""

    def use(**arguments: Any) -> WritingEngine:
        made = WritingEngine(**arguments)
        monkeypatch.setattr(generation, "make_engine", lambda cfg, writer, folder: made)
        return made

    return use


def rows(folder: Path) -> list[dict[str, Any]]:
    """Read the table of all samples."""
    from pyarrow import parquet

    found: list[dict[str, Any]] = parquet.read_table(folder / "samples.parquet").to_pylist()
    return found


def report(folder: Path) -> dict[str, Any]:
    """Read the report."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


# ------------------------------------------------------------------------ what is left behind


def test_every_figure_counts_all_samples(config, engine, tmp_path):
    engine()
    returned = generate(config("n=14"), tmp_path / "run")
    found = report(tmp_path / "run")
    assert found["num_samples"] == 14
    assert found["parsed"] == {"count": 10, "total": 14, "fraction": 10 / 14}
    assert found["structural_valid"] == {"count": 8, "total": 14, "fraction": 8 / 14}
    assert found["compositional_valid"]["count"] == 8
    assert found["valid"] == {"count": 6, "total": 14, "fraction": 6 / 14}
    assert found["valid_unique"] == {"count": 2, "total": 14, "fraction": 2 / 14}
    assert found["unique_among_valid"] == {"count": 2, "total": 6, "fraction": 2 / 6}
    assert found["formulas_among_valid"] == {"count": 2, "total": 6, "fraction": 2 / 6}
    assert found["problems"] == {"overlapping atoms": 2, "cut off within a site": 2, "no line of cell lengths": 2}
    assert found["tokens"] == {"written": 280, "without_choice": {"count": 70, "total": 280, "fraction": 0.25}}
    assert found["mean_log_probability"] == -1.5
    assert found["num_cif_files"] == 8
    assert returned == {
        "parsed": 10 / 14,
        "structural_valid": 8 / 14,
        "compositional_valid": 8 / 14,
        "valid": 6 / 14,
        "valid_unique": 2 / 14,
    }


def test_the_table_has_a_row_a_sample(config, engine, tmp_path):
    engine()
    generate(config("n=7"), tmp_path)
    found = rows(tmp_path)
    assert list(found[0]) == [
        *("index", "task", "prompt", "text", "parsed", "problem", "formula", "num_atoms"),
        *("structural_valid", "compositional_valid", "valid", "num_tokens", "num_forced", "log_probability"),
        *("finished", "structure"),
    ]
    assert [row["index"] for row in found] == list(range(7))
    assert [row["text"] for row in found] == list(TEXTS)
    assert [row["valid"] for row in found] == [True, True, True, False, False, False, False]
    assert [row["formula"] for row in found] == ["ClNa", "ClNa", "ClK", "HeNa", "ClNa", None, None]
    assert [row["problem"] for row in found[:5]] == [None, None, None, None, "overlapping atoms"]
    assert found[0]["prompt"] == found[6]["prompt"] != ""
    assert Crystal.from_json(found[2]["structure"]).atomic_numbers.tolist() == [19, 17]
    with (tmp_path / "samples.csv").open(newline="") as stream:
        assert [row["text"] for row in csv.DictReader(stream)] == list(TEXTS)


def test_cif_files_hold_the_crystals_and_the_others_are_rejected_with_reasons(config, engine, tmp_path):
    engine()
    generate(config("n=7"), tmp_path)
    names = sorted(path.name for path in (tmp_path / "crystals").iterdir())
    assert names == ["000000_ClNa.cif", "000001_ClNa.cif", "000002_ClK.cif", "000003_HeNa.cif"]
    crystal = read_crystal_file(tmp_path / "crystals" / names[2])
    assert crystal.atomic_numbers.tolist() == [19, 17]
    assert crystal.frac_coords == pytest.approx(np.array([[0.0] * 3, [0.5] * 3]))
    with (tmp_path / "rejected.csv").open(newline="") as stream:
        rejected = list(csv.DictReader(stream))
    assert [row["id"] for row in rejected] == ["4", "5", "6"]
    assert rejected[0]["reason"].startswith("overlapping atoms: Na 1 and Cl 2")
    assert rejected[1]["reason"] == "cut off within a site, line 7: 'Cl'"
    assert rejected[2]["value"] == "nonsense"


def test_pictures_are_drawn_of_valid_crystals(config, engine, tmp_path, monkeypatch):
    drawn = []
    from crystalfm.report import crystal_pictures

    monkeypatch.setattr(crystal_pictures, "draw_crystals", lambda crystals, path: drawn.append(crystals) or path)
    engine()
    generate(config("n=7", "pictures=2"), tmp_path)
    assert [[crystal.formula for crystal in crystals] for crystals in drawn] == [["ClNa", "ClK"]]
    generate(config("n=7", "pictures=3"), tmp_path / "more")
    assert [crystal.formula for crystal in drawn[1]] == ["ClNa", "ClK", "ClNa"]


def test_a_generation_leaves_its_page(config, engine, tmp_path, capsys):
    engine()
    generate(config("n=14"), tmp_path / "run")
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for part in ("14 generated crystals", "6 of 14 samples", "overlapping atoms", 'id="cards"', "$3Dmol"):
        assert part in text
    assert text.count("<tr tabindex") == 14
    # Of six valid crystals there are two formulas; a crystal whose atoms overlap can be looked at as well.
    assert text.count('class="crystal"') == 6
    assert "the run's page" in capsys.readouterr().out


def test_a_generation_without_anything_valid_ends_with_a_report(config, engine, tmp_path, capsys):
    engine(texts=("nonsense",))
    generate(config("pictures=4"), tmp_path)
    assert report(tmp_path)["valid"] == {"count": 0, "total": 6, "fraction": 0.0}
    assert report(tmp_path)["unique_among_valid"] == {"count": 0, "total": 0, "fraction": None}
    assert not (tmp_path / "figures").exists()
    assert "rejected: no line of cell lengths" in capsys.readouterr().out


def test_progress_into_a_file(config, engine, tmp_path, capsys):
    engine()
    generate(config("n=20", "progress_bar=true"), tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if "crystals/s" in line]
    assert len(lines) == 10
    assert lines[-1].startswith("20 of 20")
    assert lines[-1].endswith("valid 45.0%")


# ------------------------------------------------------------------------ resuming


def test_an_interrupted_generation_goes_on(config, engine, tmp_path, capsys):
    engine(stop_after=6)
    with pytest.raises(KeyboardInterrupt):
        generate(config("n=14"), tmp_path)
    assert f"6 of 14 samples are kept; go on with resume={tmp_path}" in capsys.readouterr().out
    assert len(whole_lines(tmp_path / "samples.jsonl")) == 6
    with (tmp_path / "samples.jsonl").open("a") as stream:
        stream.write('{"index": 6, "te')  # a crash in the middle of a line
    second = engine()
    generate(config("n=14", f"resume={tmp_path}"), tmp_path)
    assert second.asked == list(range(6, 14))
    assert [row["text"] for row in rows(tmp_path)] == list(TEXTS * 2)
    engine()
    generate(config("n=14"), tmp_path / "other")
    assert rows(tmp_path / "other") == rows(tmp_path)
    for name in ("valid", "problems", "tokens"):
        assert report(tmp_path / "other")[name] == report(tmp_path)[name]


def test_a_finished_generation_can_be_made_longer_and_not_shorter(config, engine, tmp_path):
    engine()
    generate(config("n=7"), tmp_path)
    again = engine()
    generate(config("n=7", f"resume={tmp_path}"), tmp_path)
    assert again.asked == []
    generate(config("n=9", f"resume={tmp_path}", "batch_size=2"), tmp_path)
    assert again.asked == [7, 8]
    assert report(tmp_path)["num_samples"] == 9
    assert report(tmp_path)["speed"]["samples"] == 2
    with pytest.raises(UserError, match="n=3 are fewer"):
        generate(config("n=3", f"resume={tmp_path}"), tmp_path)


def test_other_settings_do_not_go_on_with_a_generation(config, engine, tmp_path):
    engine()
    generate(config(), tmp_path)
    with pytest.raises(
        UserError, match=r"sampling\.seed: 42 then, 7 now\n +sampling\.temperature: 1\.0 then, 0\.5 now"
    ):
        generate(config("seed=7", "temperature=0.5", f"resume={tmp_path}"), tmp_path)
    with pytest.raises(UserError, match=r"condition\.formula: None then, 'NaCl' now"):
        generate(config("condition.formula=NaCl", f"resume={tmp_path}"), tmp_path)
    with pytest.raises(UserError, match="holds samples already"):
        generate(config(), tmp_path)
    with pytest.raises(UserError, match="is no folder of a generation"):
        generate(config(f"resume={tmp_path.parent}"), tmp_path / "elsewhere")
    assert len(whole_lines(tmp_path / "samples.jsonl")) == 6


def test_a_folder_has_one_writer(config, engine, tmp_path):
    engine()
    with file_lock(tmp_path / "samples.jsonl"), pytest.raises(UserError, match="another process"):
        generate(config(), tmp_path)


def test_a_damaged_line_is_told(config, engine, tmp_path):
    engine()
    generate(config(), tmp_path)
    lines = whole_lines(tmp_path / "samples.jsonl")
    (tmp_path / "samples.jsonl").write_text("\n".join([lines[0], '{"index": 1}', *lines[2:]]) + "\n")
    with pytest.raises(UserError, match="line 2: no sample"):
        generate(config(f"resume={tmp_path}"), tmp_path)


# ------------------------------------------------------------------------ real sampling


def test_the_same_seed_writes_the_same_crystals_whatever_the_batch_size(config, tmp_path):
    for name, changes in {"a": ("batch_size=4",), "b": ("batch_size=1",), "c": ("seed=1",)}.items():
        generate(config(*changes), tmp_path / name)
    texts = {name: [row["text"] for row in rows(tmp_path / name)] for name in "abc"}
    assert texts["a"] == texts["b"]
    assert not set(texts["a"]) & set(texts["c"])
    assert report(tmp_path / "a")["parsed"]["fraction"] == 1.0


def test_going_on_writes_what_would_have_been_written(config, tmp_path):
    generate(config("n=5"), tmp_path / "whole")
    generate(config("n=2"), tmp_path / "parts")
    generate(config("n=5", f"resume={tmp_path / 'parts'}"), tmp_path / "parts")
    whole, parts = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    assert [row["text"] for row in whole] == [row["text"] for row in parts]
    assert [row["log_probability"] for row in whole] == pytest.approx([row["log_probability"] for row in parts])


def test_a_formula_is_kept(config, tmp_path):
    pytest.importorskip("spglib", reason="finding symmetry needs spglib")
    generate(config('condition.formula="Mg(OH)2"', "condition.spacegroup=164", "max_atoms=10"), tmp_path)
    assert {row["formula"] for row in rows(tmp_path)} == {"H2MgO2"}
    assert {row["num_atoms"] for row in rows(tmp_path)} <= {5, 10}
    assert "Formula: H2MgO2\nSpace group number: 164" in rows(tmp_path)[0]["prompt"]
    asked = report(tmp_path)["conditions"]
    assert asked["asked"] == {"formula": "Mg(OH)2", "spacegroup": 164}
    assert asked["formula"] == {"count": 6, "total": 6, "fraction": 1.0}
    assert asked["spacegroup"]["total"] == 6


def test_atoms_keep_the_distance_that_is_asked_for(config, tmp_path):
    generate(config("n=8", "elements=[Na]"), tmp_path / "any")
    generate(config("n=8", "elements=[Na]", "min_distance=30.0"), tmp_path / "apart")
    before, found = rows(tmp_path / "any"), rows(tmp_path / "apart")
    assert [row["text"] for row in before] != [row["text"] for row in found]
    assert report(tmp_path / "any")["sampling"]["constraint"]["min_distance"] is None
    assert report(tmp_path / "apart")["sampling"]["constraint"]["min_distance"] == 30.0
    assert json.loads((tmp_path / "apart" / "request.json").read_text())["constraint"]["min_distance"] == 30.0
    other = config("n=9", "elements=[Na]", "min_distance=20.0", f"resume={tmp_path / 'apart'}")
    with pytest.raises(UserError, match=r"constraint\.min_distance: 30\.0 then, 20\.0 now"):
        generate(other, tmp_path / "apart")


def test_without_a_constraint_the_model_writes_what_it_will(config, tmp_path):
    generate(config("constraint=none", "max_new_tokens=24", "n=4"), tmp_path)
    assert report(tmp_path)["parsed"]["count"] == 0
    assert report(tmp_path)["problems"][CUT_OFF] >= 3
    assert all(row["num_tokens"] <= 24 for row in rows(tmp_path))


def test_a_hidden_element_is_replaced_at_its_sites_alone(config, tmp_path):
    crystal = make_crystal(
        np.eye(3) * 7, [11, 17, 11, 6], [[0, 0, 0], [0.123456, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]
    )
    file = tmp_path / "crystal.json"
    file.write_text(crystal.to_json())
    infill = [f"infill.structure={file}", "infill.element=Na", "elements=[Li,K]"]
    generate(config(*infill), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert {row["text"] for row in found} <= {"Li", "K"}
    for row in found:
        filled = Crystal.from_json(row["structure"])
        number = {"Li": 3, "K": 19}[row["text"]]
        assert filled.atomic_numbers.tolist() == [number, 17, number, 6]
        assert filled.frac_coords.tolist() == crystal.frac_coords.tolist()
    assert sum(report(tmp_path / "run")["answers"].values()) == 6
    assert {row["task"] for row in found} == {"infill"}
    with pytest.raises(UserError, match="no 'Ca' in"):
        generate(config(f"infill.structure={file}", "infill.element=Ca"), tmp_path / "other")


# ------------------------------------------------------------------------ models and devices


def test_sampling_moves_the_model_to_its_precision(config, writer_folder, tmp_path):
    import torch

    writer = restore_writer(writer_folder, None)
    make_engine(config("trainer.precision=bf16-true"), writer, tmp_path)
    assert writer.model.dtype is torch.bfloat16
    assert sampling_precision(config()) == "fp32"
    with pytest.raises(UserError, match="not offered for sampling"):
        make_engine(config("trainer.precision=16-mixed"), writer, tmp_path)


def test_a_gpu_that_is_not_there(config, writer_folder, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="no GPU"):
        make_engine(config("trainer.accelerator=cuda"), restore_writer(writer_folder, None), tmp_path)


def test_vllm_gets_a_folder_with_the_merged_model(config, writer_folder, tmp_path, monkeypatch):
    from crystalfm.generation.engines import vllm_engine

    made = []
    monkeypatch.setattr(vllm_engine, "VllmEngine", lambda *given, **named: made.append((given, named)))
    writer = restore_writer(writer_folder, None)
    cfg = config("engine=vllm", "trainer.precision=bf16-true")
    make_engine(cfg, writer, tmp_path)
    cfg.ckpt = str(tmp_path / "run")  # no exported folder
    for _ in range(2):
        make_engine(cfg, writer, tmp_path)
    folders = [writer_folder, tmp_path / "model", tmp_path / "model"]
    assert made == [((folder, writer.prompts), {"dtype": "bfloat16"}) for folder in folders]
    again = restore_writer(tmp_path / "model", None)
    assert again.prompts == writer.prompts
    weights = again.model.state_dict()
    assert all(bool((weights[name] == value).all()) for name, value in writer.model.state_dict().items())


def test_another_model_has_another_digest(writer_folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(writer_folder, copy)
    assert checkpoint_digest(str(copy)) == checkpoint_digest(str(writer_folder))
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert checkpoint_digest(str(copy)) != checkpoint_digest(str(writer_folder))
    with pytest.raises(UserError, match="no such file or folder"):
        checkpoint_digest(str(tmp_path / "nothing"))
