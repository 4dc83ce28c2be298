"""Designing defects: what is asked, what is left behind, scores and baselines, resuming, bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from crystalfm.chem.crystal_io import read_crystal_file
from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.recognition import recognise
from crystalfm.config.location import conf_folder
from crystalfm.contracts import TargetSpec, UserError
from crystalfm.generation.defects.answers import write_answer
from crystalfm.generation.sampling import Sample
from crystalfm.run import generate as generation
from crystalfm.run.build import asset_store
from crystalfm.run.designing import surrogate as surrogates
from crystalfm.run.evaluate import evaluate
from crystalfm.run.generate import generate
from crystalfm.run.generation.plan import CUT_OFF
from crystalfm.run.language.restore import restore_writer
from crystalfm.run.train import train
from defect_release import write_release

for package in ("spglib", "pymatgen"):
    pytest.importorskip(package, reason=f"needs {package}")

TINY = [
    "trainer=cpu", "trainer.max_epochs=1", "callbacks.progress_bar=false", "data=2dmd", "data.batch_size=8",
    "model=crystal_llm", "llm=tiny", "llm.width=16", "llm.num_layers=1", "llm.num_heads=2", "scheduler=constant",
]  # fmt: skip
GAP = TargetSpec("homo_lumo_gap", "eV")
ENERGY = TargetSpec("formation_energy_per_site", "eV")


def composed(config: str, folder: Path, *overrides: str) -> Any:
    base = [f"paths.cache={folder / 'cache'}", f"paths.runs={folder / 'runs'}"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(config, overrides=[*base, *overrides])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small release, and a tiny generator that was trained on it for a moment."""
    folder = tmp_path_factory.mktemp("design")
    release = write_release(folder / "release")
    cfg = composed("train", folder, *TINY, f"data.path={release}")
    train(cfg, folder / "runs" / "crystal_llm-2dmd" / "first")
    return folder


@pytest.fixture
def config(workplace: Path, tmp_path: Path) -> Any:
    """Return a function that composes a design of a few samples."""

    def build(*overrides: str, ckpt: str | None = None) -> Any:
        run = ckpt or str(workplace / "runs" / "crystal_llm-2dmd" / "first")
        small = [f"ckpt={run}", "n=6", "batch_size=4", "trainer=cpu", "progress_bar=false", "pictures=0"]
        return composed("generate", workplace, *small, *overrides)

    return build


class WritingEngine:
    """Writes texts that are known beforehand; stops like a user's Ctrl-C after some."""

    def __init__(self, texts: list[str], stop_after: int | None = None) -> None:
        self.texts = texts
        self.stop_after = stop_after
        self.requests: list[Any] = []

    def sample(self, requests: Any, settings: Any) -> Any:
        for number, request in enumerate(requests):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.requests.append(request)
            text = self.texts[request.index % len(self.texts)]
            yield Sample(request.index, text, 12, 3, -2.0, finished=text != "CUT")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put an engine that writes known texts in place of the real one."""

    def use(texts: list[str], **arguments: Any) -> WritingEngine:
        made = WritingEngine(texts, **arguments)
        monkeypatch.setattr(generation, "make_engine", lambda cfg, writer, folder: made)
        return made

    return use


@pytest.fixture
def surrogate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A predictor whose gap is 0.1 eV a missing atom, and whose formation energy is 1 eV; return what chooses it."""
    asked: list[int] = []

    def predict(crystals: Any) -> Any:
        asked.append(len(crystals))
        values = [[0.1 * (48 - crystal.num_atoms), 1.0] for crystal in crystals]
        return SimpleNamespace(values=np.array(values))

    found = SimpleNamespace(targets=(GAP, ENERGY), takes_crystals=True, predict=predict, asked=asked)
    monkeypatch.setattr(surrogates, "load", lambda run, **_: found)
    (tmp_path / "predictor.ckpt").write_text("weights")
    return [f"surrogate={tmp_path / 'predictor.ckpt'}"]


