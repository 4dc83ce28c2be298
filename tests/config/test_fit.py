"""Parts of a configuration that do not go together, files that are not there, devices that are missing."""

import pytest

from crystalfm.config import devices
from crystalfm.config.compose import Composer
from crystalfm.config.preflight import preflight
from crystalfm.config.problems import ConfigError


@pytest.fixture(scope="module")
def composer():
    with Composer("train") as composer:
        yield composer


def check(composer, *overrides):
    """Return the problems by key."""
    try:
        preflight(composer, list(overrides))
    except ConfigError as error:
        return {problem.key: problem for problem in error.problems}
    return {}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 0)
    monkeypatch.setattr(devices, "has_mps", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 2)
    monkeypatch.setattr(devices, "has_mps", lambda: False)
    monkeypatch.setattr(devices, "torch_is_cpu_only", lambda: False)


def test_description_of_qm9_names_what_fits(composer):
    problem = check(composer, "model=llm_fusion", "data=qm9", "modalities=[description]")["modalities"]
    provided = "smiles, selfies, fingerprint, molecular_graph"
    assert problem.message == f"data set 'qm9' has no description (it provides: {provided})"
    assert f"modalities that fit: {provided}" in problem.remedy
    for one in (
        "chebi (data=chebi)",
        "csv (data=csv data.description_column=...)",
        "mp (data=mp data.description=...)",
    ):
        assert one in problem.remedy.partition("data sets with description: ")[2]


@pytest.mark.parametrize("model", ["crystal_llm", "alignn"])
def test_a_model_of_crystals_names_the_data_sets_of_crystals(composer, model):
    problem = check(composer, f"model={model}", "data=qm9")["modalities"]
    fitting = problem.remedy.partition(f"data sets that fit {model}: ")[2]
    assert {"mp (data=mp)", "jarvis (data=jarvis)"} <= set(fitting.split(", "))
    assert "qm9" not in fitting


def test_description_of_crystals_names_both_ways_of_describing(composer):
    words = ("model=llm_fusion", "data=mp", "modalities=[description]")
    remedy = check(composer, *words)["modalities"].remedy
    assert remedy.startswith("set data.description=robocrys or data.description=chemnlp, which is null")
    assert check(composer, *words, "data.description=chemnlp") == {}


def test_package_that_describes_must_be_installed(composer, monkeypatch):
    monkeypatch.setattr("crystalfm.config.extras.is_installed", lambda module: module != "robocrys")
    words = ("model=llm_fusion", "data=mp", "data.description=robocrys")
    problem = check(composer, *words, "modalities=[description]")["data.description"]
    assert problem.message == "robocrys: robocrys is not installed"
    assert "crystalfm[describe]" in problem.remedy
    assert check(composer, *words, "modalities=[crystal_graph]", "model=alignn") == {}


@pytest.mark.parametrize(
    ("words", "key"),
    [(["model=catboost"], "model"), (["model=xgboost", "baselines=[mean,catboost]"], "baselines")],
)
def test_package_of_a_model_must_be_installed(composer, monkeypatch, words, key):
    monkeypatch.setattr("crystalfm.config.extras.is_installed", lambda module: module != "catboost")
    problem = check(composer, "data=2dmd", "modalities=[defects]", *words)[key]
    assert problem.message == "catboost: the package catboost is not installed"
    assert "crystalfm[defects]" in problem.remedy
    assert check(composer, "data=2dmd", "modalities=[defects]", "model=xgboost") == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modalities=[]"], "at least 1 modality, 0 chosen"),
        (["modalities=[smile]"], "unknown modality 'smile'"),
        (["model=mean", "modalities=[smiles]"], "the model cannot use the modality smiles"),
        (["model.requires.max_modalities=2"], "at most 2"),
        (["encoders.smiles=null", "modalities=[smiles]"], "no encoder is configured for smiles"),
    ],
)
def test_modalities_that_do_not_fit(composer, overrides, message):
    assert message in check(composer, *overrides)["modalities"].message


def test_auto_leaves_out_what_has_no_encoder(composer):
    assert check(composer, "encoders.smiles=null") == {}


