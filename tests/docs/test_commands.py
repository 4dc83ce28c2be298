"""Every command on a page is understood; those that need no downloaded weights run, made small."""

import csv
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from documented import ROOT, Command, commands

from crystalfm.assets.registry import ASSETS
from crystalfm.cli.main import main
from crystalfm.cli.predict_command import predict_config
from crystalfm.config.compose import Composer
from crystalfm.config.preflight import preflight
from crystalfm.config.schema import ENTRY_POINTS
from defect_release import write_release

MOLECULES = (
    "C",
    "CC",
    "CCO",
    "CCC",
    "CCN",
    "CO",
    "C=C",
    "C#N",
    "c1ccccc1",
    "CC(=O)O",
    "CCOC",
    "CC=O",
    "OCC=O",
    "NCC=O",
)
COLUMNS = ("solubility", "homo", "lumo", "gap", "alpha", "mu")
SHRINK = (
    "data.limit=null", "data.batch_size=4", "trainer.max_epochs=1", "trainer.limit_train_batches=2",
    "trainer.num_threads=1", "callbacks.progress_bar=false", "paths.cache=cache",
)  # fmt: skip
SMALL_TABLE = ("data=csv", "data.path=molecules.csv", "data.smiles_column=smiles")
CRYSTAL_DATA = {f"data={name}" for name in ("mp", "jarvis", "perov5", "carbon24", "folder")}
DEFECTS = "data=2dmd"
HYBRID = re.compile(r"(experiment=hybrid/|mode=)")
SMALL_HYBRID = (
    "modalities=[crystal_graph]", "encoders.crystal_graph.frozen=false", "encoders.crystal_graph.weights=null",
    "encoders.crystal_graph.hidden_features=8", "encoders.crystal_graph.alignn_layers=1",
    "encoders.crystal_graph.gcn_layers=1", "llm.width=16", "llm.num_layers=1",
)  # fmt: skip
GENERATOR = re.compile(r"model=crystal_llm|experiment=crystal_")
SMALL_GENERATOR = (
    "data.path=mp", "llm.width=16", "llm.num_layers=1", "llm.num_heads=2", "trainer.max_epochs=1", "data.batch_size=4",
    "trainer.num_threads=1", "callbacks.progress_bar=false", "paths.cache=cache", "scheduler.warmup_steps=0",
)  # fmt: skip
SMALL_CRYSTALS = ("data=folder", "data.path=crystals.jsonl", "data.targets=[y]")
NEEDS_ASSETS = re.compile(
    r"alignn_ff|rxnfp|smollm2|gpt2|=gpu|ddp|fsdp|chebi|launcher=submitit"
    r"|modalities=\[description\]"
)
DOCUMENTED = commands()
TRAININGS = [c for c in DOCUMENTED if c.program == "train" and not {"--help", "--cfg"} & set(c.words)]