@pytest.fixture(scope="module")
def texts(workplace: Path) -> list[str]:
    """Answers: a vacancy, an equivalent one, two vacancies, a forbidden defect, too many, nonsense, one cut off."""
    cfg = composed("generate", workplace, "ckpt=null")
    writer = restore_writer(workplace / "runs" / "crystal_llm-2dmd" / "first", asset_store(cfg))
    settings: Any = writer.prompts
    cell = settings.supercell("MoS2")
    defects = [
        [(cell.site(1, 0, 0), 0)],
        [(cell.site(2, 3, 1), 0)],
        [(cell.site(1, 0, 0), 0), (cell.site(1, 0, 1), 0)],
        [(cell.site(0, 0, 0), 0)],
        [(cell.site(1, 0, row), 0) for row in range(4)],
    ]
    return [*(write_answer(Configuration.of(one), cell, settings) for one in defects), "nonsense", "CUT"]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    from pyarrow import parquet

    found: list[dict[str, Any]] = parquet.read_table(folder / f"{name}.parquet").to_pylist()
    return found


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


ASKED = ("n=7", "rules=[v_S,Se_S]", "condition.homo_lumo_gap=0.2", "tolerance=0.001", "top=1")


# ------------------------------------------------------------------------ what is left behind


def test_every_figure_has_its_denominator(config, engine, surrogate, texts, tmp_path):
    engine(texts)
    returned = generate(config(*ASKED, *surrogate), tmp_path / "run")
    found = report(tmp_path / "run")
    assert found["valid"] == {"count": 5, "total": 7, "fraction": 5 / 7}
    assert found["allowed"] == {"count": 3, "total": 7, "fraction": 3 / 7}
    assert found["unique"] == {"count": 2, "total": 7, "fraction": 2 / 7}
    assert found["unique_among_allowed"]["total"] == 3
    assert found["types"] == {"v_S": 2, "2 v_S": 1}
    assert found["problems"] == {
        "a defect that the rules do not allow": 1,
        "not the number of defects asked for": 1,
        "no line of a changed site": 1,
        CUT_OFF: 1,
    }
    assert found["design"]["generated"]["hits"] == {"count": 1, "total": 7, "fraction": 1 / 7}
    assert found["design"]["generated"]["top_hits"] == {"count": 1, "total": 1, "fraction": 1.0}
    assert found["design"]["random"]["hits"]["total"] == 7
    assert "not by a calculation" in found["design"]["note"]
    scores = found["scores"]["properties"]["homo_lumo_gap"]
    assert scores["generated"]["num"] == 3
    assert scores["generated"]["rmse"] == pytest.approx((0.02 / 3) ** 0.5)
    assert scores["generated"]["r2_25"] is None
    assert "Chosen by the error itself" in found["scores"]["note"]
    assert returned["hits"] == 1 / 7
    assert set(returned) == {"valid", "allowed", "unique", "hits", "random_hits"}


