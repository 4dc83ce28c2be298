"""From checked nodes to classes, settings and modalities."""

import sys

import pytest
from omegaconf import OmegaConf

from crystalfm.config.build import (
    automatic_modalities,
    data_spec,
    load_target,
    modality_problems,
    requirements_of,
    resolve_modalities,
    settings_of,
    usable_modalities,
)
from crystalfm.contracts import DataSpec, Requirements, TargetSpec, UserError

MODEL = {
    "_target_": "crystalfm.models.llm_fusion.LLMFusion",
    "name": "llm_fusion",
    "requires": {"modalities": ["smiles", "fingerprint", "description"], "min_modalities": 1, "max_modalities": 2},
    "loss": "mae",
}
ENCODERS = {"smiles": {"name": "tokens"}, "fingerprint": {"name": "morgan"}, "description": None}


def spec(*fields):
    return DataSpec("toy", fields, (TargetSpec("y", "eV"),), ("y",))


def config(modalities):
    return OmegaConf.create({"modalities": modalities, "model": MODEL, "encoders": ENCODERS})


def test_settings_leave_out_reserved_keys():
    assert settings_of(OmegaConf.create(MODEL)) == {"loss": "mae"}
    assert settings_of({"name": "x", "accepts": ["smiles"], "width": 3}) == {"width": 3}


def test_settings_keep_the_name_where_the_class_takes_it():
    node = {"_target_": "crystalfm.encoders.huggingface.HuggingFaceEncoder", "name": "rxnfp", "accepts": ["smiles"]}
    assert settings_of(node) == {"name": "rxnfp"}


def test_load_target_returns_the_class():
    from crystalfm.models.settings import OptimizerSettings

    assert load_target("crystalfm.models.settings.OptimizerSettings") is OptimizerSettings


@pytest.mark.parametrize("path", ["os.system", "torch.load", "shutil.rmtree", "antigravity.fly"])
def test_load_target_refuses_before_importing(path):
    with pytest.raises(UserError, match="is refused"):
        load_target(path)
    assert "antigravity" not in sys.modules


def test_load_target_wants_a_class_not_a_function():
    with pytest.raises(UserError, match="no such class"):
        load_target("crystalfm.config.build.settings_of")


def test_requirements():
    assert requirements_of(MODEL) == Requirements(("smiles", "fingerprint", "description"), 1, 2)
    assert requirements_of({"_target_": "x"}) == Requirements()


def test_auto_takes_what_data_model_and_encoders_share():
    assert resolve_modalities(config("auto"), spec("smiles")) == ["smiles", "fingerprint"]
    assert usable_modalities(MODEL, ENCODERS, spec("description")) == []


def test_auto_of_a_model_of_one_modality_is_the_first_of_its_own_list():
    one = MODEL | {"requires": {"modalities": ["fingerprint", "smiles"], "max_modalities": 1}}
    assert automatic_modalities(one, ENCODERS, spec("smiles")) == ["fingerprint"]
    assert automatic_modalities(one, ENCODERS, spec("description")) == []


def test_order_asked_for_is_kept():
    assert resolve_modalities(config(["fingerprint", "smiles"]), spec("smiles")) == ["fingerprint", "smiles"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["selfies"], "the model cannot use the modality selfies"),
        ([], "at least 1 modality"),
        (["smiles", "smiles"], "smiles given more than once"),
        (["description"], "data set 'toy' has no description"),
    ],
)
def test_modalities_that_do_not_fit(asked, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve_modalities(config(asked), spec("smiles"))
    assert caught.value.remedy == "modalities that fit: smiles, fingerprint"


def test_missing_encoder():
    problems = modality_problems(config(["description"]), spec("description"), ["description"])
    assert problems == ["no encoder is configured for description"]


def test_data_spec_of_a_table_reads_only_the_header(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("smiles,gap,text\n")
    node = {
        "_target_": "crystalfm.data.table.MoleculeTable",
        "name": "csv",
        "path": str(table),
        "targets": ["gap"],
        "units": {"gap": "eV"},
        "description_column": "text",
    }
    found = data_spec(OmegaConf.create(node))
    assert found.modalities == ("smiles", "selfies", "fingerprint", "molecular_graph", "description")
    assert found.targets == (TargetSpec("gap", "eV"),)