def write_molecules(folder):
    """A table with every column the pages name."""
    smiles = [prefix + core for prefix in ("", "C", "CC") for core in MOLECULES]
    rows = [",".join(["smiles", *COLUMNS])]
    rows += [
        ",".join([text, *(f"{len(text) + 0.1 * i:.2f}" for i in range(len(COLUMNS)))]) for text in dict.fromkeys(smiles)
    ]
    (folder / "molecules.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_crystals(folder):
    """Forty cubes of two atoms, as JARVIS writes them, with a number each."""
    edges = [4 + 0.07 * row for row in range(40)]
    atoms = [
        {"lattice_mat": [[a, 0, 0], [0, a, 0], [0, 0, a]], "coords": [[0, 0, 0], [0.5] * 3], "elements": ["Na", "Cl"]}
        for a in edges
    ]
    lines = [json.dumps({"atoms": cell, "y": 3 * a}) for cell, a in zip(atoms, edges, strict=True)]
    (folder / "crystals.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_salts(folder):
    """Cubes of two salts in MP-20's columns, and one of them as a CIF file."""
    from pymatgen.core import Lattice, Structure

    (folder / "mp").mkdir()
    number = 0
    for part, size in {"train": 12, "val": 2, "test": 4}.items():
        rows = [("material_id", "formation_energy_per_atom", "band_gap", "e_above_hull", "cif")]
        for _ in range(size):
            cell = Lattice.cubic(5.0 + 0.03 * number)
            salt = Structure(cell, [("Na", "K")[number % 2], "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
            rows.append((f"mp-{number}", "-1.5", "2.0", "0.0", salt.to(fmt="cif")))
            number += 1
        with (folder / "mp" / f"{part}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    Structure(cell, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(filename=str(folder / "crystal.cif"))


@pytest.fixture(scope="session")
def defect_release(tmp_path_factory):
    """A small release of 2DMD, made once."""
    return write_release(tmp_path_factory.mktemp("2dmd"))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch, defect_release):
    """A folder with what the commands name: a table, a mirror, and a run where one has been made."""
    monkeypatch.chdir(tmp_path)
    write_molecules(tmp_path)
    write_crystals(tmp_path)
    write_salts(tmp_path)
    (tmp_path / "2dmd").symlink_to(defect_release)
    (tmp_path / "mirror").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A small finished run of the quickstart, made once."""
    folder = tmp_path_factory.mktemp("finished")
    write_molecules(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *shrunk(["experiment=quickstart"])]) == 0
    (run,) = (folder / "runs" / "quickstart").iterdir()
    return run


@pytest.fixture(scope="module")
def finished_generator(tmp_path_factory):
    """A small finished run of a generator, made once."""
    folder = tmp_path_factory.mktemp("generator")
    write_salts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *shrunk(["experiment=crystal_tiny"])]) == 0
    (run,) = (folder / "runs" / "crystal_tiny").iterdir()
    return run


def shrunk(arguments):
    """The same training on a small table, with as much as possible taken from the command."""
    if DEFECTS in arguments:
        hybrid = SMALL_HYBRID if any(HYBRID.match(word) for word in arguments) else ()
        small = SMALL_GENERATOR if "model=crystal_llm" in arguments else (*SHRINK, *hybrid)
        small = [word for word in small if not word.startswith(("data.path=", "data.limit="))]
        replaced = {word.partition("=")[0] for word in small} | {"data.limit", "data.path"}
        return [*(word for word in arguments if word.partition("=")[0] not in replaced), *small, "data.path=2dmd"]
    if any(GENERATOR.match(word) for word in arguments):
        replaced = {word.partition("=")[0] for word in SMALL_GENERATOR} | {"data.limit"}
        kept = [word for word in arguments if word.partition("=")[0] not in replaced]
        return [*kept, *SMALL_GENERATOR]
    hybrid = any(HYBRID.match(word) for word in arguments)
    if hybrid:
        replaced = {word.partition("=")[0] for word in SMALL_HYBRID}
        arguments = [word for word in arguments if word.partition("=")[0] not in replaced]
        arguments = [*(word.replace("seed=1,2,3", "seed=1") for word in arguments), *SMALL_HYBRID]
    if hybrid or CRYSTAL_DATA & set(arguments):
        kept = [word for word in arguments if not word.startswith("data")]
        return [*kept, *SMALL_CRYSTALS, *(word for word in SHRINK if not word.startswith("data.limit"))]
    kept = [
        word for word in arguments if not word.startswith(("data=", "data.path=", "data.smiles_column=", "data.limit="))
    ]
    given = {word.partition("=")[0] for word in kept}
    small = [word for word in SHRINK if word.partition("=")[0] not in given]
    targets = [] if "data.targets" in given else ["data.targets=[gap]"]
    small += [] if "llm" in given else ["llm.width=16", "llm.num_layers=1"]
    classical = "model=xgboost" in kept or "llm_fusion,xgboost" in " ".join(kept)
    small += ["scheduler.warmup_steps=0"] if "scheduler=cosine" in kept else []
    trees = ["model.num_trees=3"] if classical and "-m" not in kept else []
    trials = [re.sub(r"^model\.num_trials=\d+$", "model.num_trials=1", word) for word in kept]
    trials = [re.sub(r"^ensemble=\d+$", "ensemble=2", word) for word in trials]
    return [*trials, *SMALL_TABLE, *targets, *small, *trees]


def with_run(arguments, run):
    """Replace ``runs/<name>/RUN`` by a real run folder."""
    return [re.sub(r"runs/[\w-]+/RUN", str(run), word) for word in arguments]


def adopt(run, workplace):
    """Copy a finished run to where the commands look for it."""
    copy = workplace / "runs" / "quickstart" / run.name
    shutil.copytree(run, copy)
    return copy


@pytest.mark.parametrize("command", DOCUMENTED, ids=lambda command: command.line)
def test_is_understood(command, workplace):
    CHECKS[command.program](command, workplace)


def check_composed(command, workplace):
    """The configuration composes and holds no unknown key, wrong value or impossible option."""
    words = command.arguments
    if "--help" in words or "--cfg" in words:
        assert main([command.program, *words]) == 0
        return
    run = workplace / "runs" / "r"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").touch()
    overrides = [word for word in with_run(words, run) if word != "-m"]
    with Composer(command.program) as composer:
        assert preflight(composer, overrides, multirun="-m" in words, fit=False)


def check_describe(command, workplace):
    with Composer("train") as composer:
        (cfg,) = preflight(composer, command.arguments, fit=False)
    assert cfg.data.description


def check_predict(command, workplace):
    (workplace / "gaps").mkdir()  # what an export before has written
    cfg = predict_config(with_run(command.arguments, workplace))
    assert cfg.input


def check_export(command, workplace):
    words = [word if "=" in word else f"ckpt={word}" for word in with_run(command.arguments, workplace)]
    with Composer("export") as composer:
        assert preflight(composer, words, fit=False)


def check_fetch(command, workplace):
    known = {*ASSETS, "list", "fetch", "verify"}
    assert [word for word in command.arguments if word not in known] == []


def check_make(command, workplace):
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert command.arguments[0] in targets


def check_pip(command, workplace):
    extras = re.findall(r"\[([\w,]+)\]", command.line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {name for text in extras for name in text.split(",")} <= project["optional-dependencies"].keys()


def check_source(command, workplace):
    assert command.arguments == [".venv/bin/activate"]


def check_card(command, workplace):
    """``test_cards_and_comparisons_run`` runs it; here, that its run and its options are ones."""
    assert all(re.fullmatch(r"runs/[\w-]+/[A-Z]+|output=[\w./]+|split=\w+", word) for word in command.arguments)


def check_console(command, workplace):
    assert main([*command.program.split(), *command.arguments]) == 0


CHECKS = {
    "train": check_composed,
    "evaluate": check_composed,
    "generate": check_composed,
    "export": check_export,
    "bench": check_composed,
    "predict": check_predict,
    "describe": check_describe,
    "fetch": check_fetch,
    "make": check_make,
    "pip": check_pip,
    "source": check_source,
    "card": check_card,
    "compare": check_card,
    "erasure": check_card,
    "data check": check_console,
    "defects enumerate": check_console,
    "defects random": check_console,
    "config check": check_console,
    "config keys": check_console,
}


def test_every_program_has_a_check():
    assert {command.program for command in DOCUMENTED} <= CHECKS.keys()


def test_unknown_key_in_a_documented_command_would_be_found(workplace):
    with pytest.raises(Exception, match=r"data\.limt"):
        check_composed(Command("page", "python train.py data.limt=3"), workplace)


@pytest.mark.parametrize("command", TRAININGS, ids=lambda command: command.line)
def test_training_runs(command, workplace, request):
    if NEEDS_ASSETS.search(command.line):
        pytest.skip("needs downloaded weights or a GPU")
    words = command.arguments
    if "RUN" in command.line or "ckpt=auto" in words:
        words = with_run(words, adopt(request.getfixturevalue("finished_run"), workplace))
    assert main(["train", *shrunk(words)]) == 0
    summaries = list(workplace.glob("runs/**/summary.json"))
    assert summaries


BENCHES = [c for c in DOCUMENTED if c.program == "bench"]


@pytest.mark.slow
@pytest.mark.parametrize("command", BENCHES, ids=lambda command: command.line)
def test_bench_runs(command, workplace):
    kept = [word for word in command.arguments if not word.startswith(("bench.steps=", "bench.warm", "bench.proc"))]
    small = ["bench.steps=2", "bench.warmup=1", "bench.processes=[1]"]
    assert main(["bench", *shrunk(kept), *small]) == 0
    named = [Path(word.partition("=")[2]) for word in kept if word.startswith("bench.output=")]
    (results,) = named or workplace.glob("runs/bench/*/bench.json")
    assert '"rows_per_second"' in results.read_text(encoding="utf-8")


def test_evaluation_runs(workplace, finished_run):
    run = adopt(finished_run, workplace)
    for command in DOCUMENTED:
        if command.program == "evaluate" and not re.search(f"{OF_CRYSTALS.pattern}|2dmd", command.line):
            assert main(["evaluate", *with_run(command.arguments, run), "paths.cache=cache"]) == 0


def write_erasure(run):
    """What ``evaluate.py explain=erasure`` leaves of a model of one property, with one tag."""
    interval = {"value": 0.1, "low": 0.0, "high": 0.2}
    tag = {"tag": "summary", "target": "gap_eV", "num_texts": 3, "mean_tokens": 2.0, "mae": 0.3}
    tag |= dict.fromkeys(("change", "control", "excess"), interval)
    content = {"rows": 3, "texts": "robocrys", "other_share": 0.0, "mae": {"gap_eV": 0.2}, "tags": [tag]}
    (run / "explanations").mkdir()
    content |= {"targets": [{"name": "gap", "unit": "eV"}]}
    (run / "explanations" / "erasure.json").write_text(json.dumps(content), encoding="utf-8")


def test_cards_and_comparisons_run(workplace, finished_run):
    run = adopt(finished_run, workplace)
    again = workplace / "runs" / "again" / "0"
    shutil.copytree(run, again)
    write_erasure(again)
    for command in DOCUMENTED:
        if command.program in {"card", "compare", "erasure"}:
            words = with_run(command.arguments, run)
            words = [re.sub(r"runs/[\w-]+/SWEEP", str(workplace / "runs" / "again"), word) for word in words]
            assert main([command.program, *words]) == 0
    assert (workplace / "comparison" / "comparison.csv").is_file()
    assert (workplace / "erasures" / "erasures.csv").is_file()
    assert (workplace / "README.md").is_file()


OF_CRYSTALS = re.compile(r"structures=|ckpt=runs/(crystal_|hybrid_)")
OF_DEFECTS = re.compile(r"2dmd")


def test_generation_export_and_judging_run(workplace, finished_generator):
    """The commands on the page of the generator, with few samples and without relaxations."""
    for command in DOCUMENTED:
        words = with_run(command.arguments, finished_generator)
        if OF_DEFECTS.search(command.line):
            continue
        if command.program == "generate":
            small = [word for word in words if not word.startswith("n=")]
            options = ["n=3", "pictures=0", "paths.cache=cache", "name=generated", "progress_bar=false"]
            assert main(["generate", *small, *options]) == 0
        elif command.program == "export" and "runs/crystal_" in command.line and "adapter=true" not in words:
            assert main(["export", *words, "paths.cache=cache"]) == 0
        elif command.program == "evaluate" and "ckpt=runs/crystal_" in command.line:
            small = [word for word in words if not word.startswith(("ipt_crystals", "match_"))]
            assert main(["evaluate", *small, "ipt_crystals=1", "match_crystals=1", "paths.cache=cache"]) == 0
    written = sorted(Path("runs/generated").iterdir())
    assert all((run / "samples.csv").is_file() for run in written)
    assert len(written) > 1
    quick = ["reference=mp", "reference.path=mp", "judging.fingerprints=false", "judging.jobs=1", "paths.cache=cache"]
    assert main(["evaluate", f"structures={written[0]}", *quick]) == 0


@pytest.fixture
def designing_runs(workplace):
    """A generator of defects and a predictor of what the commands ask for, where the commands look for them."""
    targets = "data.targets=[homo_lumo_gap,formation_energy_per_site]"
    for words in (["model=crystal_llm"], ["model=xgboost", "modalities=[defects]", "model.num_trees=3", targets]):
        assert main(["train", *shrunk([*words, DEFECTS])]) == 0
    return {name: next((workplace / "runs" / name).iterdir()) for name in ("crystal_llm-2dmd", "xgboost-2dmd")}


def test_designs_of_defects_run(workplace, designing_runs):
    """The commands on the page of defects, with few samples; trees stand in for CatBoost."""
    generator, predictor = designing_runs.values()
    for command in DOCUMENTED:
        if not OF_DEFECTS.search(command.line) or command.program not in {"generate", "evaluate"}:
            continue
        words = [re.sub(r"runs/(catboost|xgboost)-2dmd/RUN", str(predictor), word) for word in command.arguments]
        words = [re.sub(r"runs/crystal_llm-2dmd/RUN", str(generator), word) for word in words]
        if command.program == "evaluate":
            chosen = generator if "ckpt=runs/crystal_llm" in command.line else predictor
            assert main(["evaluate", *with_run(words, chosen), "paths.cache=cache"]) == 0
            continue
        small = [word for word in words if not word.startswith("n=")]
        assert main(["generate", *small, "n=3", "paths.cache=cache", "name=designed", "progress_bar=false"]) == 0
    designed = list(Path("runs/designed").iterdir())
    assert len(designed) > 1
    assert all((run / "ranked.csv").is_file() and (run / "figures" / "best.png").is_file() for run in designed)


def test_prediction_and_export_run(workplace, finished_run):
    run = adopt(finished_run, workplace)
    for command in DOCUMENTED:
        if command.program == "predict" or (command.program == "export" and "runs/crystal_" not in command.line):
            assert main([command.program, *with_run(command.arguments, run), "paths.cache=cache"]) == 0
    assert Path("predictions.csv").is_file()


def test_every_entry_point_is_documented():
    assert {"train", "evaluate", "predict"} <= {command.program for command in DOCUMENTED} & ENTRY_POINTS.keys()


def test_the_python_on_the_page_of_trainings_runs(finished_run, workplace, capsys):
    adopt(finished_run, workplace)
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(block.replace("RUN", finished_run.name), "docs/training.md", "exec"), {})  # noqa: S102
    shown = capsys.readouterr().out
    assert "C1CC" in shown
    assert "gap" in shown