def test_a_design_leaves_its_page(config, engine, surrogate, texts, tmp_path):
    engine(texts)
    generate(config(*ASKED, *surrogate), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for part in ("7 designs of defects in MoS2", "3 of 7 samples", "homo_lumo_gap 0.2 eV", "not by a calculation"):
        assert part in text
    structures = json.loads(text.partition('id="structures">')[2].partition("</script>")[0])
    assert [one["label"] for one in structures.values()] == ["2 v_S", "v_S"]
    assert [len(one["crystal"]["marks"]) for one in structures.values()] == [2, 1]
    # Where an atom is missing is marked, and no atom is there.
    atoms = structures["2"]["crystal"]["xyz"].splitlines()[2:]
    places = np.array([[float(word) for word in line.split()[1:]] for line in atoms])
    assert np.linalg.norm(places - structures["2"]["crystal"]["marks"][0], axis=1).min() > 2.0
    assert "distance from the target" in text


def test_the_table_has_a_row_a_sample(config, engine, surrogate, texts, tmp_path):
    engine(texts)
    generate(config(*ASKED, *surrogate), tmp_path)
    found = rows(tmp_path, "samples")
    assert [row["index"] for row in found] == list(range(7))
    assert [row["text"] for row in found] == texts
    assert [row["allowed"] for row in found] == [True, True, True, False, False, False, False]
    assert [row["parsed"] for row in found] == [True] * 5 + [False] * 2
    assert [row["equivalent_of"] for row in found] == [None, 0, None, None, None, None, None]
    assert [row["type"] for row in found[:4]] == ["v_S", "v_S", "2 v_S", "v_Mo"]
    assert [row["num_defects"] for row in found] == [1, 1, 2, 1, 4, None, None]
    assert found[0]["host"] == "MoS2"
    assert found[0]["size"] == "[4, 4, 1]"
    assert found[0]["formula"] == "Mo16S31"
    assert found[1]["sites"] == "v_S@S2(3,1)"
    assert [row["homo_lumo_gap_eV"] for row in found[:3]] == pytest.approx([0.1, 0.1, 0.2])
    assert [row["error_homo_lumo_gap_eV"] for row in found[:3]] == pytest.approx([-0.1, -0.1, 0.0])
    assert [row["within_tolerance"] for row in found] == [False, False, True, False, False, False, False]
    assert found[3]["homo_lumo_gap_eV"] is None
    assert "0.2000 eV" in found[0]["prompt"]
    assert found[0]["known"] is True  # every single vacancy is in the release
    with (tmp_path / "rejected.csv").open() as stream:
        rejected = list(csv.DictReader(stream))
    assert [row["id"] for row in rejected] == ["3", "4", "5", "6"]


def test_ranked_configurations_are_different_and_best_first_with_their_files(
    config, engine, surrogate, texts, tmp_path
):
    engine(texts)
    generate(config(*ASKED, *surrogate), tmp_path)
    found = rows(tmp_path, "ranked")
    assert [(row["rank"], row["index"], row["type"], row["count"]) for row in found] == [
        (1, 2, "2 v_S", 1),
        (2, 0, "v_S", 2),
    ]
    assert [row["error"] for row in found] == pytest.approx([0.0, 0.1])
    assert [row["file"] for row in found] == ["crystals/000002_2v_S.cif", "crystals/000000_v_S.cif"]
    crystal = read_crystal_file(tmp_path / found[0]["file"])
    assert recognise(crystal).type_name == "2 v_S"
    assert crystal.num_atoms == 46
    assert len(list((tmp_path / "crystals").iterdir())) == report(tmp_path)["num_cif_files"] == 2
    random = rows(tmp_path, "random")
    assert sum(row["count"] for row in random) == 7
    assert {rule for row in random for rule in ("v_S", "Se_S", "_Mo") if rule in row["type"]} <= {"v_S", "Se_S"}


def test_without_a_surrogate_everything_is_written_unscored(config, engine, texts, tmp_path):
    engine(texts)
    generate(config("n=7", "rules=[v_S,Se_S]", "condition.homo_lumo_gap=0.2", "pictures=2"), tmp_path)
    assert "design" not in report(tmp_path)
    assert [row["index"] for row in rows(tmp_path, "ranked")] == [0, 2]
    assert "error" not in rows(tmp_path, "samples")[0]
    assert not (tmp_path / "random.parquet").exists()
    assert (tmp_path / "figures" / "best.png").is_file()
    assert not (tmp_path / "figures" / "targets.png").exists()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "worst error" not in text
    assert text.count("<tr tabindex") == len(rows(tmp_path, "ranked"))


def test_several_targets_are_asked_for_in_turn(config, engine, surrogate, texts, tmp_path):
    written = engine(texts[:1])
    conditions = ("condition.homo_lumo_gap=[0.1,0.5]", "condition.formation_energy_per_site=1.0")
    generate(config("n=4", *conditions, *surrogate, "pictures=3", "rules=[v_S]"), tmp_path)
    prompts = [request.prompt for request in written.requests]
    assert ["0.1000 eV" in prompt for prompt in prompts] == [True, False, True, False]
    assert all("1.0000 eV" in prompt for prompt in prompts)
    found = rows(tmp_path, "ranked")
    # The same configuration counts for each target it was written for.
    assert [(row["target_homo_lumo_gap_eV"], row["count"]) for row in found] == [(0.1, 2), (0.5, 2)]
    assert [row["error"] for row in found] == pytest.approx([0.0, 0.4])
    scores = report(tmp_path)["scores"]["properties"]
    assert scores["homo_lumo_gap"]["generated"]["num_25"] == 2
    assert set(scores) == {"homo_lumo_gap", "formation_energy_per_site"}
    assert "the first of 2, which differ in their targets" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"best.png", "targets.png"}


