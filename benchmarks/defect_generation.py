"""Configurations of defects a second: answers with the changed sites alone against answers with every site again.

Both sides are the same network with the same sampler and grammar, and write the same random configurations into the
same supercell: what is drawn is computed, and then replaced by the next token of the configuration's text. So weights
need not be trained (an untrained model puts all defects on the first sites, after which the rest of a full answer is
forced and costs nothing), and both sides do what a trained model would. A third side writes the full answers as a
plain sampler does, all tokens one by one, without a grammar.

    python benchmarks/defect_generation.py [--configurations 64] [--defects 3] [--threads 1] [--turns 3]
    python benchmarks/defect_generation.py --smollm2 --configurations 1 --turns 1 --no-plain    # minutes on a CPU
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crystalfm.assets.store import AssetStore
from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.chem.defects.hosts import find_host
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.defects.answers import read_answer, write_answer
from crystalfm.generation.defects.constraints import DefectConstraint
from crystalfm.generation.defects.prompts import DefectPromptSettings, defect_prompt
from crystalfm.generation.engines.transformers_engine import TransformersEngine
from crystalfm.generation.sampling import Request, SamplingSettings
from crystalfm.generation.writer import CrystalWriter
from crystalfm.models.language.build import language_model
from crystalfm.models.language.settings import settings_from_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalfm.generation.defects.constraints import AnyConstraint

TINY = {"_target_": "crystalfm.models.backbones.TinyBackbone", "name": "tiny"}
HEADER = f"{'side':24s} configs    conf/s  conf/CPU s  tokens    drawn  tokens/s"


@dataclass(frozen=True)
class Turn:
    """What a side wrote.

    Attributes:
        count: configurations.
        wall: seconds.
        cpu: seconds of computing, of all threads.
        tokens: tokens of a configuration.
        drawn: how many of them were drawn.
    """

    count: int
    wall: float
    cpu: float
    tokens: float
    drawn: float

    def row(self, name: str) -> str:
        """Return a row of the table."""
        return (
            f"{name:24s} {self.count:7d} {self.count / self.wall:9.2f} {self.count / self.cpu:11.2f}"
            f" {self.tokens:7.0f} {self.drawn:8.1f} {self.tokens * self.count / self.wall:9.0f}"
        )


def fresh_writer(answer: str, arguments: argparse.Namespace) -> CrystalWriter:
    """Return a model with fresh weights, or those of SmolLM2."""
    host = find_host(arguments.host)
    # Each element may go, or be replaced by tungsten or selenium: of MoS2 2DMD's rules, and two more.
    names = [f"{added}_{element}" for element in host.elements for added in ("v", "W", "Se") if added != element]
    settings = DefectPromptSettings((host,), {host.name: parse_rules(names)}, "full" if answer == "full" else "edits")
    torch.manual_seed(arguments.seed)
    if arguments.smollm2:
        store = AssetStore(
            os.environ.get("CRYSTALFM_CACHE", "~/.cache/crystalfm"), mirror=os.environ.get("CRYSTALFM_MIRROR")
        )
        built = language_model(settings_from_node(smollm2_node()), settings, store)
    else:
        built = language_model(settings_from_node(TINY), settings, None)
    return CrystalWriter(built.model.eval(), built.tokenizer, settings)


def smollm2_node() -> dict[str, Any]:
    """Return the shipped node of SmolLM2-135M."""
    from hydra import compose, initialize_config_dir

    from crystalfm.config.location import conf_folder

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return dict(compose("train", overrides=["llm=smollm2_135m"]).llm)


class ScriptedEngine(TransformersEngine):
    """A sampler that draws, and writes what it is told.

    Args:
        writer: the model.
        texts: text of each request, by its index.
    """

    def __init__(self, writer: CrystalWriter, texts: Sequence[str]) -> None:
        super().__init__(writer)
        self.scripts = [writer.completion_ids(text) for text in texts]

    def _step(self, active: Any, cache: Any, settings: SamplingSettings) -> tuple[list[int], list[float]]:
        _, logs = super()._step(active, cache, settings)
        return [self.scripts[text.request.index][text.state.num_tokens] for text in active], logs


def write(writer: CrystalWriter, arguments: argparse.Namespace, *, held: bool = True) -> Turn:
    """Write configurations, under the grammar or without one."""
    settings = writer.prompts
    if not isinstance(settings, DefectPromptSettings):
        raise TypeError("a writer of defects")
    supercell, rules = settings.supercell(arguments.host), settings.rules_of(arguments.host)
    rng = np.random.default_rng(arguments.seed)
    count = arguments.configurations
    wanted = [random_configuration(supercell, rules, arguments.defects, rng) for _ in range(count)]
    engine = ScriptedEngine(writer, [write_answer(each, supercell, settings) for each in wanted])
    asked: AnyConstraint = Constraint("none")
    if held:
        asked = DefectConstraint(supercell, rules, arguments.defects, arguments.defects)
    prompt = defect_prompt(supercell, rules, {}, settings)
    requests = [Request(index, prompt, "defects", asked) for index in range(count)]
    longest = max(map(len, engine.scripts))
    # The grammar keeps room for the longest answers; a plain sampler needs none.
    room = longest * (2 if held else 1)
    sampling = SamplingSettings(max_new_tokens=room, seed=arguments.seed, batch_size=arguments.batch)
    wall, cpu = time.perf_counter(), time.process_time()
    samples = list(engine.sample(requests, sampling))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for sample in samples:
        if read_answer(sample.text, supercell, settings) != wanted[sample.index]:
            raise RuntimeError(f"{sample.text!r} is not what was to be written")
    tokens, forced = (sum(getattr(sample, name) for sample in samples) for name in ("num_tokens", "num_forced"))
    return Turn(count, wall, cpu, tokens / count, (tokens - forced) / count)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="MoS2")
    parser.add_argument("--configurations", type=int, default=64)
    parser.add_argument("--defects", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3, help="the best of so many turns of each side counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M in place of a model from scratch")
    parser.add_argument("--no-plain", action="store_true", help="leave out the side without a grammar")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    writers = {answer: fresh_writer(answer, arguments) for answer in ("edits", "full")}
    size = sum(parameter.numel() for parameter in writers["edits"].model.parameters())
    print(f"{arguments.host}, {arguments.defects} defects, {size / 1e6:.1f} M parameters, {arguments.threads} threads")
    print(HEADER, flush=True)
    sides = {"edits": ("edits", True), "full": ("full", True)}
    if not arguments.no_plain:
        sides["full, no grammar"] = ("full", False)
    best: dict[str, Turn] = {}
    for _ in range(arguments.turns):
        for name, (answer, held) in sides.items():
            turn = write(writers[answer], arguments, held=held)
            best[name] = max(best.get(name, turn), turn, key=lambda each: each.count / each.wall)
    for name, turn in best.items():
        print(turn.row(name))
    edits = best.pop("edits")
    for name, turn in best.items():
        by_clock = (edits.count / edits.wall) / (turn.count / turn.wall)
        by_cpu = (edits.count / edits.cpu) / (turn.count / turn.cpu)
        print(f"edits over {name}: {by_clock:.1f} by the clock, {by_cpu:.1f} by CPU seconds")


if __name__ == "__main__":
    main()
