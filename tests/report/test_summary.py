"""The summary is JSON, complete, and tells the environment truthfully."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from crystalfm import __version__
from crystalfm.contracts import TargetSpec
from crystalfm.encoders.base import EncoderReport
from crystalfm.io.files import write_json
from crystalfm.metrics.scores import score_model
from crystalfm.report import summary
from crystalfm.report.facts import RunFacts
from crystalfm.report.summary import (
    Outcome,
    build_summary,
    environment_facts,
    git_commit,
    package_versions,
    peak_memory_gib,
)

GAP = TargetSpec("gap", "hartree")


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_summary_is_plain_json(tmp_path):
    facts = RunFacts(
        run_name="run",
        run_folder=tmp_path,
        model="mean",
        data="csv",
        data_hash="hash",
        targets=(GAP,),
        split_sizes={"train": 8, "val": 1, "test": 2},
        num_rejected=1,
        encoders=(EncoderReport("smiles", "tokens", frozen=False, width=8),),
        num_parameters=10,
        num_trainable=5,
        device="cpu",
        precision="32-true",
        num_threads=1,
        seed=7,
    )
    true = np.array([[1.0], [1.0]])
    outcome = Outcome(num_epochs=3, wall_time_seconds=1.5, validation={"loss": 0.5}, finished=False)
    made = build_summary(facts, outcome, [score_model("mean", true, true + 0.5, [GAP])])
    write_json(tmp_path / "summary.json", made)
    read = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert read == made
    assert read["metrics"]["test"]["mean"]["gap"]["mae"] == 0.5
    assert read["metrics"]["test"]["mean"]["gap"]["r2"] is None
    assert read["data"]["split_sizes"] == {"train": 8, "val": 1, "test": 2}
    assert read["data"]["content_hash"] == "hash"
    assert read["model"]["encoders"] == [{"modality": "smiles", "name": "tokens", "frozen": False, "width": 8}]
    assert read["training"]["wall_time_seconds"] == 1.5
    assert read["training"]["peak_memory_gib"] > 0
    assert read["validation"] == {"loss": 0.5}
    assert read["finished"] is False
    assert read["seed"] == 7


def test_environment_names_versions_and_python():
    facts = environment_facts()
    assert facts["versions"]["crystalfm"] == __version__
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["python"] == ".".join(str(part) for part in sys.version_info[:3])


def test_missing_packages_are_left_out():
    assert package_versions(("numpy", "no-such-package-anywhere")).keys() == {"crystalfm", "numpy"}


def test_git_commit_says_dirty(tmp_path):
    assert git_commit(tmp_path / "absent") is None
    assert git_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "tag")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert git_commit(tmp_path) == commit
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_git_commit_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(Path.cwd()) is None


def test_an_installed_copy_has_no_commit(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "site-packages" / "crystalfm" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(summary.crystalfm, "__file__", str(package))
    assert summary.package_commit() is None


def test_peak_memory_sees_an_allocation():
    before = peak_memory_gib()
    block = np.ones(100_000_000, dtype=np.uint8)
    assert peak_memory_gib() >= before
    assert peak_memory_gib() * 2**30 > block.nbytes
