"""Every mistake in a configuration is found, told with its key, its origin and what would fit, all at once."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from crystalfm.config import sweeps
from crystalfm.config.compose import Composer, plain_tree
from crystalfm.config.preflight import check_config, preflight
from crystalfm.config.problems import ConfigError, Problem, suggestion, unique


@pytest.fixture(scope="module")
def composer():
    with Composer("train") as composer:
        yield composer


def problems_of(composer, *overrides, multirun=False):
    with pytest.raises(ConfigError) as caught:
        preflight(composer, list(overrides), multirun=multirun)
    return {problem.key: problem for problem in caught.value.problems}


def one_problem(composer, *overrides, multirun=False):
    found = problems_of(composer, *overrides, multirun=multirun)
    assert len(found) == 1, found
    return next(iter(found.values()))


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def misspell(name):
    return name[:-1] if len(name) > 3 else f"{name}e"


def test_a_misspelled_sibling_of_every_leaf_is_refused(composer):
    tree, _ = plain_tree(composer.compose([]).cfg)
    keys = [key for key in leaves(tree) if not key.endswith("_target_")]
    assert len(keys) > 100
    wrong = {}
    for key in keys:
        parent, _, name = key.rpartition(".")
        typo = f"{parent}.{misspell(name)}" if parent else misspell(name)
        wrong[typo] = name
    found = problems_of(composer, *(f"{typo}=1" for typo in wrong))
    assert set(found) == set(wrong)
    for typo, name in wrong.items():
        assert found[typo].message == "unknown key"
        assert f"did you mean '{name}'?" in found[typo].remedy
        assert found[typo].where == "command line"


@dataclass
class User:
    """Folder with a user's own groups."""

    folder: object

    def experiment(self, text, name="mine"):
        path = self.folder / "experiment" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f"# @package _global_\n{text}")

    def problems(self, *overrides):
        with Composer("train", self.folder) as composer, pytest.raises(ConfigError) as caught:
            preflight(composer, list(overrides))
        return {problem.key: problem for problem in caught.value.problems}


@pytest.fixture
def user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    return User(folder)


def test_typos_in_a_file_are_found_together_with_file_and_line(user):
    user.experiment("seeed: 5\ntrainer:\n  max_epoch: 9\nmodel:\n  droput: 0.1\nllm:\n  width: wide\n")
    found = user.problems("experiment=mine", "data.limt=3")
    assert {key: problem.where for key, problem in found.items()} == {
        "seeed": "mine/experiment/mine.yaml:2",
        "trainer.max_epoch": "mine/experiment/mine.yaml:4",
        "model.droput": "mine/experiment/mine.yaml:6",
        "llm.width": "mine/experiment/mine.yaml:8",
        "data.limt": "command line",
    }
    assert "did you mean 'seed'?" in found["seeed"].remedy
    assert "did you mean 'max_epochs'?" in found["trainer.max_epoch"].remedy
    assert "did you mean 'dropout'?" in found["model.droput"].remedy
    assert found["llm.width"].message == "'wide' does not fit: expected a whole number"


def test_unknown_option_in_a_file(user):
    user.experiment("defaults:\n  - override /llm: gpt9\n")
    found = user.problems("experiment=mine")["llm"]
    assert found.message == "'llm/gpt9' does not exist"
    assert "did you mean 'gpt2'?" in found.remedy
    assert found.where == "mine/experiment/mine.yaml:3"


def test_broken_yaml_names_the_line(user):
    user.experiment("trainer:\n  max_epochs: [1\nseed: 2\n")
    found = user.problems("experiment=mine")["syntax"]
    assert "no valid YAML" in found.message
    assert "mine.yaml:" in found.where


def test_unresolvable_reference(user):
    user.experiment("name: ${no.such.key}\n")
    found = user.problems("experiment=mine")["name"]
    assert "the reference cannot be resolved" in found.message
    assert found.where == "mine/experiment/mine.yaml:2"


def test_own_options_are_found_through_config_dir_and_local_conf(user, tmp_path):
    user.experiment("seed: 7\n")
    assert check_config("train", ["experiment=mine"], config_dir=user.folder).seed == 7
    (tmp_path / "conf").symlink_to(user.folder)
    assert check_config("train", ["experiment=mine"]).seed == 7


def test_missing_config_dir(tmp_path):
    with pytest.raises(Exception, match="no such folder"):
        Composer("train", tmp_path / "absent")


