"""Small real runs on made-up molecules."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from run_helpers import TINY, MakeConfig, molecules

from crystalfm.config.location import conf_folder


@pytest.fixture
def molecule_csv(tmp_path: Path) -> Path:
    """A table of 60 molecules with two targets that depend on the molecule."""
    path = tmp_path / "molecules.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "smiles", "energy", "gap"])
        for number, smiles in enumerate(molecules(60)):
            writer.writerow(
                [f"m{number}", smiles, len(smiles) + 0.5 * smiles.count("N"), 0.1 + 0.02 * smiles.find("O")]
            )
    return path


@pytest.fixture
def make_config(tmp_path: Path, molecule_csv: Path) -> MakeConfig:
    """Return a function that composes a tiny training configuration from overrides."""

    def build(*overrides: str, config: str = "train", tiny: bool = True, llm_settings: bool = True) -> DictConfig:
        base = [f"paths.cache={tmp_path / 'cache'}", f"paths.runs={tmp_path / 'runs'}"]
        if tiny:
            base += [
                *(item for item in TINY if llm_settings or not item.startswith("llm.")),
                f"data.path={molecule_csv}",
                "data.id_column=name",
            ]
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return compose(config, overrides=[*base, *overrides])

    return build
