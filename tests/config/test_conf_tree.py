"""The shipped configuration files: every option composes, and says everything its class can be told."""

import ast
import itertools

import pytest

from crystalfm.config.compose import Composer
from crystalfm.config.location import conf_folder
from crystalfm.config.preflight import preflight
from crystalfm.config.problems import ConfigError
from crystalfm.config.schema import ENTRY_POINTS, RESERVED_KEYS
from crystalfm.config.signatures import read_signature

GROUPS = ("model", "llm", "optimizer", "scheduler", "callbacks", "logger", "paths", "debug")
FOLDER = conf_folder() / "experiment"
EXPERIMENTS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


@pytest.fixture(scope="module")
def composer():
    with Composer("train") as composer:
        yield composer


def options(group):
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def fitting_data(composer, model):
    """The default data set are molecules; a model of crystals alone needs another."""
    needs = composer.catalog.node("model", model)["requires"]
    of_molecules = {"smiles", "fingerprint"} & set(needs["modalities"])
    return [] if of_molecules or not needs["min_modalities"] else ["data=mp"]


def test_every_group_has_a_default_that_is_clean(composer):
    cfg = preflight(composer, [])[0]
    assert (cfg.model.name, cfg.data.name, cfg.llm.name) == ("llm_fusion", "qm9", "tiny")
    assert cfg.name == "llm_fusion-qm9"


@pytest.mark.parametrize(("group", "option"), [(group, name) for group in GROUPS for name in options(group)])
def test_every_option_is_clean(composer, group, option):
    data = fitting_data(composer, option) if group == "model" else []
    cfg = preflight(composer, [f"{group}={option}", *data])[0]
    if group in {"model", "llm"}:
        assert cfg[group].name == option


@pytest.mark.parametrize("option", options("encoder"))
def test_every_encoder_serves_what_it_accepts(composer, option):
    accepts = composer.catalog.node("encoder", option)["accepts"]
    assert accepts
    for modality in accepts:
        cfg = preflight(composer, [f"encoder@encoders.{modality}={option}"])[0]
        assert cfg.encoders[modality].name == option


@pytest.mark.parametrize("option", options("trainer"))
def test_every_trainer_is_clean_apart_from_the_device(composer, option):
    assert preflight(composer, [f"trainer={option}"], fit=False)[0].trainer.max_epochs == 30


def test_data_csv_is_clean(composer, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("smiles,gap\nC,1\n")
    overrides = ["data=csv", f"data.path={table}", "data.targets=[gap]", "data.units={gap: eV}"]
    assert preflight(composer, overrides)[0].data.units == {"gap": "eV"}


@pytest.mark.parametrize("debug", [None, *options("debug")])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_clean_with_every_debug(composer, experiment, debug):
    overrides = [f"experiment={experiment}"] + ([f"debug={debug}"] if debug else [])
    cfg = preflight(composer, overrides)[0]
    if debug == "ci":
        assert cfg.data.limit == 64


@pytest.mark.parametrize("mode", options("mode"))
def test_every_mode_names_itself_and_goes_with_crystals(composer, mode):
    cfg = preflight(composer, [f"mode={mode}", "data=mp", "data.description=chemnlp"])[0]
    assert cfg.mode == mode
    assert composer.catalog.node("model", cfg.model.name)["name"] == cfg.model.name


def test_the_command_line_goes_before_a_mode(composer):
    overrides = ["experiment=hybrid/tc", "mode=paper", "scheduler=plateau", "optimizer=adamw", "optimizer.lr=0.5"]
    cfg = preflight(composer, overrides)[0]
    assert (cfg.name, cfg.scheduler.name, cfg.optimizer.name) == ("hybrid_tc-paper", "plateau", "adamw")
    assert (cfg.optimizer.lr, cfg.model.predictor, cfg.data.batch_size) == (0.5, "residual", 32)


def test_a_misspelled_option_in_a_folder_of_a_group_is_refused(composer):
    with pytest.raises(ConfigError, match="hybrid/mbj_bandgap"):
        preflight(composer, ["experiment=hybrid/mbj_bandgp"])


def test_models_go_with_encoders_and_llms(composer):
    for model, llm in itertools.product(options("model"), ("tiny", "gpt2")):
        preflight(composer, [f"model={model}", f"llm={llm}", *fitting_data(composer, model)])


@pytest.mark.parametrize("task", ["evaluate", "predict", "generate"])
def test_other_commands_compose(task, tmp_path):
    given = {"evaluate": ["ckpt"], "predict": ["ckpt", "input"], "generate": ["ckpt"]}
    with Composer(task) as composer:
        preflight(composer, [f"{key}={tmp_path}" for key in given[task]])


@pytest.mark.parametrize("group", ["data", "model", "llm", "encoder"])
def test_files_list_every_setting_of_their_class(composer, group):
    kind = "encoders" if group == "encoder" else group
    for name, node in composer.catalog.nodes(group).items():
        expected = {"_target_", *read_signature(node["_target_"]).settings, *RESERVED_KEYS[kind]}
        assert set(node) == expected, f"conf/{group}/{name}.yaml"
        assert node["name"] == name


@pytest.mark.parametrize("section", ["trainer", "callbacks", "logger", "paths", "optimizer", "scheduler"])
def test_files_list_every_setting_of_their_section(composer, section):
    expected = set(read_signature(ENTRY_POINTS["train"].sections[section]).settings)
    for name in options(section):
        assert set(composer.catalog.node(section, name)) == expected, f"conf/{section}/{name}.yaml"


def test_defaults_of_files_are_those_of_the_classes(composer):
    defaults = {"trainer": "default", "callbacks": "default", "logger": "csv", "optimizer": "adamw"}
    for section, option in defaults.items():
        node = composer.catalog.node(section, option)
        settings = read_signature(ENTRY_POINTS["train"].sections[section]).settings
        assert node == {name: ast.literal_eval(setting.default) for name, setting in settings.items()}


def test_every_file_starts_with_what_it_is():
    for path in conf_folder().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ") or "help" in path.parts, path


def test_the_folder_ships_in_the_wheel():
    repository = conf_folder().parent / "pyproject.toml"
    if not repository.is_file():
        pytest.skip("an installed package has no pyproject.toml")
    assert '"conf" = "crystalfm/conf"' in repository.read_text()
