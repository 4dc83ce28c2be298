"""The command line: exit codes, run folders, multirun, help."""

import logging
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from crystalfm.cli import main as cli
from crystalfm.cli import predict_command
from crystalfm.cli.jobs import objective
from crystalfm.cli.task import run_task
from crystalfm.config.location import conf_folder
from crystalfm.contracts import UserError
from crystalfm.run.parallel import stamp

REPOSITORY = conf_folder().parent
STAMP = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}"


class Recorder:
    """Stands in for crystalfm.run.train and its kin."""

    def __init__(self):
        self.calls = []
        self.argv = []
        self.action = lambda cfg: {"val/loss": 0.5}

    def __call__(self, cfg, run_dir):
        self.calls.append((cfg, Path(run_dir)))
        self.argv.append(list(sys.argv))
        logging.getLogger("test").info("a line for the log")
        return self.action(cfg)

    @property
    def folders(self):
        return [folder for _, folder in self.calls]


@pytest.fixture
def task(monkeypatch, tmp_path):
    """Replace what runs, and work in an empty folder."""
    recorder = Recorder()
    for name in ("train", "evaluate", "generate"):
        module = types.ModuleType(f"crystalfm.run.{name}")
        setattr(module, name, recorder)
        monkeypatch.setitem(sys.modules, f"crystalfm.run.{name}", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(stamp.STAMP_VARIABLE, raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield recorder
    for handler in [item for item in root.handlers if item not in handlers]:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_run_has_a_folder_of_its_own(task, tmp_path, capsys):
    assert run_task("train", ["data.limit=5", "name=mine"]) == 0
    cfg, folder = task.calls[0]
    assert (cfg.data.limit, cfg.name) == (5, "mine")
    assert "hydra" not in cfg
    assert folder.parent == tmp_path / "runs" / "mine"
    assert re.fullmatch(STAMP, folder.name)
    assert "a line for the log" in (folder / "train.log").read_text()
    assert (folder / ".hydra" / "config.yaml").is_file()
    assert Path.cwd() == tmp_path
    assert capsys.readouterr().out == ""


def test_runs_of_the_same_second_never_share_a_folder(task, monkeypatch):
    stamps = iter(["2026-01-31_12-00-00_000001"] * 2 + ["2026-01-31_12-00-00_000002"] * 9)
    monkeypatch.setattr("crystalfm.cli.task.new_stamp", lambda: monkeypatch.setenv(stamp.STAMP_VARIABLE, next(stamps)))
    assert run_task("train", []) == 0
    assert run_task("train", []) == 0
    assert [folder.name[-1] for folder in task.folders] == ["1", "2"]


def test_stamps_differ():
    assert len({stamp.new_stamp() for _ in range(50)}) == 50


def test_folder_of_runs_can_be_moved(task, tmp_path):
    assert run_task("train", [f"paths.runs={tmp_path / 'else where'}"]) == 0
    assert task.folders[0].parent.parent == tmp_path / "else where"


def test_folder_that_cannot_be_made(task, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run_task("train", [f"paths.runs={tmp_path / 'file'}"]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_hydra_run_dir_is_obeyed(task, tmp_path):
    assert run_task("train", [f'hydra.run.dir="{tmp_path / "given"}"']) == 0
    assert task.folders == [tmp_path / "given"]


def test_a_distributed_child_uses_the_folder_of_its_parent(task, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    folder = tmp_path / "runs" / "parent"
    folder.mkdir(parents=True)
    arguments = [f'hydra.run.dir="{folder}"', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    assert run_task("train", ["seed=3", *arguments]) == 0
    assert task.folders == [folder]
    assert not (folder / ".hydra").exists()
    assert (folder / "train_ddp_process_1.log").is_file()


def test_children_are_told_the_job_alone(task, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["crystalfm", "train", "-m", "seed=1,2", "data.limit=9"])
    assert run_task("train", ["-m", "seed=1,2", "data.limit=9"], command=["train"]) == 0
    assert task.argv == [["crystalfm", "train", f"seed={seed}", "data.limit=9"] for seed in (1, 2)]
    assert sys.argv == ["crystalfm", "train", "-m", "seed=1,2", "data.limit=9"]


def test_resumed_runs_go_on_in_their_folder(task, tmp_path):
    old = tmp_path / "runs" / "mine" / "2026-01-31_12-00-00_1a2b3c"
    (old / "checkpoints").mkdir(parents=True)
    (old / "checkpoints" / "last.ckpt").touch()
    (old / "config.yaml").touch()
    assert run_task("train", ["name=mine", "ckpt=auto"]) == 0
    assert run_task("train", [f"ckpt={old}"]) == 0
    assert task.folders == [old, old]
    assert not (old / ".hydra").exists()
    assert run_task("train", ["name=other", "ckpt=auto"]) == 0
    assert task.folders[-1].parent.name == "other"


def test_multirun_runs_every_job_in_its_folder(task, tmp_path, capsys):
    assert run_task("train", ["model=llm_fusion,mean", "seed=1,2", "-m", "name=sweep"]) == 0
    assert [(cfg.model.name, cfg.seed) for cfg, _ in task.calls] == [
        ("llm_fusion", 1),
        ("llm_fusion", 2),
        ("mean", 1),
        ("mean", 2),
    ]
    assert len({folder.parent for folder in task.folders}) == 1
    assert re.fullmatch(STAMP, task.folders[0].parent.name)
    assert task.folders[3].name == "3_model-mean_name-sweep_seed-2"
    assert task.folders[0].parent.parent == tmp_path / "runs" / "multirun"
    out = capsys.readouterr().out
    assert "job 1 of 4: model=llm_fusion seed=1" in out
    assert "job 4 of 4" in out


def test_a_failing_job_stops_the_multirun(task, capsys):
    def fail_at_two(cfg):
        if cfg.seed == 2:
            raise UserError("unlucky number", remedy="take another")

    task.action = fail_at_two
    assert run_task("train", ["-m", "seed=1,2,3"]) == 2
    assert [cfg.seed for cfg, _ in task.calls] == [1, 2]
    err = capsys.readouterr().err
    assert "job 2 of 3 failed (seed=2); 1 not started" in err
    assert "unlucky number" in err
    assert "take another" in err
    assert "Traceback" not in err


def test_a_problem_in_the_last_job_starts_none(task, capsys):
    assert run_task("train", ["-m", "trainer.max_epochs=1,x"]) == 2
    assert task.calls == []
    assert "(in the job trainer.max_epochs=x)" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_user_errors_are_told_without_a_traceback(task, capsys):
    def fail(_cfg):
        raise UserError("the table is [empty]")

    task.action = fail
    assert run_task("train", []) == 2
    err = capsys.readouterr().err
    assert "error: the table is [empty]" in err
    assert "Traceback" not in err
    assert "executing job" not in err


def test_bugs_keep_their_traceback(task):
    task.action = lambda cfg: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run_task("train", [])


def test_interrupts(task, capsys):
    class StoppedError(Exception):
        signal_number = 15

    def interrupt(_cfg):
        raise KeyboardInterrupt

    def stop(_cfg):
        raise StoppedError("interrupted by SIGTERM")

    task.action = interrupt
    assert run_task("train", []) == 130
    assert capsys.readouterr().err == ""
    task.action = stop
    assert run_task("train", []) == 143
    assert "go on with ckpt=auto" in capsys.readouterr().err


def test_results_for_sweepers():
    assert objective({"val/loss": 0.25, "test/mae": 1.0}) == 0.25
    assert objective({"test/mae": 1.0}) == {"test/mae": 1.0}
    assert objective(None) is None


def test_wrong_options_of_the_command_line(task, capsys):
    assert run_task("train", ["--fast"]) == 2
    assert "unknown option --fast" in capsys.readouterr().err
    assert run_task("train", ["--experimental-rerun", "x.pickle"]) == 2
    assert "pickle" in capsys.readouterr().err
    assert run_task("train", ["--config-name", "x"]) == 2
    assert run_task("train", ["-m", "--cfg", "job"]) == 2
    assert run_task("train", ["--resolve"]) == 2
    assert task.calls == []


def test_showing_the_configuration(task, capsys):
    assert run_task("train", ["--cfg", "job", "--package", "trainer", "trainer.max_epochs=7"]) == 0
    assert "max_epochs: 7" in capsys.readouterr().out
    assert run_task("train", ["--cfg", "job", "--resolve"]) == 0
    assert "name: llm_fusion-qm9" in capsys.readouterr().out
    assert run_task("train", ["--cfg", "job", "trainer.max_epoch=7"]) == 2
    assert "did you mean 'max_epochs'?" in capsys.readouterr().err
    assert run_task("train", ["--info", "searchpath"]) == 0
    assert not Path("runs").exists()


def test_evaluation(task, tmp_path):
    assert run_task("evaluate", [f"ckpt={tmp_path}", "split=val"]) == 0
    cfg, folder = task.calls[0]
    assert (cfg.split, cfg.data) == ("val", None)
    assert folder.parent == tmp_path / "runs" / "evaluate"


def test_generation(task, tmp_path):
    assert run_task("generate", [f"ckpt={tmp_path}", "n=3", "condition.formula=NaCl"]) == 0
    cfg, folder = task.calls[0]
    assert (cfg.n, cfg.condition.formula, cfg.infill.structure) == (3, "NaCl", None)
    assert folder.parent == tmp_path / "runs" / "generate"
    assert run_task("generate", [f"ckpt={tmp_path}", f"resume={folder}"]) == 0
    assert task.folders == [folder, folder]
    assert [path.name for path in (tmp_path / "runs" / "generate").iterdir()] == [folder.name]


def test_infill_is_short_for_its_structure(task, tmp_path):
    (tmp_path / "x.cif").touch()
    assert run_task("generate", [f"ckpt={tmp_path}", "infill=x.cif", "infill.element=Na"]) == 0
    assert dict(task.calls[0][0].infill) == {"structure": "x.cif", "element": "Na"}


def test_generation_needs_a_checkpoint(task, capsys):
    assert run_task("generate", []) == 2
    assert "ckpt=" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_console_command_dispatches(task):
    assert cli.main(["train", "seed=8"]) == 0
    assert task.calls[0][0].seed == 8
    assert cli.main(["evaluate", f"ckpt={Path.cwd()}"]) == 0


def test_console_command_help_and_version(capsys):
    assert cli.main([]) == 0
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli._COMMANDS)
    assert cli.main(["--version"]) == 0
    assert re.match(r"crystalfm \d", capsys.readouterr().out)


def test_unknown_command(capsys):
    assert cli.main(["trian"]) == 2
    err = capsys.readouterr().err
    assert "there is no command 'trian'" in err
    assert "did you mean 'train'?" in err


def test_fetch_hands_over_to_the_assets(monkeypatch):
    import crystalfm.assets.cli

    monkeypatch.setattr(crystalfm.assets.cli, "main", len)
    assert cli.main(["fetch", "qm9", "minilm"]) == 2


def test_config_check(capsys):
    assert cli.main(["config", "check", "experiment=quickstart"]) == 0
    assert "OK: the configuration of train is consistent" in capsys.readouterr().out
    assert cli.main(["config", "check", "-m", "seed=1,2"]) == 0
    assert "(2 jobs)" in capsys.readouterr().out
    assert cli.main(["config", "check", "evaluate", "split=vall"]) == 2
    assert "did you mean 'val'?" in capsys.readouterr().err


def test_config_keys(capsys):
    assert cli.main(["config", "keys"]) == 0
    out = capsys.readouterr().out
    assert "trainer.max_epochs" in out
    assert "encoders.fingerprint.num_bits" in out
    assert "a whole number" in out
    assert cli.main(["config", "keys", "predict"]) == 0
    assert "smiles_column" in capsys.readouterr().out
    assert cli.main(["config", "keys", "trai"]) == 2
    assert cli.main(["config", "chek"]) == 2
    assert "did you mean 'check'?" in capsys.readouterr().err
    assert cli.main(["config"]) == 0


def test_data_check(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("smiles,gap,name\nCCO,1.5,a\nCC,2.5,b\nnot a molecule,1,c\n")
    assert cli.main(["data", "check", str(table), "--targets", "gap", "--max-rejected-fraction", "0.5"]) == 0
    assert "3 rows, 2 accepted, 1 rejected" in capsys.readouterr().out
    assert cli.main(["data", "check", str(table), "--targets", "gap"]) == 2
    assert "training would stop" in capsys.readouterr().err
    assert cli.main(["data", "check", str(tmp_path / "absent.csv")]) == 2
    assert cli.main(["data", "chek"]) == 2


@pytest.fixture
def predictions(monkeypatch):
    """Configurations that reached the prediction."""
    seen = []
    module = types.ModuleType("crystalfm.run.predict")
    module.predict = seen.append
    monkeypatch.setitem(sys.modules, "crystalfm.run.predict", module)
    return seen


SMILES = ["CCO", "C(=O)[O-]", "[C@@H](N)(C)C#N", "a,b=c", "${oc.env:HOME}", "CC(=O)O.[Na+]", "null", "1"]


@pytest.mark.parametrize("smiles", SMILES)
def test_smiles_reach_the_prediction_as_typed(predictions, tmp_path, smiles):
    assert cli.predict_main([f"ckpt={tmp_path}", f"input={smiles}", "max_rejected_fraction=0.5"]) == 0
    assert predictions[0].input == smiles
    assert predictions[0].max_rejected_fraction == 0.5
    assert predictions[0].trainer.accelerator == "auto"


def test_prediction_through_the_console_command(predictions, tmp_path):
    assert cli.main(["predict", f"ckpt={tmp_path}", "input=C", "trainer.accelerator=cpu", "output=o.csv"]) == 0
    assert (predictions[0].trainer.accelerator, predictions[0].output) == ("cpu", "o.csv")


def test_wrong_arguments_of_a_prediction(predictions, tmp_path, capsys):
    assert cli.predict_main([f"ckpt={tmp_path / 'no'}", "inputs=C", "trainer.accelerator=tpu", "CCO", "paths=3"]) == 2
    err = capsys.readouterr().err
    assert "no such file or folder" in err
    assert "did you mean 'input'?" in err
    assert "input  [conf/predict.yaml:" in err
    assert "'tpu' does not fit" in err
    assert "an argument needs a value" in err
    assert predictions == []


def test_prediction_help(capsys):
    assert cli.predict_main(["--help"]) == 0
    assert "ckpt=RUN_OR_FILE" in capsys.readouterr().out
    assert predict_command._escaped({"a": ["x"], "b": "${c}"}) == {"a": ["x"], "b": "\\${c}"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model=llm_fusion,data.limit=200", "model-llm_fusion_data.limit-200"),
        ("modalities=[smiles,fingerprint]", "modalities-smiles_fingerprint"),
        ("data.path=/a b/c.csv", "data.path-a-b-c.csv"),
        ("", "default"),
        ("x" * 200, "x" * 80),
    ],
)
def test_names_of_job_folders(text, name):
    assert stamp.folder_name(text) == name


def script(name, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / name), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


needs_scripts = pytest.mark.skipif(not (REPOSITORY / "train.py").is_file(), reason="runs the repository's scripts")


@needs_scripts
@pytest.mark.parametrize(
    ("name", "word"),
    [("train.py", "experiment=quickstart"), ("evaluate.py", "ckpt="), ("generate.py", "condition.formula=")],
)
def test_scripts_explain_themselves(tmp_path, name, word):
    done = script(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert word in done.stdout
    assert "$" not in done.stdout


@needs_scripts
def test_scripts_end_with_exit_code_two(tmp_path):
    done = script("train.py", "trainer.max_epoch=9", "llm=gpt-2", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'max_epochs'?" in done.stderr
    assert "did you mean 'gpt2'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@needs_scripts
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_and_cfg_are_fast_and_load_no_torch(tmp_path, arguments):
    code = (
        "import sys, time; start = time.process_time(); from crystalfm.cli.task import run_task;"
        f"code = run_task('train', {arguments!r}); seconds = time.process_time() - start;"
        "heavy = [name for name in ('torch', 'lightning', 'pandas', 'rdkit', 'numpy') if name in sys.modules];"
        "print(code, seconds, heavy, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    exit_code, seconds, heavy = done.stderr.split(maxsplit=2)
    assert (exit_code, heavy.strip()) == ("0", "[]")
    # Processor time, so that other work on the machine does not count.
    assert float(seconds) < 1.5
