"""``python -m crystalfm.predict``: ``key=value`` arguments, checked like every configuration, without a run folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from crystalfm.config.compose import Composer, plain_tree
from crystalfm.config.preflight import check_values
from crystalfm.config.problems import COMMAND_LINE, ConfigError, Problem
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_HELP = """python -m crystalfm.predict ckpt=RUN_OR_FILE input=X [key=value ...]        (also: crystalfm predict ...)

Predicts the targets of a trained model, in physical units.

  ckpt=RUN_OR_FILE         run folder, checkpoint file, folder of crystalfm export, or hf://owner/name (required)
  input=X                  a SMILES string, a file of SMILES (.smi, .txt) or a table (.csv, .tsv); for models of
                           crystals a CIF, POSCAR or extxyz file, a folder of them, or a table (required)
  output=FILE              CSV to write; default predictions.csv, or the terminal for a single SMILES
  smiles_column=NAME       columns of a table; also id_column and description_column
  max_rejected_fraction=F  exit code 2 when a larger share of the rows cannot be used (default 0.5)
  check=false              do not repeat the reference predictions of an exported folder
  trainer.accelerator=cpu  device
  paths.mirror=DIR         where weights of encoders are found without a network

Examples
  python -m crystalfm.predict ckpt=runs/quickstart/2026-01-31_12-00-00_1a2b3c input="CCO"
  python -m crystalfm.predict ckpt=best.ckpt input=molecules.csv smiles_column=SMILES output=out.csv
  python -m crystalfm.predict ckpt=runs/alignn-mp/2026-01-31_12-00-00_1a2b3c input=folder_of_cifs
"""

_VERBATIM = {"ckpt", "input", "output", "smiles_column", "id_column", "description_column"}
"""Keys whose text is taken as it stands: SMILES are full of characters that mean something in YAML."""


def run_predict(argv: Sequence[str]) -> int:
    """Check the arguments and predict.

    Raises:
        UserError: an argument is wrong, or the prediction failed for a reason the user can mend.
    """
    if any(word in {"-h", "--help"} for word in argv):
        sys.stdout.write(_HELP)
        return 0
    cfg = predict_config(argv)
    from crystalfm.run.predict import predict

    predict(cfg)
    return 0


def predict_config(argv: Sequence[str]) -> DictConfig:
    """Return the checked configuration of a prediction.

    Args:
        argv: ``key=value`` words.

    Raises:
        ConfigError: names every problem.
    """
    return checked_arguments("predict", argv, _VERBATIM)


def checked_arguments(task: str, argv: Sequence[str], verbatim: Collection[str]) -> DictConfig:
    """Return the checked configuration of a command that has no run folder.

    Args:
        task: name of its entry point.
        argv: ``key=value`` words.
        verbatim: keys whose text is taken as it stands.

    Raises:
        ConfigError: names every problem.
    """
    with Composer(task) as composer:
        composition = composer.compose([])
        if composition.cfg is None:
            raise ConfigError(composition.problems)
        tree, problems = plain_tree(composition.cfg)
        keys = []
        for word in argv:
            key, equals, text = word.partition("=")
            if not equals or not key:
                problems.append(Problem(word, "an argument needs a value", "write key=value", COMMAND_LINE))
                continue
            keys.append(key)
            try:
                _put(tree, key.split("."), text if key in verbatim else yaml.safe_load(text))
            except (yaml.YAMLError, UserError) as error:
                problems.append(Problem(word, f"cannot be read: {error}", where=COMMAND_LINE))
        problems += check_values(composer, tree, keys)
    if problems:
        raise ConfigError(problems)
    checked: DictConfig = OmegaConf.create(_escaped(tree))
    return checked


def _put(tree: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"'{part}' is a value, not a section")
        tree = child
    tree[parts[-1]] = value


def _escaped(node: Any) -> Any:
    """Keep ``${`` in values from being read as a reference."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    return node.replace("${", "\\${") if isinstance(node, str) else node
