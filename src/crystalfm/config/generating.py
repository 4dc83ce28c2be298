"""What ``generate.yaml`` holds, and what of it goes together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crystalfm.config.extras import install_command, is_installed
from crystalfm.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class GenerateSettings:
    """Top-level values of ``generate.yaml``.

    Attributes:
        name: name of the run's folder.
        ckpt: run folder, checkpoint file or exported folder of a model that writes crystals or defects; ``None`` for
            the newest run on ``data``.
        n: samples to write.
        seed: seed of the sampling.
        resume: folder of a generation to go on with.
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_p: draw from the likeliest tokens that together have this probability.
        top_k: draw from that many likeliest tokens; ``None`` for all.
        constraint: what every sample has to fulfil; ``auto`` is ``formula`` where one is asked for, else ``parse``.
        elements: symbols that may be written, also as the hidden element; ``None`` for all.
        max_atoms: most atoms of a cell.
        min_distance: smallest distance in angstrom of two atoms, images included; ``None`` for any.
        max_new_tokens: most tokens of a sample.
        batch_size: samples written at the same time.
        engine: what runs the model.
        rules: names of what may be done to the host's sites (``v_S``); ``None`` for those of the training data.
        size: unit cells of the host's supercell along its three vectors; ``None`` for the usual size of the data.
        min_defects: fewest defects of a supercell.
        max_defects: most defects of a supercell.
        surrogate: runs of predictors that say which properties defects have; ``None`` for none.
        tolerance: largest error of a hit, in the properties' unit.
        top: how many of the best configurations a search is also judged by.
        pictures: crystals or configurations in the picture; 0 for none.
        progress_bar: show progress.
    """

    name: str
    ckpt: str | None = None
    n: int = 64
    seed: int = 42
    resume: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    constraint: Literal["auto", "none", "parse", "formula"] = "auto"
    elements: list[str] | None = None
    max_atoms: int = 20
    min_distance: float | None = None
    max_new_tokens: int = 512
    batch_size: int = 64
    engine: Literal["transformers", "vllm"] = "transformers"
    rules: list[str] | None = None
    size: list[int] | None = None
    min_defects: int = 1
    max_defects: int = 3
    surrogate: str | list[str] | None = None
    tolerance: float = 0.05
    top: int = 10
    pictures: int = 8
    progress_bar: bool = True


@dataclass(frozen=True)
class ConditionSettings:
    """What is asked of a crystal, or of a host with defects; ``None`` for nothing.

    Lists are values that the samples are asked for in turn.

    Attributes:
        formula: chemical formula; any whole multiple of it may be the cell's.
        spacegroup: number of the space group, 1 to 230.
        formation_energy_per_atom: eV.
        band_gap: eV.
        e_above_hull: energy above the convex hull in eV per atom.
        host: name of the host of the defects.
        formation_energy_per_site: energy of formation of the defects by their number, eV.
        formation_energy: energy of formation of all defects of the supercell, eV.
        energy_per_atom: total energy in eV per atom.
        energy: total energy of the supercell, eV.
        fermi_level: eV.
        homo: highest occupied level, eV.
        lumo: lowest unoccupied level, eV.
        homo_lumo_gap: gap between the two, eV.
        total_mag: magnetic moment of the supercell in Bohr magnetons.
    """

    formula: str | None = None
    spacegroup: int | None = None
    formation_energy_per_atom: float | None = None
    band_gap: float | None = None
    e_above_hull: float | None = None
    host: str | None = None
    formation_energy_per_site: float | list[float] | None = None
    formation_energy: float | list[float] | None = None
    energy_per_atom: float | list[float] | None = None
    energy: float | list[float] | None = None
    fermi_level: float | list[float] | None = None
    homo: float | list[float] | None = None
    lumo: float | list[float] | None = None
    homo_lumo_gap: float | list[float] | None = None
    total_mag: float | list[float] | None = None


@dataclass(frozen=True)
class InfillSettings:
    """A crystal with an element to be replaced; ``None`` for new crystals.

    Attributes:
        structure: file of the crystal.
        element: symbol of the element that is hidden from the model, at all its sites.
    """

    structure: str | None = None
    element: str | None = None


def generating_problems(tree: Mapping[str, Any], broken: set[str]) -> Iterator[Problem]:
    """Yield the problems of a generation's configuration.

    Args:
        tree: plain containers.
        broken: keys with a problem already.
    """
    condition, infill = tree.get("condition"), tree.get("infill")
    if broken or not isinstance(condition, dict) or not isinstance(infill, dict):
        return
    asked = [name for name, value in condition.items() if value is not None]
    if tree["ckpt"] is None and tree["data"] is None:
        remedy = "ckpt=RUN, or data=2dmd for the newest run on that data set"
        yield Problem("ckpt", "a model is needed here", remedy)
    yield from _infill_problems(infill, asked)
    yield from _defect_problems(tree)
    if tree["constraint"] == "formula" and "formula" not in asked:
        yield Problem("constraint", "no formula is asked for", "add condition.formula=..., or constraint=parse")
    if tree["constraint"] == "none" and tree["elements"] is not None:
        yield Problem("elements", "without a constraint any element may be written", "constraint=parse")
    if tree["min_distance"] is not None:
        yield from _distance_problems(tree)
    of_defects = tree["data"] is not None or bool(_DEFECT_KEYS & {*asked, *(key for key in tree if tree[key])})
    needed = ["spglib"] if of_defects else ["smact", *(["spglib"] if "spacegroup" in asked else [])]
    if missing := [name for name in needed if not is_installed(name)]:
        yield Problem("ckpt", f"judging what is written needs {', '.join(missing)}", install_command("generate"))
    if tree["engine"] == "vllm" and not is_installed("vllm"):
        remedy = "on a machine with a GPU: pip install 'vllm>=0.12', or engine=transformers"
        yield Problem("engine", "vllm is not installed", remedy)


_DEFECT_KEYS = frozenset({"rules", "size", "surrogate", "host", "homo_lumo_gap", "formation_energy_per_site"})
"""Keys that only a design of defects has, as far as they tell it before the model is read."""


def _defect_problems(tree: Mapping[str, Any]) -> Iterator[Problem]:
    if tree["min_defects"] > tree["max_defects"]:
        few, most = tree["min_defects"], tree["max_defects"]
        yield Problem("min_defects", f"{few} is more than max_defects={most}", f"min_defects={most} or less")
    if tree["surrogate"] is not None:
        runs = [tree["surrogate"]] if isinstance(tree["surrogate"], str) else tree["surrogate"]
        for run in runs:
            if not Path(run).expanduser().exists():
                yield Problem("surrogate", f"{run}: no such file or folder", "give the run folder of a predictor")


def _distance_problems(tree: Mapping[str, Any]) -> Iterator[Problem]:
    if tree["constraint"] == "none":
        yield Problem("min_distance", "without a constraint atoms may be anywhere", "constraint=parse")
    if tree["infill"]["structure"] is not None:
        yield Problem("min_distance", "where a hidden element's atoms are is given", "leave it out")
    if tree["engine"] == "vllm":
        yield Problem("min_distance", "vLLM cannot be held to distances", "engine=transformers")


def _infill_problems(infill: Mapping[str, Any], asked: list[str]) -> Iterator[Problem]:
    structure, element = infill["structure"], infill["element"]
    if structure is None and element is None:
        return
    if structure is None:
        yield Problem("infill.structure", "a crystal that holds the element is needed here", "infill.structure=FILE")
    if element is None:
        yield Problem("infill.element", "the element to be replaced is needed here", "for instance infill.element=Na")
    if asked:
        names = ", ".join(f"condition.{name}" for name in asked)
        yield Problem("infill", f"a hidden element is asked for without conditions, here with {names}", "leave it out")