def test_each_different_configuration_is_asked_about_once(config, engine, surrogate, texts, tmp_path):
    engine(texts[:2])
    generate(config("n=6", "condition.homo_lumo_gap=0.1", *surrogate), tmp_path)
    assert surrogates.load("any").asked[0] == 1


def test_what_the_surrogate_refuses_is_counted_and_ranked_last(config, engine, surrogate, texts, tmp_path, capsys):
    found: Any = surrogates.load("any")
    judged = found.predict

    def refuse_pairs(crystals: Any) -> Any:
        values = judged(crystals).values
        values[[crystal.num_atoms == 46 for crystal in crystals]] = np.nan
        return SimpleNamespace(values=values)

    found.predict = refuse_pairs
    engine(texts)
    generate(config(*ASKED, *surrogate), tmp_path)
    assert report(tmp_path)["design"]["unscored"]["generated"] == 1
    assert [row["type"] for row in rows(tmp_path, "ranked")] == ["v_S", "2 v_S"]
    assert rows(tmp_path, "ranked")[1]["error"] is None
    assert "nothing the surrogate knows" in capsys.readouterr().out


def test_an_interrupted_design_goes_on(config, engine, surrogate, texts, tmp_path):
    engine(texts, stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        generate(config(*ASKED, *surrogate), tmp_path / "run")
    rest = engine(texts)
    generate(config(*ASKED, *surrogate, f"resume={tmp_path / 'run'}"), tmp_path / "run")
    assert [request.index for request in rest.requests] == [4, 5, 6]
    assert report(tmp_path / "run")["num_samples"] == 7
    engine(texts)
    with pytest.raises(UserError, match=r"max_defects: 3 then, 2 now"):
        generate(config(*ASKED, "max_defects=2", *surrogate, f"resume={tmp_path / 'run'}"), tmp_path / "run")


# ------------------------------------------------------------------------ a real model


def test_a_model_under_the_grammar_writes_nothing_but_allowed_configurations(config, tmp_path):
    found = generate(config("n=24", "rules=[v_S,W_Mo]", "min_defects=2", "max_defects=2", "seed=3"), tmp_path)
    assert found["valid"] == found["allowed"] == 1.0
    kinds = {row["type"] for row in rows(tmp_path, "samples")}
    assert kinds <= {"2 v_S", "W_Mo + v_S", "2 W_Mo"}
    assert "different configurations of this supercell among" in report(tmp_path)["training"]


def test_another_host_size_and_the_newest_run_of_a_data_set(workplace, tmp_path):
    words = ("data=2dmd", "n=3", "size=[5,3,1]", "trainer=cpu", "progress_bar=false", "pictures=0")
    cfg = composed("generate", workplace, *words)
    generate(cfg, tmp_path)
    assert rows(tmp_path, "samples")[0]["size"] == "[5, 3, 1]"
    assert report(tmp_path)["checkpoint"]["location"].endswith("crystal_llm-2dmd/first")
    assert report(tmp_path)["novel"]["fraction"] == 1.0  # no training supercell is of this size


def test_without_the_training_data_nobody_knows_what_is_new(workplace, config, tmp_path):
    run = tmp_path / "moved"
    shutil.copytree(workplace / "runs" / "crystal_llm-2dmd" / "first", run)
    (workplace / "release").rename(workplace / "away")
    try:
        generate(config("n=2", ckpt=str(run)), tmp_path / "out")
    finally:
        (workplace / "away").rename(workplace / "release")
    assert report(tmp_path / "out")["novel"] is None
    assert "not at hand" in report(tmp_path / "out")["training"]
    assert rows(tmp_path / "out", "samples")[0]["known"] is None
    assert "not at hand" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_trained_predictor_ranks(workplace, config, tmp_path):
    pytest.importorskip("xgboost", reason="needs xgboost")
    words = ("model=xgboost", "data=2dmd", "modalities=[defects]", "data.targets=[homo_lumo_gap]", "trainer=cpu")
    small = ("model.num_trees=5", f"data.path={workplace / 'release'}")
    train(composed("train", workplace, *words, *small), tmp_path / "xgboost")
    generate(config("n=8", "condition.homo_lumo_gap=0.4", f"surrogate={tmp_path / 'xgboost'}"), tmp_path / "out")
    found = rows(tmp_path / "out", "ranked")
    errors = [row["error"] for row in found]
    assert errors == sorted(errors)
    assert all(error is not None for error in errors)
    assert report(tmp_path / "out")["surrogate"]["targets"] == {"homo_lumo_gap": "eV"}


def test_evaluation_counts_configurations_that_come_out(workplace, tmp_path):
    run = workplace / "runs" / "crystal_llm-2dmd" / "first"
    cfg = composed("evaluate", workplace, f"ckpt={run}", "trainer=cpu", "split=val")
    metrics = evaluate(cfg, tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    total = found["likelihood"]["num_crystals"]
    for source in ("written", "random"):
        match = found["match"][source]
        assert match["exact"]["total"] == match["equivalent"]["total"] == total > 0
        assert match["exact"]["count"] <= match["equivalent"]["count"] <= match["same_type"]["count"]
    assert metrics["equivalent_match_rate"] == found["match"]["written"]["equivalent"]["fraction"]


# ------------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["condition.host=WSe2"], r"does not know the host 'WSe2'[\s\S]*MoS2"),
        (["condition.band_gap=1"], r"not trained with the property band_gap[\s\S]*homo_lumo_gap"),
        (["rules=[v_Ga]"], r"v_Ga takes an element that MoS2 does not have[\s\S]*Mo, S"),
        (["rules=[S]"], r"'S' is no defect rule"),
        (["size=[1,1,1]", "max_defects=4"], r"MoS2 \[1,1,1\] has 3 sites[\s\S]*size=\[2,2,1\]"),
        (["size=[1,1,1]", "rules=[v_S]"], r"has 2 sites that the rules name[\s\S]*size=\[2,2,1\]"),
        (["size=[4,4]"], r"no supercell of a layer[\s\S]*size=\[4,4,1\]"),
        (["elements=[Mo]"], r"elements=\['Mo'\]: the model writes defects"),
        (["constraint=formula"], r"constraint=formula"),
        (["condition.homo=[1,2]", "condition.lumo=[1,2,3]"], r"condition.homo 2, condition.lumo 3"),
        (["condition.homo=[]"], r"asks for nothing"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_written(config, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        generate(config(*overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "samples.jsonl").exists()


def test_a_surrogate_must_predict_what_is_asked_for_in_its_unit(config, surrogate, tmp_path):
    with pytest.raises(UserError, match=r"does not predict lumo[\s\S]*homo_lumo_gap, formation_energy_per_site"):
        generate(config("condition.lumo=0.4", *surrogate), tmp_path)
    surrogates.load("any").targets = (TargetSpec("homo_lumo_gap", "hartree"),)
    with pytest.raises(UserError, match="in hartree, and it is asked for in eV"):
        generate(config("condition.homo_lumo_gap=0.4", *surrogate), tmp_path)
    surrogates.load("any").takes_crystals = False
    with pytest.raises(UserError, match="predicts molecules"):
        generate(config("condition.homo_lumo_gap=0.4", *surrogate), tmp_path)


def test_the_newest_run_of_a_data_set_that_has_none(workplace, tmp_path):
    cfg = composed("generate", workplace, "data=2dmd", f"paths.runs={tmp_path}")
    with pytest.raises(UserError, match=r"no run of model=crystal_llm data=2dmd[\s\S]*train.py"):
        generate(cfg, tmp_path / "run")


def test_a_run_was_trained_on_the_data_that_are_named(config, tmp_path):
    with pytest.raises(UserError, match=r"data=mp: .* was trained on data=2dmd"):
        generate(config("data=mp"), tmp_path)


def test_a_model_of_crystals_is_not_asked_for_defects(config, monkeypatch, tmp_path):
    from crystalfm.generation.prompts import PromptSettings

    monkeypatch.setattr(generation, "restore_writer", lambda *_: SimpleNamespace(prompts=PromptSettings()))
    with pytest.raises(UserError, match=r"rules, condition\.host: .* writes crystals[\s\S]*data=2dmd"):
        generate(config("rules=[v_S]", "condition.host=MoS2"), tmp_path)
