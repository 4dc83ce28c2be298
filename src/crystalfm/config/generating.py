"""What ``generate.yaml`` holds, and what of it goes together."""

from __future__ import annotations

from dataclasses import dataclass
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
        ckpt: run folder, checkpoint file or exported folder of a model that writes crystals.
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
        pictures: crystals in the picture; 0 for none.
        progress_bar: show progress.
    """

    name: str
    ckpt: str
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
    pictures: int = 8
    progress_bar: bool = True


@dataclass(frozen=True)
class ConditionSettings:
    """What is asked of a crystal; ``None`` for nothing.

    Attributes:
        formula: chemical formula; any whole multiple of it may be the cell's.
        spacegroup: number of the space group, 1 to 230.
        formation_energy_per_atom: eV.
        band_gap: eV.
        e_above_hull: energy above the convex hull in eV per atom.
    """

    formula: str | None = None
    spacegroup: int | None = None
    formation_energy_per_atom: float | None = None
    band_gap: float | None = None
    e_above_hull: float | None = None


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
    yield from _infill_problems(infill, asked)
    if tree["constraint"] == "formula" and "formula" not in asked:
        yield Problem("constraint", "no formula is asked for", "add condition.formula=..., or constraint=parse")
    if tree["constraint"] == "none" and tree["elements"] is not None:
        yield Problem("elements", "without a constraint any element may be written", "constraint=parse")
    if tree["min_distance"] is not None:
        yield from _distance_problems(tree)
    needed = ["smact", *(["spglib"] if "spacegroup" in asked else [])]
    if missing := [name for name in needed if not is_installed(name)]:
        yield Problem("ckpt", f"judging what is written needs {', '.join(missing)}", install_command("generate"))
    if tree["engine"] == "vllm" and not is_installed("vllm"):
        remedy = "on a machine with a GPU: pip install 'vllm>=0.12', or engine=transformers"
        yield Problem("engine", "vllm is not installed", remedy)


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
