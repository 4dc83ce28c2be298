"""What ``evaluate.py`` is to score: a model, or structures, and what structures need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.config.extras import install_command, is_installed
from crystalfm.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_JUDGING = ("smact", "matminer", "spglib", "joblib")
_RELAXING = ("chgnet",)


def judging_problems(tree: Mapping[str, Any], broken: set[str]) -> Iterator[Problem]:
    """Yield the problems of an evaluation's configuration.

    Args:
        tree: plain containers.
        broken: keys with a problem already.
    """
    ckpt, structures = tree.get("ckpt"), tree.get("structures")
    if ckpt is None and structures is None:
        if not {"ckpt", "structures"} & broken:
            remedy = "ckpt=RUN scores a trained model; structures=FOLDER reference=mp judges crystals"
            yield Problem("ckpt", "a checkpoint or structures are needed here", remedy)
        return
    if ckpt is not None and structures is not None:
        yield Problem(
            "structures", "a model and structures cannot be scored at once", "give one of ckpt and structures"
        )
        return
    if structures is None:
        yield from _needless(tree)
        return
    if tree.get("data") is not None:
        yield Problem("data", "structures are compared with reference, not with data", "write reference=mp")
    if tree.get("reference") is None:
        yield Problem("reference", "a data set to compare the structures with is needed here", "write reference=mp")
    stability = tree.get("stability") is True
    missing = [name for name in (*_JUDGING, *(_RELAXING if stability else ())) if not is_installed(name)]
    if missing:
        yield Problem("structures", f"{', '.join(missing)} is not installed", install_command("generate"))
    predictor = tree.get("predictor")
    if isinstance(predictor, str) and not Path(predictor).expanduser().exists():
        yield Problem("predictor", f"{predictor}: no such file or folder", "give a predictor's run folder")
    relaxation = tree.get("relaxation")
    hull = relaxation.get("hull") if isinstance(relaxation, dict) else None
    if isinstance(hull, str) and not Path(hull).expanduser().is_file():
        yield Problem("relaxation.hull", f"{hull}: no such file", "give a JSON file of entries, or null")


def _needless(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for what has no meaning without structures."""
    given_keys = {key: tree.get(key) is not None for key in ("reference", "predictor")}
    for key, given in (given_keys | {"stability": tree.get("stability") is True}).items():
        if given:
            yield Problem(key, "this goes with structures=..., not with a model", f"leave {key} out")