def test_description_column_makes_descriptions_fit(composer, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("smiles,gap,text\n")
    overrides = ["data=csv", f"data.path={table}", "data.targets=[gap]", "modalities=[description]"]
    assert "modalities" in check(composer, *overrides)
    assert check(composer, *overrides, "data.description_column=text") == {}


def test_encoder_that_cannot_serve_the_modality(composer):
    problem = check(composer, "encoder@encoders.smiles=minilm")["encoders.smiles"]
    assert problem.message == "the encoder 'minilm' cannot encode smiles (it takes: description)"
    assert "encoder@encoders.smiles=OPTION with one of: chemberta, rxnfp" in problem.remedy
    assert problem.where == "command line"


def test_unknown_target_of_qm9(composer):
    problem = check(composer, "data.targets=[homo,gapp]")["data.targets"]
    assert problem.message == "data set 'qm9' has no target 'gapp'"
    assert "did you mean 'gap'?" in problem.remedy


def test_column_that_a_table_lacks(composer, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("SMILES,gap\nC,1\n")
    found = check(composer, "data=csv", f"data.path={table}", "data.targets=[gap]", "data.smiles_column=smiles")
    assert any("smiles" in problem.message for problem in found.values())
    assert check(composer, "data=csv", f"data.path={table}", "data.targets=[gap]", "data.smiles_column=SMILES") == {}


@pytest.mark.parametrize(
    ("key", "name"), [("data.path", "tabel.csv"), ("data.split_file", "spilt.json"), ("ckpt", "run-on")]
)
def test_files_that_do_not_exist(composer, tmp_path, key, name):
    for existing in ("table.csv", "split.json"):
        (tmp_path / existing).touch()
    (tmp_path / "run-one").mkdir()
    problem = check(composer, f"{key}={tmp_path / name}")[key]
    assert "no such file or folder" in problem.message
    assert "did you mean" in problem.remedy
    assert problem.where == "command line"


def test_auto_checkpoint_needs_no_file(composer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check(composer, "ckpt=auto") == {}


def test_missing_mirror_on_the_command_line_and_in_the_environment(composer, tmp_path, monkeypatch):
    problem = check(composer, f"paths.mirror={tmp_path / 'absent'}")["paths.mirror"]
    assert "is not a folder" in problem.message
    assert problem.where == "command line"
    monkeypatch.setenv("CRYSTALFM_MIRROR", str(tmp_path / "absent"))
    problem = check(composer)["paths.mirror"]
    assert "CRYSTALFM_MIRROR" in problem.remedy
    monkeypatch.setenv("CRYSTALFM_MIRROR", str(tmp_path))
    assert check(composer) == {}


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("override", ["trainer=gpu", "trainer.accelerator=cuda"])
def test_missing_gpu(composer, override):
    problem = check(composer, override)["trainer.accelerator"]
    assert "sees no GPU" in problem.message
    assert "trainer=cpu" in problem.remedy


@pytest.mark.usefixtures("no_gpu")
def test_what_needs_no_gpu(composer):
    assert check(composer, "trainer=cpu", "trainer.strategy=ddp", "trainer.devices=2") == {}
    assert check(composer, "trainer=ddp", "trainer.devices=2") == {}
    assert check(composer, "trainer.accelerator=mps")["trainer.accelerator"].message.startswith("mps needs a Mac")


@pytest.mark.usefixtures("two_gpus")
def test_number_of_gpus(composer):
    assert check(composer, "trainer=ddp") == {}
    assert check(composer, "trainer=gpu", "trainer.devices=2") == {}
    assert check(composer, "trainer=gpu", "trainer.devices=[0,1]") == {}
    assert "3 GPUs asked for" in check(composer, "trainer=gpu", "trainer.devices=3")["trainer.devices"].message
    assert "devices" in check(composer, "trainer.devices=0")["trainer.devices"].message


@pytest.mark.usefixtures("two_gpus")
def test_cpu_build_of_torch_beside_a_gpu(composer, monkeypatch):
    monkeypatch.setattr(devices, "torch_is_cpu_only", lambda: True)
    assert "CPU build" in check(composer, "trainer=gpu")["trainer.accelerator"].message


def test_unknown_baseline(composer):
    problem = check(composer, "baselines=[xgbost,mean]")["baselines"]
    assert "did you mean 'xgboost'?" in problem.remedy


def test_pretrained_weights_are_looked_for_before_anything_starts(composer, tmp_path):
    crystals = ("model=alignn", "data=mp")
    key = "encoders.crystal_graph"
    assert "did you mean 'alignn_ff'" in check(composer, *crystals, f"{key}.weights=alignn_f")[f"{key}.weights"].remedy
    (tmp_path / "run").mkdir()
    problem = check(composer, *crystals, f"{key}.weights={tmp_path / 'runs'}")[f"{key}.weights"]
    assert problem.remedy == f"did you mean '{tmp_path / 'run'}'?"
    assert check(composer, *crystals, f"{key}.weights={tmp_path / 'run'}") == {}
    assert check(composer, *crystals, f"{key}.weights=alignn_ff", f"{key}.frozen=true") == {}
    assert check(composer, *crystals, f"{key}.frozen=true")[f"{key}.frozen"].message == "there is nothing to freeze"
    assert check(composer, "modalities=[smiles]", f"{key}.weights=absent") == {}


def test_trees_take_crystal_graphs_from_a_frozen_encoder_only(composer):
    crystals = ("model=xgboost", "data=mp")
    key = "encoders.crystal_graph"
    problem = check(composer, *crystals, "modalities=[crystal_graph]")["modalities"]
    assert f"takes crystal_graph from a frozen encoder only ({key}.frozen=true)" in problem.message
    frozen = (f"{key}.frozen=true", f"{key}.weights=alignn_ff")
    assert check(composer, *crystals, "modalities=[crystal_graph]", *frozen) == {}


def test_warm_up_of_a_plateau(composer):
    problem = check(composer, "scheduler=plateau", "scheduler.warmup_steps=5")["scheduler.warmup_steps"]
    assert "does not go with" in problem.message
    assert check(composer, "scheduler=cosine") == {}


def test_heads_must_divide_the_width(composer):
    found = check(composer, "llm.num_heads=3", "encoders.smiles.num_heads=5")
    assert set(found) == {"llm.num_heads", "encoders.smiles.num_heads"}
    assert "does not divide" in found["llm.num_heads"].message


def test_evaluation_needs_its_checkpoint(tmp_path):
    with Composer("evaluate") as composer:
        assert check(composer)["ckpt"].message == "a checkpoint or structures are needed here"
        assert "no such file" in check(composer, "ckpt=absent")["ckpt"].message
        assert check(composer, f"ckpt={tmp_path}", "split=vall")["split"].remedy == "did you mean 'val'?"
        assert check(composer, f"ckpt={tmp_path}", "data=qm9", "data.limit=5") == {}