@pytest.mark.parametrize(
    ("override", "message", "remedy"),
    [
        ("trainer.max_epochs=abc", "expected a whole number", ""),
        ("trainer.max_epochs=2.5", "expected a whole number", ""),
        ("trainer.max_epochs=0", "0 is out of range", "use a number at least 1, or -1"),
        ("data.targets=gap", "expected a list", "write a list: [gap]"),
        ("data.limit=0", "0 is out of range", "at least 1"),
        ("data.test_fraction=1", "out of range", "at least 0 and below 1"),
        ("model.loss=ms", "expected mse | mae", "did you mean 'mse'?"),
        ("optimizer.lr=0", "out of range", "above 0"),
        ("optimizer.betas=[0.9]", "has 1 values", "give two"),
        ("callbacks.progress_bar=1", "expected true or false", ""),
        ("trainer.precision=bf16", "'bf16' does not fit", "did you mean"),
        ("name=5", "5 does not fit", "write it as text"),
        ("seed=null", "null does not fit", ""),
        ("~trainer", "a section of keys is needed", "trainer=OPTION"),
        ("~llm", "an option of the group is needed", "llm=OPTION"),
        ("encoders.smiles=rxnfp", "an option of the group is needed", "encoder@encoders.smiles=OPTION"),
        ("~seed", "the key is missing", ""),
        ("model._target_=null", "names no class", ""),
        ("model.requires=null", "what the model needs is missing", ""),
        ("model.requires.modalities=[smile]", "unknown modality 'smile'", "did you mean 'smiles'?"),
        ("encoders.smiles.accepts=[smile]", "unknown modality", "did you mean 'smiles'?"),
        ("+encoders.smile={}", "unknown modality", "did you mean 'smiles'?"),
        ("+model.encoders=1", "supplied by the run", "remove it"),
        ("llm.lora_rank=4", "unknown key", "llm=gpt2"),
        ("+trainer.gpus=1", "unknown key", ""),
        ("trainer={max_epoch: 3}", "unknown key", "did you mean 'max_epochs'?"),
    ],
)
def test_one_wrong_value(composer, override, message, remedy):
    found = list(problems_of(composer, override).values())
    assert any(message in problem.message and remedy in problem.remedy for problem in found), found
    assert all(problem.where == "command line" for problem in found)


@pytest.mark.parametrize(
    ("override", "message", "remedy"),
    [
        ("llm=gpt-2", "group 'llm' has no option 'gpt-2'", "did you mean 'gpt2'?"),
        ("data=qm99", "group 'data' has no option", "did you mean 'qm9'?"),
        ("experiment=quickstar", "group 'experiment' has no option", "did you mean 'quickstart'?"),
        ("encoder=rxnfp", "'encoder' is not a choice", "encoder@encoders.smiles"),
        ("encoder@encoders.smile=rxnfp", "is not a choice", "encoder@encoders.smiles"),
        ("optimiser=adam", "unknown key", "did you mean 'optimizer'?"),
        ("experimnt=quickstart", "unknown key", "did you mean 'experiment'?"),
        ("model=mean,xgboost", "several values need a multirun", "add -m"),
        ("data.targets=homo,lumo", "several values need a multirun", "write data.targets=[homo,lumo]"),
        ("trainer", "an override needs a value", "write trainer=VALUE"),
        ("name='a", "cannot be read", "quote a value"),
        ("model=null", "an option is needed here", "llm_fusion, mean, xgboost; ~model leaves it out"),
        ("~no.such", "no such key to delete", ""),
    ],
)
def test_one_wrong_override(composer, override, message, remedy):
    problem = one_problem(composer, override)
    assert message in problem.message
    assert remedy in problem.remedy
    assert problem.where == "command line"


def test_all_problems_in_one_message(composer):
    found = problems_of(composer, "llm=gpt-2", "seeed=1", "trainer.max_epochs=x", "name='a", "modalities=[description]")
    assert len(found) == 5
    error = ConfigError(list(found.values()))
    assert str(error).startswith("the configuration has 5 problems:")
    assert error.exit_code == 2
    for key in found:
        assert f"  {key}  [command line]\n" in str(error)


def test_mandatory_values_of_a_table(composer):
    found = problems_of(composer, "data=csv")
    assert {key: problem.where for key, problem in found.items()} == {
        "data.path": "conf/data/csv.yaml:5",
        "data.targets": "conf/data/csv.yaml:7",
    }
    assert found["data.path"].message == "a value is needed here"


@pytest.mark.parametrize("target", ["os.system", "torch.load", "subprocess.run", "lightning.Trainer"])
def test_targets_outside_the_package_are_refused_before_import(composer, target, tmp_path):
    problem = problems_of(composer, f"model._target_={target}")["model._target_"]
    assert "is refused" in problem.message
    assert "torch" not in problem.remedy


def test_unknown_class(composer):
    problem = problems_of(composer, "llm._target_=crystalfm.models.backbones.TinyBackbon")["llm._target_"]
    assert "there is no such class" in problem.message
    assert "TinyBackbone" in problem.remedy


def test_every_job_of_a_multirun_is_checked(composer):
    overrides = ["model=llm_fusion,mean", "trainer.max_epochs=1,x", "seed=1,2"]
    problem = one_problem(composer, *overrides, multirun=True)
    assert problem.key == "trainer.max_epochs"
    assert problem.job == "model=llm_fusion trainer.max_epochs=x seed=1"


def test_a_problem_of_all_jobs_names_none(composer):
    problem = one_problem(composer, "seed=1,2", "data.limt=3", multirun=True)
    assert problem.job == ""


def test_jobs_of_a_multirun_in_order(composer):
    configs = preflight(composer, ["model=llm_fusion,mean", "seed=range(1,3)"], multirun=True)
    assert [(cfg.model.name, cfg.seed) for cfg in configs] == [
        ("llm_fusion", 1),
        ("llm_fusion", 2),
        ("mean", 1),
        ("mean", 2),
    ]


def test_jobs_that_a_file_asks_for(user):
    user.experiment("hydra:\n  sweeper:\n    params:\n      seed: 1,2\n      trainer.max_epochs: 3,4\n")
    with Composer("train", user.folder) as composer:
        configs = preflight(composer, ["experiment=mine", "seed=5"], multirun=True)
    assert [(cfg.seed, cfg.trainer.max_epochs) for cfg in configs] == [(5, 3), (5, 4)]


def test_an_interval_needs_a_search(composer):
    problem = one_problem(composer, "optimizer.lr=interval(0.1,0.2)", "seed=1,2", multirun=True)
    assert "hydra/sweeper=optuna (pip install 'crystalfm[optuna]')" in problem.remedy


def test_launcher_that_is_not_installed(composer):
    problem = one_problem(composer, "hydra/launcher=joblibb")
    assert "crystalfm[sweep]" in problem.remedy


def test_wrong_option_in_a_sweep(composer):
    problem = one_problem(composer, "model=llm_fusion,men", multirun=True)
    assert problem.key == "model=men"
    assert "did you mean 'mean'?" in problem.remedy


def test_number_of_checked_jobs_is_bounded(composer, monkeypatch):
    monkeypatch.setattr(sweeps, "MAX_JOBS", 3)
    assert len(preflight(composer, ["seed=range(0,10)"], multirun=True)) == 3


def test_distributed_children_pass(composer):
    overrides = ['hydra.run.dir="runs/a b"', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null", "seed=3"]
    assert preflight(composer, overrides)[0].seed == 3


def test_wrong_hydra_key(composer):
    problem = one_problem(composer, "hydra.run.dirr=x")
    assert "dirr" in problem.message


def test_added_key_that_the_class_knows(user):
    folder = user.folder / "llm"
    folder.mkdir()
    (folder / "short.yaml").write_text("_target_: crystalfm.models.backbones.TinyBackbone\nname: short\n")
    with Composer("train", user.folder) as composer:
        assert preflight(composer, ["llm=short", "+llm.width=32"])[0].llm.width == 32
    problem = user.problems("llm=short", "llm.width=32")["llm.width"]
    assert problem.remedy == "to add it write +llm.width=VALUE"


def test_checking_imports_no_torch():
    code = (
        "import sys; from crystalfm.config.preflight import check_config;"
        "check_config('train', ['experiment=quickstart']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'rdkit', 'lightning', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_suggestion_is_short_when_the_nearest_is_known():
    assert suggestion("widht", ["width", "depth"]) == "did you mean 'width'? choices: width, depth"
    many = [f"choice{number}" for number in range(40)]
    assert suggestion("choice77", many).startswith("did you mean 'choice7'?")
    assert "choices" not in suggestion("choice77", many)
    assert suggestion("zzz", many).endswith("choice29, ...")
    assert suggestion("Batch-Size", ["batch_size"]).startswith("did you mean 'batch_size'?")
    assert suggestion("x", []) == ""


def test_the_same_problem_is_told_once():
    problem = Problem("a", "wrong")
    assert unique([problem, Problem("b", "wrong"), Problem("a", "wrong", job="1")]) == [problem, Problem("b", "wrong")]


def test_errors_survive_pickling_between_processes():
    error = ConfigError([Problem("a", "wrong")])
    kind, arguments = error.__reduce__()
    assert kind(*arguments).problems == error.problems
